// SPDX-License-Identifier: Apache-2.0
//! Requests to the program `cloud-hypervisor`, one behind the other: never more is taken than was sent, a
//! request is the same however its bytes arrive, every answer is one that the strictest client reads, and
//! a document that was accepted is told back and becomes a VM. What is no request is also read as options
//! of the command line and as events of the VM.

use compat::endpoints::{Action, find};
use compat::follower::Decoder;
use compat::http::{Answer, Parsed, parse};
use compat::machine::{Machine, Manner};
use compat::monitor::Monitor;
use compat::options;

/// The options whose values have keys, or a form of their own.
const OPTIONS: [&str; 8] = [
    "cpus", "memory", "disk", "net", "fs", "rng", "vsock", "serial",
];

pub(crate) fn run(data: &[u8]) {
    let mut machine = Machine::new(
        Manner {
            name: "fuzz".parse().unwrap(),
            asks_guest: false,
            stays: false,
        },
        Monitor::none(),
    );
    let mut rest = data;
    while machine.exit().is_none() {
        match parse(rest) {
            Ok(Parsed::Whole(request)) => {
                assert!(request.len <= rest.len() && request.len > 0);
                let less = parse(&rest[..request.len - 1]);
                assert!(
                    matches!(less, Ok(Parsed::Partial { .. })),
                    "complete without its last byte"
                );
                rest = &rest[request.len..];
                match find(&request) {
                    // It would start a jailer.
                    Ok(Action::Boot) => {}
                    Ok(action) => check(&machine.serve(action, &request.body, Vec::new())),
                    Err(fault) => check(&Answer::Refused(fault)),
                }
            }
            Ok(Parsed::Partial { .. }) => break,
            Err(fault) => {
                check(&Answer::Refused(fault));
                break;
            }
        }
    }
    if let Answer::Json(info) = machine.serve(Action::Info, b"", Vec::new()) {
        assert!(info["config"]["payload"].is_object() && info["state"] == "Created");
    }
    words(rest);
}

/// An answer as the strictest client reads it.
fn check(answer: &Answer) {
    let text = String::from_utf8(answer.encode(true)).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let line = head.strip_prefix("HTTP/1.1 ").unwrap();
    let status: u16 = line.split('\r').next().unwrap().trim().parse().unwrap();
    let length = format!("Content-Length: {}", body.len());
    assert_eq!(head.contains(&length), status != 204);
    match answer {
        Answer::Refused(_) => assert!(
            !serde_json::from_str::<Vec<String>>(body)
                .unwrap()
                .is_empty()
        ),
        Answer::Json(_) => drop(serde_json::from_str::<serde_json::Value>(body).unwrap()),
        Answer::Done => assert!(body.is_empty()),
    }
}

fn words(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        for option in OPTIONS {
            if let Ok(mut part) = options::part(option, text) {
                assert!(part.is_object());
                let _ = options::take_fds(&mut part);
                assert!(part.get("fd").is_none() || option != "net");
            }
        }
    }
    let middle = data.len() / 2;
    let mut whole = Decoder::default();
    let mut cut = Decoder::default();
    let at_once = whole.add(data);
    let first = cut.add(&data[..middle]);
    let in_parts = first.and_then(|first| Some([first, cut.add(&data[middle..])?].concat()));
    assert_eq!(at_once, in_parts, "they depend on where it is cut");
}
