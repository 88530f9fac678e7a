// SPDX-License-Identifier: Apache-2.0
//! What a request asks for.

use serde::de::DeserializeOwned;
use spec::api::{Link, Restart, Stop};

use super::http::{Refusal, Request};

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// The VM as it is now.
    Info,
    /// What the VM has done so far.
    Stats,
    /// Power off, or end at once.
    Stop(Stop),
    /// Stop the vCPUs.
    Pause,
    /// Let them run.
    Resume,
    /// What has happened lately.
    Events,
    /// Another backend for a device.
    Restart(String, Restart),
    /// Another program for a device; its descriptor comes beside.
    Upgrade(String),
    /// The cable of a network card plugged in, or pulled.
    Link(String, Link),
}

impl Command {
    /// Whether it only looks.
    pub(crate) fn looks(&self) -> bool {
        matches!(self, Self::Info | Self::Stats | Self::Events)
    }
}

/// Where devices are.
const DEVICES: &str = "/v1/vm/devices/";

/// Makes a command of a request to its target.
type Handler = fn(&Request) -> Result<Command, Refusal>;

/// Finds out what a request asks for.
pub(crate) fn route(request: &Request) -> Result<Command, Refusal> {
    let (method, command): (_, Handler) = match request.target.as_str() {
        "/v1/vm" => ("GET", |r| without_body(r, Command::Info)),
        "/v1/stats" => ("GET", |r| without_body(r, Command::Stats)),
        "/v1/vm/stop" => ("PUT", stop),
        "/v1/vm/pause" => ("PUT", |r| without_body(r, Command::Pause)),
        "/v1/vm/resume" => ("PUT", |r| without_body(r, Command::Resume)),
        "/v1/vm/events" => ("GET", |r| without_body(r, Command::Events)),
        target if device(target, "restart").is_some() => ("PUT", restart),
        target if device(target, "upgrade").is_some() => ("PUT", upgrade),
        target if device(target, "link").is_some() => ("PUT", link),
        target => {
            let reason = format!("there is nothing at {target:?}");
            return Err(Refusal::new(404, reason));
        }
    };
    if request.method != method {
        let mut refusal = Refusal::new(405, format!("{:?} takes only {method}", request.target));
        refusal.allow = Some(method);
        return Err(refusal);
    }
    command(request)
}

fn without_body(request: &Request, command: Command) -> Result<Command, Refusal> {
    match request.body.is_empty() {
        true => Ok(command),
        false => {
            let reason = format!("{:?} takes no body", request.target);
            Err(Refusal::new(400, reason))
        }
    }
}

fn stop(request: &Request) -> Result<Command, Refusal> {
    body(request, "Stop").map(Command::Stop)
}

fn restart(request: &Request) -> Result<Command, Refusal> {
    let id = device(&request.target, "restart").unwrap_or_default();
    let body = body(request, "Restart")?;
    Ok(Command::Restart(id.into(), body))
}

fn upgrade(request: &Request) -> Result<Command, Refusal> {
    let id = device(&request.target, "upgrade").unwrap_or_default();
    without_body(request, Command::Upgrade(id.into()))
}

fn link(request: &Request) -> Result<Command, Refusal> {
    let id = device(&request.target, "link").unwrap_or_default();
    let body = parse(request, "Link")?;
    Ok(Command::Link(id.into(), body))
}

/// The device in a target that ends in a verb.
fn device<'a>(target: &'a str, verb: &str) -> Option<&'a str> {
    let (id, found) = target.strip_prefix(DEVICES)?.split_once('/')?;
    (found == verb && !id.is_empty()).then_some(id)
}

/// The body, or what there is without one.
fn body<T: DeserializeOwned + Default>(request: &Request, name: &str) -> Result<T, Refusal> {
    if request.body.is_empty() {
        return Ok(T::default());
    }
    parse(request, name)
}

/// The body, without which there is nothing to do.
fn parse<T: DeserializeOwned>(request: &Request, name: &str) -> Result<T, Refusal> {
    serde_json::from_slice(&request.body)
        .map_err(|error| Refusal::new(400, format!("the body is no {name}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, target: &str, body: &str) -> Request {
        Request {
            method: method.into(),
            target: target.into(),
            body: body.into(),
            keep_alive: true,
            len: 0,
        }
    }

    #[test]
    fn request_known_is_understood() {
        for (method, target, body, command) in [
            ("GET", "/v1/vm", "", Command::Info),
            ("GET", "/v1/stats", "", Command::Stats),
            ("PUT", "/v1/vm/pause", "", Command::Pause),
            ("PUT", "/v1/vm/resume", "", Command::Resume),
            (
                "PUT",
                "/v1/vm/stop",
                "",
                Command::Stop(Stop { force: false }),
            ),
            (
                "PUT",
                "/v1/vm/stop",
                "{}",
                Command::Stop(Stop { force: false }),
            ),
            (
                "PUT",
                "/v1/vm/stop",
                r#"{"force":true}"#,
                Command::Stop(Stop { force: true }),
            ),
            ("GET", "/v1/vm/events", "", Command::Events),
            (
                "PUT",
                "/v1/vm/devices/disk0/restart",
                r#"{"wait":true}"#,
                Command::Restart("disk0".into(), Restart { wait: true }),
            ),
            (
                "PUT",
                "/v1/vm/devices/disk0/upgrade",
                "",
                Command::Upgrade("disk0".into()),
            ),
            (
                "PUT",
                "/v1/vm/devices/net0/link",
                r#"{"up":false}"#,
                Command::Link("net0".into(), Link { up: false }),
            ),
        ] {
            assert_eq!(route(&request(method, target, body)), Ok(command));
        }
    }

    #[test]
    fn request_unknown_is_refused_by_its_fault() {
        for (method, target, body, status, allow) in [
            ("GET", "/", "", 404, None),
            ("GET", "/v1/vm/", "", 404, None),
            ("GET", "/v1/vm?x=1", "", 404, None),
            ("PUT", "/v1/vm/devices/disk0/paint", "", 404, None),
            ("PUT", "/v1/vm/devices//restart", "", 404, None),
            ("PUT", "/v1/vm/devices/a/b/restart", "", 404, None),
            ("PUT", "/v1/vm/devices/a/restart", "{", 400, None),
            ("PUT", "/v1/vm/devices/a/link", "", 400, None),
            ("PUT", "/v1/vm/devices/a/link", "{}", 400, None),
            ("GET", "/v1/vm/devices/a/restart", "", 405, Some("PUT")),
            ("POST", "/v1/vm", "", 405, Some("GET")),
            ("GET", "/v1/vm/stop", "", 405, Some("PUT")),
            ("put", "/v1/vm/stop", "", 405, Some("PUT")),
            ("PUT", "/v1/vm/stop", "{", 400, None),
            ("PUT", "/v1/vm/stop", r#"{"forse":true}"#, 400, None),
            ("PUT", "/v1/vm/stop", r#"{"force":1}"#, 400, None),
            ("PUT", "/v1/vm/pause", "{}", 400, None),
        ] {
            let refusal = route(&request(method, target, body)).unwrap_err();
            assert_eq!((refusal.status, refusal.allow), (status, allow), "{target}");
        }
    }
}
