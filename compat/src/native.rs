// SPDX-License-Identifier: Apache-2.0
//! The API of the VM itself (`spec::api`): one request for each connection.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use spec::api::Fault;

/// How long to wait for an answer; the supervisor's own deadlines are shorter.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer, in bytes.
const ANSWER_MAX_BYTES: u64 = 1 << 20;
/// The most headers of an answer.
const HEADERS_MAX: usize = 16;

/// Why the VM did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NativeError {
    /// The connection failed.
    #[error("The VM does not answer")]
    Io(#[from] io::Error),
    /// The answer is no answer.
    #[error("The VM answered what is not understood")]
    Malformed,
    /// It has refused the request.
    #[error("{0}")]
    Refused(String),
}

/// Where a VM's API is.
#[derive(Debug)]
pub struct Native {
    socket: PathBuf,
}

impl Native {
    /// That of the VM whose state directory is `dir`.
    pub fn new(dir: &std::path::Path) -> Self {
        let socket = dir.join(spec::state::API_SOCKET);
        Self { socket }
    }

    /// What is at `target`.
    ///
    /// # Errors
    /// When the VM cannot be asked, or refuses.
    pub fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, NativeError> {
        let body = self.ask("GET", target, "")?;
        serde_json::from_slice(&body).map_err(|_| NativeError::Malformed)
    }

    /// Has the VM do something.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn put(&self, target: &str, body: Option<&impl Serialize>) -> Result<(), NativeError> {
        let body = body.map(serde_json::to_string).transpose();
        let body = body.map_err(io::Error::from)?.unwrap_or_default();
        self.ask("PUT", target, &body).map(drop)
    }

    /// Asks for the VM's events, past and to come: an answer without an end.
    ///
    /// # Errors
    /// When the VM cannot be reached.
    pub fn events(&self) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    fn ask(&self, method: &str, target: &str, body: &str) -> Result<Vec<u8>, NativeError> {
        let len = body.len();
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Length: {len}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX_BYTES).read_to_end(&mut answer)?;
        match parse(&answer).ok_or(NativeError::Malformed)? {
            (200..=299, body) => Ok(body.to_vec()),
            (_, body) => {
                let fault: Fault =
                    serde_json::from_slice(body).map_err(|_| NativeError::Malformed)?;
                Err(NativeError::Refused(fault.error))
            }
        }
    }
}

/// The status and body of a complete answer.
fn parse(answer: &[u8]) -> Option<(u16, &[u8])> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    match parsed.parse(answer) {
        Ok(httparse::Status::Complete(len)) => Some((parsed.code?, answer.get(len..)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use serde_json::{Value, json};

    use super::*;

    /// A VM that gives one answer; what it was asked.
    fn answering(
        answer: &'static str,
    ) -> (Native, tempfile::TempDir, std::thread::JoinHandle<String>) {
        let dir = tempfile::tempdir().unwrap();
        let native = Native::new(dir.path());
        let listener = UnixListener::bind(&native.socket).unwrap();
        let vm = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut chunk = [0; 4096];
            let len = stream.read(&mut chunk).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&chunk[..len]).into_owned()
        });
        (native, dir, vm)
    }

    #[test]
    fn answer_is_read_and_a_refusal_is_told_in_the_vms_words() {
        let (native, _dir, vm) = answering("HTTP/1.1 200 OK\r\n\r\n{\"a\":1}");
        assert_eq!(native.get::<Value>("/v1/vm").unwrap(), json!({"a": 1}));
        assert!(vm.join().unwrap().starts_with("GET /v1/vm HTTP/1.1\r\n"));

        let (native, _dir, vm) = answering("HTTP/1.1 409 Conflict\r\n\r\n{\"error\":\"paused\"}");
        let refused = native
            .put("/v1/vm/stop", Some(&json!({"force": true})))
            .unwrap_err();
        assert_eq!(refused.to_string(), "paused");
        assert!(vm.join().unwrap().ends_with("\r\n\r\n{\"force\":true}"));
    }

    #[test]
    fn vm_that_is_gone_or_talks_nonsense_is_an_error() {
        let gone = Native::new(std::path::Path::new("/nonexistent"));
        assert!(matches!(gone.get::<Value>("/"), Err(NativeError::Io(_))));
        let (native, _dir, vm) = answering("nonsense");
        assert!(matches!(
            native.get::<Value>("/"),
            Err(NativeError::Malformed)
        ));
        vm.join().unwrap();
    }
}
