// SPDX-License-Identifier: Apache-2.0
//! A client that reads answers as strictly as the strictest one: Cloud Hypervisor's own takes all between
//! `HTTP/1.1 ` and the end of the line for the number of the status, and a 204 must not have a length.

use std::io::{IoSlice, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::Value;

use crate::vm::PATIENCE;

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn json(&self) -> Result<Value> {
        ensure!(self.status == 200, "it was answered {self:?}");
        serde_json::from_str(&self.body).with_context(|| self.body.clone())
    }
}

/// One connection, which is kept.
pub(super) struct Client(pub(super) UnixStream);

impl Client {
    pub(super) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    /// A request that is answered 204.
    pub(super) fn done(&mut self, name: &str, body: &Value) -> Result<()> {
        self.done_with(name, body, &[])
    }

    pub(super) fn done_with(&mut self, name: &str, body: &Value, fds: &[OwnedFd]) -> Result<()> {
        let answer = self.ask_with("PUT", name, body, fds)?;
        ensure!(answer.status == 204, "{name} was answered {answer:?}");
        Ok(())
    }

    pub(super) fn info(&mut self) -> Result<Value> {
        self.ask("GET", "vm.info", &Value::Null)?.json()
    }

    pub(super) fn ask(&mut self, method: &str, name: &str, body: &Value) -> Result<Answer> {
        self.ask_with(method, name, body, &[])
    }

    /// The head with the descriptors in one message, and the body behind it.
    pub(super) fn ask_with(
        &mut self,
        method: &str,
        name: &str,
        body: &Value,
        fds: &[OwnedFd],
    ) -> Result<Answer> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let len = body.len();
        let head = format!(
            "{method} /api/v1/{name} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\
             Content-Length: {len}\r\n\r\n"
        );
        let numbers: Vec<_> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let rights = if fds.is_empty() {
            &rights[..0]
        } else {
            &rights[..]
        };
        let parts = [IoSlice::new(head.as_bytes())];
        let sent = sendmsg::<()>(self.0.as_raw_fd(), &parts, rights, MsgFlags::empty(), None)?;
        ensure!(sent == head.len(), "{sent} bytes were sent");
        self.0.write_all(body.as_bytes())?;
        self.answer().with_context(|| format!("{method} {name}"))
    }

    /// Sends bytes as they are, and reads one answer.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<Answer> {
        // A server that has refused the head need not take the rest.
        let _ = self.0.write_all(bytes);
        self.answer()
    }

    fn answer(&mut self) -> Result<Answer> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            ensure!(self.0.read(&mut byte)? == 1, "it broke off after {head:?}");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head)?;
        let line = head.strip_prefix("HTTP/1.1 ").context("no answer")?;
        let status = line.split('\r').next().unwrap_or_default().trim();
        let status = status.parse().with_context(|| head.clone())?;
        let length = head.split_once("\r\nContent-Length: ");
        let length = length.and_then(|(_, rest)| rest.split('\r').next());
        ensure!(length.is_some() != (status == 204), "the head is {head:?}");
        let len = length.map_or(Ok(0), str::parse)?;
        let mut body = vec![0; len];
        self.0.read_exact(&mut body)?;
        let body = String::from_utf8(body)?;
        Ok(Answer { status, body })
    }
}
