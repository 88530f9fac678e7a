// SPDX-License-Identifier: Apache-2.0
//! Follows the VM's events: lines of JSON in chunks (RFC 9112, 7.1), read as they come.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use spec::api::{Event, EventKind};

/// The most input that is kept: an event is much shorter.
const INPUT_MAX_BYTES: usize = 256 << 10;

/// The VM's events.
#[derive(Debug)]
pub struct Follower {
    stream: UnixStream,
    decoder: Decoder,
    over: bool,
}

impl Follower {
    /// Follows the answer on a stream that does not block.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            decoder: Decoder::default(),
            over: false,
        }
    }

    /// Whether nothing more comes.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// What has happened since the last time.
    pub fn read(&mut self) -> Vec<EventKind> {
        let mut events = Vec::new();
        let mut chunk = [0; 4096];
        while !self.over {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.over = true,
                Ok(len) => match self.decoder.add(&chunk[..len]) {
                    Some(new) => events.extend(new),
                    None => self.over = true,
                },
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.over = true,
            }
        }
        events
    }
}

impl AsFd for Follower {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Takes the answer apart, wherever it is cut.
#[derive(Debug, Default)]
pub struct Decoder {
    input: Vec<u8>,
    lines: Vec<u8>,
    in_body: bool,
    /// The last chunk, an empty one, has come.
    is_whole: bool,
}

impl Decoder {
    /// Adds input, and returns the events that it completes; `None` if it is no such answer, or too
    /// long.
    pub fn add(&mut self, input: &[u8]) -> Option<Vec<EventKind>> {
        self.input.extend_from_slice(input);
        if !self.in_body {
            let head = self.input.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(head) = head {
                self.input.drain(..head + 4);
                self.in_body = true;
            }
        }
        while self.in_body && !self.is_whole && self.take_chunk()? {}
        if self.input.len() + self.lines.len() > INPUT_MAX_BYTES {
            return None;
        }
        Some(self.take_events())
    }

    /// Moves a chunk to the lines, if there is a whole one.
    fn take_chunk(&mut self) -> Option<bool> {
        match httparse::parse_chunk_size(&self.input) {
            Ok(httparse::Status::Complete((start, size))) => {
                let end = start.checked_add(usize::try_from(size).ok()?)?;
                if self.input.len() < end.checked_add(2)? {
                    return Some(false);
                }
                self.lines.extend_from_slice(&self.input[start..end]);
                self.input.drain(..end + 2);
                self.is_whole = size == 0;
                Some(!self.is_whole)
            }
            Ok(httparse::Status::Partial) => Some(false),
            Err(_) => None,
        }
    }

    fn take_events(&mut self) -> Vec<EventKind> {
        let Some(end) = self.lines.iter().rposition(|&byte| byte == b'\n') else {
            return Vec::new();
        };
        let whole: Vec<u8> = self.lines.drain(..=end).collect();
        let lines = whole.split(|&byte| byte == b'\n');
        // What a later version tells, and this one does not know, is nothing to the dialect.
        let events = lines.filter_map(|line| serde_json::from_slice::<Event>(line).ok());
        events.map(|event| event.kind).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Vec<u8> {
        let line = |number: u32, kind: &str| {
            format!("{{\"number\":{number},\"time_ns\":1,\"kind\":\"{kind}\"}}\n")
        };
        let mut answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        for text in [
            line(1, "started") + &line(2, "paused")[..9],
            line(2, "paused")[9..].to_owned(),
            line(3, "of-a-later-version"),
            line(4, "rebooted"),
        ] {
            answer += &format!("{:x}\r\n{text}\r\n", text.len());
        }
        answer.into_bytes()
    }

    #[test]
    fn events_are_the_same_wherever_the_answer_is_cut() {
        let answer = answer();
        for cut in 0..answer.len() {
            let mut decoder = Decoder::default();
            let mut events = decoder.add(&answer[..cut]).unwrap();
            events.extend(decoder.add(&answer[cut..]).unwrap());
            let wanted = [EventKind::Started, EventKind::Paused, EventKind::Rebooted];
            assert_eq!(events, wanted, "{cut}");
        }
    }

    #[test]
    fn answer_that_is_none_or_endless_is_given_up() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.add(b"HTTP/1.1 200 OK\r\n\r\nzz\r\n"), None);
        let mut decoder = Decoder::default();
        assert_eq!(decoder.add(&vec![b'x'; INPUT_MAX_BYTES + 1]), None);
    }
}
