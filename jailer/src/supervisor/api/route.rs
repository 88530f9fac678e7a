// SPDX-License-Identifier: Apache-2.0
//! What a request asks for.

use spec::api::Stop;

use super::http::{Refusal, Request};

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// The VM as it is now.
    Info,
    /// Power off, or end at once.
    Stop(Stop),
    /// Stop the vCPUs.
    Pause,
    /// Let them run.
    Resume,
}

/// Makes a command of a request to its target.
type Handler = fn(&Request) -> Result<Command, Refusal>;

/// Finds out what a request asks for.
pub(crate) fn route(request: &Request) -> Result<Command, Refusal> {
    let (method, command): (_, Handler) = match request.target.as_str() {
        "/v1/vm" => ("GET", |r| without_body(r, Command::Info)),
        "/v1/vm/stop" => ("PUT", stop),
        "/v1/vm/pause" => ("PUT", |r| without_body(r, Command::Pause)),
        "/v1/vm/resume" => ("PUT", |r| without_body(r, Command::Resume)),
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
    if request.body.is_empty() {
        return Ok(Command::Stop(Stop::default()));
    }
    match serde_json::from_slice(&request.body) {
        Ok(stop) => Ok(Command::Stop(stop)),
        Err(error) => Err(Refusal::new(400, format!("the body is no Stop: {error}"))),
    }
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
