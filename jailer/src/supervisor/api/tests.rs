// SPDX-License-Identifier: Apache-2.0
//! The server and clients that are in no hurry, in too much of one, or too many.

use super::connection::STEP_NS;
use super::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

struct Scene {
    server: Server,
    path: std::path::PathBuf,
    _dir: tempfile::TempDir,
    now_ns: u64,
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
