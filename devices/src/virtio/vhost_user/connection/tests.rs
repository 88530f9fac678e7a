// SPDX-License-Identifier: Apache-2.0
//! A connection whose other end a test holds.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;

const CODE: FrontendReq = FrontendReq::GET_FEATURES;

fn pair() -> (Connection, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Connection::new(ours.into()), theirs)
}

fn request(body: &[u8]) -> Request<'_> {
    Request {
        code: CODE,
        body,
        fds: &[],
    }
}

/// What a backend answers: the header's words, and the body.
fn answer(code: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap();
    let words = [code, flags, len].map(u32::to_ne_bytes);
    [words.as_flattened(), body].concat()
}

#[test]
fn request_has_its_code_its_flags_and_its_length() {
    let (connection, mut theirs) = pair();
    let commands = CommandSlot::new().unwrap();
    let deadline = Deadline::new(&commands, Duration::from_secs(10));
    connection.tell(request(&[7; 9]), deadline).unwrap();
    let mut received = [0; HEADER_LEN + 9];
    theirs.read_exact(&mut received).unwrap();
    assert_eq!(received[..], answer(u32::from(CODE), 1, &[7; 9]));
    theirs
        .write_all(&answer(u32::from(CODE), 5, &[0; 8]))
        .unwrap();
    connection.set(request(&[7; 9]), deadline).unwrap();
    theirs.read_exact(&mut received).unwrap();
    let needs_reply = 1 | 1 << 3;
    assert_eq!(received[..], answer(u32::from(CODE), needs_reply, &[7; 9]));
}

#[test]
fn request_that_the_backend_does_not_read_ends_with_patience() {
    let (connection, _theirs) = pair();
    let commands = CommandSlot::new().unwrap();
    // Long enough for the first part to be sent.
    let timeout = Duration::from_secs(1);
    let body = vec![0; 1 << 20]; // more than a socket holds
    let outcome = connection.tell(request(&body), Deadline::new(&commands, timeout));
    let silent = PeerFault::Silent {
        request: CODE,
        timeout,
    };
    assert!(matches!(outcome, Err(LinkError::Peer(fault)) if fault == silent));
}

#[test]
fn request_longer_than_a_socket_s_buffer_arrives_whole() {
    let (connection, mut theirs) = pair();
    let commands = CommandSlot::new().unwrap();
    let deadline = Deadline::new(&commands, Duration::from_secs(10));
    let body: Vec<u8> = (0..=250).cycle().take(2 << 20).collect();
    let expected = answer(u32::from(CODE), 1, &body);
    let mut received = vec![0; expected.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| theirs.read_exact(&mut received).unwrap());
        connection.tell(request(&body), deadline).unwrap();
    });
    assert!(received == expected);
}

#[test]
fn answer_must_be_a_reply_to_the_request_of_this_version() {
    let commands = CommandSlot::new().unwrap();
    let deadline = Deadline::new(&commands, Duration::from_secs(10));
    let code = u32::from(CODE);
    let cases = [
        (code, 1 | 4, 8, true),
        (code, 1 | 4 | 8, 8, true),
        (code + 1, 1 | 4, 8, false),
        (code, 1, 8, false),
        (code, 1 | 8, 8, false),
        (code, 4, 8, false),
        (code, 2 | 4, 8, false),
        (code, 3 | 4, 8, false),
        (code, 1 | 4, 7, false),
        (code, 1 | 4, 9, false),
        (code, 1 | 4, 0, false),
    ];
    for (code, flags, len, is_good) in cases {
        let (connection, mut theirs) = pair();
        theirs
            .write_all(&answer(code, flags, &vec![9; len]))
            .unwrap();
        let mut value = [0; 8];
        let outcome = connection.get(request(&[]), &mut value, deadline);
        match is_good {
            true => assert!(outcome.is_ok() && value == [9; 8], "{code} {flags} {len}"),
            false => assert!(
                matches!(outcome, Err(LinkError::Peer(PeerFault::Malformed(CODE)))),
                "{code} {flags} {len}"
            ),
        }
    }
}

#[test]
fn status_that_is_not_zero_is_a_refusal() {
    let commands = CommandSlot::new().unwrap();
    let deadline = Deadline::new(&commands, Duration::from_secs(10));
    let (connection, mut theirs) = pair();
    let refusal = answer(u32::from(CODE), 5, &[0, 0, 0, 0, 0, 0, 0, 1]);
    theirs.write_all(&refusal).unwrap();
    let outcome = connection.set(request(&[]), deadline);
    assert!(matches!(
        outcome,
        Err(LinkError::Peer(PeerFault::Refused(CODE)))
    ));
}

#[test]
fn wait_for_something_that_never_comes_true_ends_with_patience() {
    let commands = CommandSlot::new().unwrap();
    let deadline = Deadline::new(&commands, Duration::from_millis(20));
    assert!(matches!(deadline.wait_until(|| true), Ok(true)));
    assert!(matches!(deadline.wait_until(|| false), Ok(false)));
    assert!(
        matches!(deadline.wait_until(|| true), Ok(true)),
        "a look is always taken"
    );
    let looks = std::cell::Cell::new(0);
    let deadline = Deadline::new(&commands, Duration::from_secs(10));
    let third = || {
        looks.set(looks.get() + 1);
        looks.get() == 3
    };
    assert!(matches!(deadline.wait_until(third), Ok(true)));
    assert_eq!(looks.get(), 3);
}

#[test]
fn connection_that_became_readable_unasked_is_closed_or_speaks() {
    let (connection, mut theirs) = pair();
    theirs.write_all(&[1]).unwrap();
    assert!(matches!(
        connection.unasked(),
        LinkError::Peer(PeerFault::Unasked)
    ));
    assert!(
        matches!(connection.unasked(), LinkError::Peer(PeerFault::Unasked)),
        "nothing came"
    );
    drop(theirs);
    assert!(matches!(
        connection.unasked(),
        LinkError::Peer(PeerFault::Closed)
    ));
}

#[test]
fn peer_gone_is_found_by_the_request_and_by_the_answer() {
    let commands = CommandSlot::new().unwrap();
    let deadline = Deadline::new(&commands, Duration::from_secs(10));
    let (connection, theirs) = pair();
    drop(theirs);
    let outcome = connection.tell(request(&[]), deadline);
    assert!(matches!(outcome, Err(LinkError::Peer(PeerFault::Closed))));
    let (connection, mut theirs) = pair();
    theirs
        .write_all(&answer(u32::from(CODE), 5, &[9; 8])[..15])
        .unwrap();
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    let outcome = connection.get(request(&[]), &mut [0; 8], deadline);
    assert!(matches!(outcome, Err(LinkError::Peer(PeerFault::Closed))));
    // Ours is unread when the other end goes.
    let (connection, theirs) = pair();
    connection.tell(request(&[]), deadline).unwrap();
    drop(theirs);
    let outcome = connection.get(request(&[]), &mut [0; 8], deadline);
    assert!(matches!(outcome, Err(LinkError::Peer(PeerFault::Closed))));
    let (connection, theirs) = pair();
    connection.tell(request(&[]), deadline).unwrap();
    drop(theirs);
    assert!(matches!(
        connection.unasked(),
        LinkError::Peer(PeerFault::Closed)
    ));
}
