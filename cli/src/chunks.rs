// SPDX-License-Identifier: Apache-2.0
//! A response of a VM that lasts as long as the VM: chunks (RFC 9112, 7.1).

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use spec::VmName;
use spec::api::Fault;

use crate::client::ClientError;

/// The longest line of a response's head, and the longest chunk, in bytes.
const LINE_MAX_BYTES: u64 = 64 << 10;

/// The response, read chunk by chunk.
#[derive(Debug)]
pub(crate) struct Chunks<'a> {
    stream: BufReader<UnixStream>,
    vm: &'a VmName,
}

impl<'a> Chunks<'a> {
    /// Asks for what is at `target`.
    pub(crate) fn begin(
        mut stream: UnixStream,
        vm: &'a VmName,
        target: &str,
    ) -> Result<Self, ClientError> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let written = stream.write_all(request.as_bytes());
        written.map_err(|e| ClientError::Io(vm.to_string(), e))?;
        let mut chunks = Self {
            stream: BufReader::new(stream),
            vm,
        };
        let status = chunks.line()?;
        while !chunks.line()?.is_empty() {}
        match status.split(' ').nth(1) {
            Some("200") => Ok(chunks),
            _ => Err(chunks.refusal()),
        }
    }

    /// The VM's error response.
    fn refusal(mut self) -> ClientError {
        let mut body = String::new();
        let read = (&mut self.stream).take(LINE_MAX_BYTES).read_line(&mut body);
        match read.map(|_| serde_json::from_str::<Fault>(&body)) {
            Ok(Ok(fault)) => ClientError::Refused(self.vm.to_string(), fault.error),
            _ => self.malformed(),
        }
    }

    pub(crate) fn malformed(&self) -> ClientError {
        ClientError::Malformed(self.vm.to_string())
    }

    /// The next chunk; `None` if the VM has ended.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        let size = self.line()?;
        let size = u64::from_str_radix(&size, 16).map_err(|_| self.malformed())?;
        let mut chunk = Vec::new();
        let read = (&mut self.stream)
            .take(size.min(LINE_MAX_BYTES))
            .read_to_end(&mut chunk);
        read.map_err(|e| ClientError::Io(self.vm.to_string(), e))?;
        match (size, self.line()?.is_empty()) {
            (0, true) => Ok(None),
            (_, true) => Ok(Some(chunk)),
            (_, false) => Err(self.malformed()),
        }
    }

    /// Reads a line, without its end.
    fn line(&mut self) -> Result<String, ClientError> {
        let mut line = String::new();
        let read = (&mut self.stream).take(LINE_MAX_BYTES).read_line(&mut line);
        read.map_err(|e| ClientError::Io(self.vm.to_string(), e))?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.into()),
            // The VM's supervisor was killed, or has dropped us.
            None => Err(ClientError::BrokenOff(self.vm.to_string())),
        }
    }
}
