// SPDX-License-Identifier: Apache-2.0
//! The server and clients that are in no hurry, in too much of one, or too many.

use super::connection::STEP_NS;
use super::*;
use crate::console::History;
use crate::event_log::EventLog;
use spec::api::{EVENTS_MAX, EventKind};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

struct Scene {
    server: Server,
    path: std::path::PathBuf,
    _dir: tempfile::TempDir,
    now_ns: u64,
    event_log: EventLog,
    console: History,
}

fn sources<'a>(events: &'a EventLog, console: &'a History) -> Sources<'a> {
    let console = Some(console);
    Sources { events, console }
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self {
            server: Server::new(listener),
            path,
            _dir: dir,
            now_ns: 0,
            event_log: EventLog::default(),
            console: History::default(),
        }
    }

    fn client(&mut self) -> UnixStream {
        let client = UnixStream::connect(&self.path).unwrap();
        client.set_nonblocking(true).unwrap();
        self.settle();
        client
    }

    /// Lets the server work until nothing is left to do; what it was asked for meanwhile.
    fn settle(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        for _ in 0..1000 {
            let mut interests = Interests::default();
            self.server.interests(&mut interests);
            let ready = interests.wait(Some(0)).unwrap();
            if ready.is_empty() {
                return commands;
            }
            for (token, events) in ready {
                self.server.ready(token, events, self.now_ns);
            }
            while let Some((id, command)) = self.server.next_command(self.now_ns) {
                let topic = match command {
                    Command::Follow => Some(Topic::Events(0)),
                    Command::FollowConsole => Some(Topic::Console(self.console.begin())),
                    _ => None,
                };
                if let Some(topic) = topic {
                    let sources = sources(&self.event_log, &self.console);
                    self.server.follow(id, topic, sources, self.now_ns);
                    commands.push(command);
                    continue;
                }
                commands.push(command);
                let response = Response::Json("{}".into());
                self.server.answer(id, &response, self.now_ns);
            }
        }
        panic!("the server spins");
    }
}

fn received(client: &mut UnixStream) -> String {
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(len @ 1..) = client.read(&mut chunk) {
        all.extend_from_slice(&chunk[..len]);
    }
    String::from_utf8(all).unwrap()
}

const GET: &[u8] = b"GET /v1/vm HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn requests_on_one_connection_are_answered_in_order() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    client.write_all(&[GET, GET].concat()).unwrap();
    assert_eq!(scene.settle(), [Command::Info, Command::Info]);
    assert_eq!(received(&mut client).matches("200 OK").count(), 2);
    client.write_all(GET).unwrap();
    assert_eq!(scene.settle(), [Command::Info]);
}

#[test]
fn request_in_single_bytes_is_served() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    let mut commands = Vec::new();
    for byte in GET {
        client.write_all(&[*byte]).unwrap();
        commands.extend(scene.settle());
    }
    assert_eq!(commands, [Command::Info]);
}

#[test]
fn rubbish_is_refused_and_the_connection_closed() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    client
        .write_all(&[b"\x16\x03\x01\r\n\r\n", GET].concat())
        .unwrap();
    assert_eq!(scene.settle(), []);
    assert!(received(&mut client).starts_with("HTTP/1.1 400 "));
    drop(client);
    scene.settle();
    assert!(scene.server.connections.is_empty());
}

#[test]
fn unknown_target_is_refused_and_the_connection_kept() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    client
        .write_all(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    client.write_all(GET).unwrap();
    assert_eq!(scene.settle(), [Command::Info]);
    let answers = received(&mut client);
    assert!(
        answers.contains("404 Not Found") && answers.contains("200 OK"),
        "{answers}"
    );
}

#[test]
fn slow_request_is_told_and_idle_client_is_dropped() {
    let mut scene = Scene::new();
    let mut slow = scene.client();
    let mut idle = scene.client();
    slow.write_all(b"GET /v1").unwrap();
    scene.settle();
    assert_eq!(scene.server.deadline_ns(), Some(STEP_NS));
    scene.server.tick(STEP_NS);
    assert!(received(&mut slow).starts_with("HTTP/1.1 408 "));
    drop(slow);
    scene.settle();
    assert_eq!(idle.read(&mut [0]).unwrap(), 0);
    assert!(scene.server.connections.is_empty());
}

#[test]
fn one_client_too_many_is_told_so() {
    let mut scene = Scene::new();
    let _clients: Vec<_> = (0..CONNECTIONS_MAX).map(|_| scene.client()).collect();
    let mut late = scene.client();
    assert!(received(&mut late).starts_with("HTTP/1.1 503 "));
    drop(late);
    scene.settle();
    assert_eq!(scene.server.connections.len(), CONNECTIONS_MAX);
}

#[test]
fn client_that_leaves_is_forgotten_at_any_step() {
    let mut scene = Scene::new();
    for sent in [&b""[..], b"GET ", GET] {
        let mut client = scene.client();
        client.write_all(sent).unwrap();
        drop(client);
        scene.settle();
        assert!(scene.server.connections.is_empty());
    }
}

const FOLLOW: &[u8] = b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n";

impl Scene {
    fn follower(&mut self) -> UnixStream {
        let mut client = self.client();
        client.write_all(FOLLOW).unwrap();
        self.settle();
        client
    }

    fn publish(&mut self) {
        let sources = sources(&self.event_log, &self.console);
        self.server.publish(sources, self.now_ns);
    }

    fn happens(&mut self, kind: EventKind) {
        self.event_log.note(kind, Some("disk0"), "a detail");
        self.publish();
    }
}

#[test]
fn follower_gets_what_was_what_comes_and_the_end() {
    let mut scene = Scene::new();
    scene.happens(EventKind::Started);
    let mut client = scene.follower();
    scene.happens(EventKind::Paused);
    let answer = received(&mut client);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let lines: Vec<_> = body.split("\r\n").collect();
    for (at, kind) in [(0, "started"), (2, "paused")] {
        let len = usize::from_str_radix(lines[at], 16).unwrap();
        assert_eq!(lines[at + 1].len(), len);
        assert!(lines[at + 1].contains(kind), "{body}");
        assert!(lines[at + 1].ends_with('\n'));
    }
    assert_eq!(lines[4..], [""], "each event is given once");
    scene.happens(EventKind::Ended);
    let sources = sources(&scene.event_log, &scene.console);
    scene.server.end(sources, 0);
    assert!(received(&mut client).ends_with("\n\r\n0\r\n\r\n"));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn follower_that_does_not_read_is_dropped_and_the_others_are_served() {
    let mut scene = Scene::new();
    let (_slow, mut quick) = (scene.follower(), scene.follower());
    let mut seen = 0;
    for _ in 0..EVENTS_MAX * 20 {
        scene.happens(EventKind::BackendDied);
        seen += received(&mut quick).matches("backend-died").count();
    }
    assert_eq!(scene.server.followers.len(), 1, "it holds too much");
    assert_eq!(seen, EVENTS_MAX * 20);
    let _other = scene.follower();
    for _ in 0..EVENTS_MAX * 4 {
        scene.happens(EventKind::BackendDied);
        received(&mut quick);
    }
    assert_eq!(scene.server.deadline_ns(), Some(STEP_NS));
    scene.server.tick(STEP_NS);
    assert_eq!(scene.server.followers.len(), 1, "it takes nothing");
}

#[test]
fn follower_is_given_all_events_that_are_kept_however_long_their_details_are() {
    let mut scene = Scene::new();
    for filler in ["\u{1}", "\"", "\\", "\u{10ffff}", "\u{7f}"] {
        let detail = filler.repeat(4096 / filler.len());
        for _ in 0..EVENTS_MAX {
            let kind = EventKind::UpgradeRolledBack;
            scene.event_log.note(kind, Some(&"d".repeat(32)), &detail);
        }
        let client = scene.follower();
        assert_eq!(scene.server.followers.len(), 1, "{filler:?}");
        drop(client);
        scene.settle();
    }
}

#[test]
fn followers_too_many_are_told_and_leave_room_for_requests() {
    let mut scene = Scene::new();
    let followers: Vec<_> = (0..FOLLOWERS_MAX).map(|_| scene.follower()).collect();
    let mut late = scene.follower();
    assert!(received(&mut late).starts_with("HTTP/1.1 503 "));
    late.write_all(GET).unwrap();
    assert_eq!(scene.settle(), [Command::Info]);
    drop(followers);
    scene.settle();
    assert!(scene.server.followers.is_empty());
}

#[test]
fn follower_of_the_console_gets_each_byte_once_and_is_dropped_if_some_are_lost() {
    let mut scene = Scene::new();
    scene.console.push(b"before ");
    let mut client = scene.client();
    let follow = b"GET /v1/console HTTP/1.1\r\nHost: x\r\n\r\n";
    client.write_all(follow).unwrap();
    scene.settle();
    for output in ["and ", "", "after"] {
        scene.console.push(output.as_bytes());
        scene.publish();
    }
    let answer = received(&mut client);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("application/octet-stream"), "{head}");
    let chunks = "7\r\nbefore \r\n4\r\nand \r\n5\r\nafter\r\n";
    assert_eq!(body, chunks);
    scene.console.push(&[b'x'; 1 << 17]);
    scene.publish();
    assert!(scene.server.followers.is_empty());
}
