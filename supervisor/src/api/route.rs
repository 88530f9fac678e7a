// SPDX-License-Identifier: Apache-2.0
//! Turns a request into a command.

use serde::de::DeserializeOwned;
use spec::api::{Link, Reboot, Restart, Stop};

use super::http::{Refusal, Request};

/// What a client asks for.
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
    /// Let the vCPUs run again.
    Resume,
    /// The latest events.
    Events,
    /// The latest events, and those to come.
    Follow,
    /// The last of what the guest has written to its console.
    Console,
    /// The same, and what it goes on to write.
    FollowConsole,
    /// Start the guest anew.
    Reboot(Reboot),
    /// Replace a device's backend.
    Restart(String, Restart),
    /// Replace the program of a device's backend; a descriptor of the new one comes with the
    /// request.
    Upgrade(String),
    /// Plug a NIC's cable in, or pull it.
    Link(String, Link),
}

impl Command {
    /// Whether the command changes nothing.
    pub(crate) fn looks(&self) -> bool {
        let events = matches!(self, Self::Events | Self::Follow);
        let console = matches!(self, Self::Console | Self::FollowConsole);
        events || console || matches!(self, Self::Info | Self::Stats)
    }
}

/// Turns a request into a command; the text is what stands for `{id}` in its target.
type Handler = fn(&Request, &str) -> Result<Command, Refusal>;

/// One route of the API.
#[derive(Debug)]
pub struct Route {
    /// Its method.
    pub method: &'static str,
    /// Its target, in which `{id}` stands for a device's name.
    pub path: &'static str,
    handler: Handler,
}

/// All routes of the API.
pub const ROUTES: &[Route] = &[
    get("/v1/vm", |r, _| without_body(r, Command::Info)),
    get("/v1/stats", |r, _| without_body(r, Command::Stats)),
    get("/v1/events", |r, _| follow(r, Command::Follow)),
    get("/v1/console", |r, _| follow(r, Command::FollowConsole)),
    get("/v1/vm/console", |r, _| without_body(r, Command::Console)),
    get("/v1/vm/events", |r, _| without_body(r, Command::Events)),
    put("/v1/vm/stop", |r, _| body(r, "Stop").map(Command::Stop)),
    put("/v1/vm/reboot", |r, _| {
        body(r, "Reboot").map(Command::Reboot)
    }),
    put("/v1/vm/pause", |r, _| without_body(r, Command::Pause)),
    put("/v1/vm/resume", |r, _| without_body(r, Command::Resume)),
    put("/v1/vm/devices/{id}/restart", |r, id| {
        body(r, "Restart").map(|restart| Command::Restart(id.into(), restart))
    }),
    put("/v1/vm/devices/{id}/upgrade", |r, id| {
        without_body(r, Command::Upgrade(id.into()))
    }),
    put("/v1/vm/devices/{id}/link", |r, id| {
        parse(r, "Link").map(|link| Command::Link(id.into(), link))
    }),
];

const fn get(path: &'static str, handler: Handler) -> Route {
    Route {
        method: "GET",
        path,
        handler,
    }
}

const fn put(path: &'static str, handler: Handler) -> Route {
    Route {
        method: "PUT",
        path,
        handler,
    }
}

impl Route {
    /// What stands for `{id}` in a target that matches this route; empty if the route has no
    /// `{id}`.
    fn id_in<'a>(&self, target: &'a str) -> Option<&'a str> {
        match self.path.split_once("{id}") {
            None => (target == self.path).then_some(""),
            Some((before, after)) => {
                let id = target.strip_prefix(before)?.strip_suffix(after)?;
                (!id.is_empty() && !id.contains('/')).then_some(id)
            }
        }
    }
}

/// Turns a request into a command.
pub(crate) fn route(request: &Request) -> Result<Command, Refusal> {
    let target = request.target.as_str();
    let mut known = ROUTES.iter().filter_map(|r| Some((r, r.id_in(target)?)));
    let Some((route, id)) = known.next() else {
        let reason = format!("there is nothing at {target:?}");
        return Err(Refusal::new(404, reason));
    };
    if request.method != route.method {
        let method = route.method;
        let mut refusal = Refusal::new(405, format!("{target:?} takes only {method}"));
        refusal.allow = Some(method);
        return Err(refusal);
    }
    (route.handler)(request, id)
}

fn follow(request: &Request, command: Command) -> Result<Command, Refusal> {
    match request.takes_chunks {
        true => without_body(request, command),
        false => Err(Refusal::new(505, "an answer without an end takes HTTP/1.1")),
    }
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

/// The parsed body, or the default if there is none.
fn body<T: DeserializeOwned + Default>(request: &Request, name: &str) -> Result<T, Refusal> {
    if request.body.is_empty() {
        return Ok(T::default());
    }
    parse(request, name)
}

/// The parsed body, which must be there.
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
            takes_chunks: true,
            len: 0,
        }
    }

    #[test]
    fn request_known_is_understood() {
        for (method, target, body, command) in [
            ("GET", "/v1/vm", "", Command::Info),
            ("GET", "/v1/stats", "", Command::Stats),
            ("GET", "/v1/events", "", Command::Follow),
            ("PUT", "/v1/vm/pause", "", Command::Pause),
            ("PUT", "/v1/vm/resume", "", Command::Resume),
            ("PUT", "/v1/vm/stop", "", Command::Stop(Stop::default())),
            ("PUT", "/v1/vm/stop", "{}", Command::Stop(Stop::default())),
            ("GET", "/v1/vm/events", "", Command::Events),
            ("GET", "/v1/vm/console", "", Command::Console),
            ("GET", "/v1/console", "", Command::FollowConsole),
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
    fn stop_and_reboot_say_how() {
        for (method, target, body, command) in [
            (
                "PUT",
                "/v1/vm/stop",
                r#"{"force":true}"#,
                Command::Stop(Stop {
                    force: true,
                    ..Stop::default()
                }),
            ),
            (
                "PUT",
                "/v1/vm/stop",
                r#"{"stop_timeout":30}"#,
                Command::Stop(Stop {
                    stop_timeout: Some(30),
                    ..Stop::default()
                }),
            ),
            (
                "PUT",
                "/v1/vm/reboot",
                "",
                Command::Reboot(Reboot::default()),
            ),
            (
                "PUT",
                "/v1/vm/reboot",
                r#"{"force":true}"#,
                Command::Reboot(Reboot {
                    force: true,
                    ..Reboot::default()
                }),
            ),
        ] {
            assert_eq!(route(&request(method, target, body)), Ok(command));
        }
    }

    #[test]
    fn route_is_the_only_one_for_its_target() {
        for route in ROUTES {
            let target = route.path.replace("{id}", "disk0");
            let same = ROUTES.iter().filter(|r| r.id_in(&target).is_some());
            assert_eq!(same.count(), 1, "{target}");
        }
    }

    #[test]
    fn events_are_not_for_clients_that_do_not_know_chunks() {
        for target in ["/v1/events", "/v1/console"] {
            let mut old = request("GET", target, "");
            old.takes_chunks = false;
            assert_eq!(route(&old).unwrap_err().status, 505);
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
            ("PUT", "/v1/vm/reboot", r#"{"forse":true}"#, 400, None),
        ] {
            let refusal = route(&request(method, target, body)).unwrap_err();
            assert_eq!((refusal.status, refusal.allow), (status, allow), "{target}");
        }
    }
}
