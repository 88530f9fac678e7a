// SPDX-License-Identifier: Apache-2.0
//! `bulkhead events`: recent events of a VM, and new ones.

use std::path::Path;
use std::time::{Duration, SystemTime};

use host::clock::monotonic_ns;
use spec::VmName;
use spec::api::Event;
use spec::state::API_SOCKET;

use crate::chunks::Chunks;
use crate::client::{self, ClientError};
use crate::error::Error;
use crate::output;

/// Shows the events of a VM; with `follow`, until it has ended.
pub(crate) fn events(base: &Path, vm: &VmName, follow: bool, json: bool) -> Result<(), Error> {
    let show = |event: &Event| output::print(&line(event, json)?);
    if !follow {
        let events = client::events(base, vm)?;
        return events.iter().try_for_each(show);
    }
    let stream = client::connect(base, vm, API_SOCKET)?;
    let mut chunks = Chunks::begin(stream, vm, "/v1/events")?;
    while let Some(event) = next(&mut chunks)? {
        show(&event)?;
    }
    Ok(())
}

fn line(event: &Event, json: bool) -> Result<String, Error> {
    if json {
        let text = serde_json::to_string(event);
        return Ok(text.map_err(|e| Error::output(e.into()))? + "\n");
    }
    let age = Duration::from_nanos(monotonic_ns().saturating_sub(event.time_ns));
    let time = SystemTime::now().checked_sub(age);
    Ok(describe(event, time.unwrap_or(SystemTime::UNIX_EPOCH)))
}

fn describe(event: &Event, time: SystemTime) -> String {
    let time = humantime::format_rfc3339_millis(time);
    let device = event.device.as_deref().unwrap_or("-");
    let (kind, detail) = (event.kind.as_str(), &event.detail);
    // The details come from the VM's processes: replace what a terminal would interpret.
    let line = format!("{time}  {device:8}  {kind:19} {detail}");
    format!("{}\n", host::output::harmless(&line).trim_end())
}

/// Reads the next event of a response that lasts as long as the VM; `None` if that has ended.
pub(crate) fn next(chunks: &mut Chunks<'_>) -> Result<Option<Event>, ClientError> {
    let chunk = chunks.next()?;
    let event = chunk.map(|chunk| serde_json::from_slice(&chunk));
    event.transpose().map_err(|_| chunks.malformed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::api::EventKind;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn answer(bytes: &[u8]) -> (Vec<Event>, String) {
        let vm = "vm".parse().unwrap();
        let (ours, mut its) = UnixStream::pair().unwrap();
        its.write_all(bytes).unwrap();
        its.shutdown(std::net::Shutdown::Write).unwrap();
        let mut chunks = match Chunks::begin(ours, &vm, "/v1/events") {
            Ok(chunks) => chunks,
            Err(error) => return (Vec::new(), error.to_string()),
        };
        let mut events = Vec::new();
        loop {
            match next(&mut chunks) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => return (events, "the end".into()),
                Err(error) => return (events, error.to_string()),
            }
        }
    }

    const HEAD: &str = "HTTP/1.1 200 OK\r\nX: y\r\n\r\n";
    const CHUNK: &str = "2a\r\n{\"number\":1,\"time_ns\":5,\"kind\":\"started\"}\n\r\n";

    #[test]
    fn events_come_one_by_one_to_the_end() {
        let (events, end) = answer(format!("{HEAD}{CHUNK}{CHUNK}0\r\n\r\n").as_bytes());
        assert_eq!((events.len(), end.as_str()), (2, "the end"));
        assert_eq!(events[0].kind, EventKind::Started);
    }

    #[test]
    fn events_that_break_off_anywhere_are_told() {
        let whole = format!("{HEAD}{CHUNK}0\r\n\r\n");
        for len in 0..whole.len() {
            let (events, end) = answer(&whole.as_bytes()[..len]);
            assert_eq!(end, "VM \"vm\": the connection broke off", "{len}");
            assert_eq!(events.len(), usize::from(len >= HEAD.len() + CHUNK.len()));
        }
    }

    #[test]
    fn answer_of_another_kind_is_told() {
        let refused = "HTTP/1.1 503 No\r\n\r\n{\"error\":\"too many\"}";
        assert_eq!(answer(refused.as_bytes()).1, "VM \"vm\": too many");
        for body in ["x\r\n", "3\r\nabc\r\n", "2a\r\n{}{}"] {
            let (_, end) = answer(format!("{HEAD}{body}{body}{body}").as_bytes());
            let told = end.contains("not understood") || end.contains("broke off");
            assert!(told, "{body}: {end}");
        }
    }

    #[test]
    fn event_is_one_line_whatever_is_in_it() {
        let event = Event {
            number: 3,
            time_ns: 0,
            kind: EventKind::BackendDied,
            device: Some("disk0".into()),
            detail: "was killed\n\x1b[2J".into(),
        };
        let line = describe(&event, SystemTime::UNIX_EPOCH);
        let wanted = "1970-01-01T00:00:00.000Z  disk0     backend-died        was killed  [2J\n";
        assert_eq!(line, wanted);
    }
}
