// SPDX-License-Identifier: Apache-2.0
//! The hub between a vmm and clients that behave, misbehave and vanish.

use super::backlog::CAPACITY_BYTES;
use super::*;

struct Scene {
    hub: Hub,
    path: std::path::PathBuf,
    _dir: tempfile::TempDir,
    now_ns: u64,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.sock");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self {
            hub: Hub::new(listener, None),
            path,
            _dir: dir,
            now_ns: 0,
        }
    }

    fn vmm(&mut self) -> UnixStream {
        UnixStream::from(self.hub.connect_vmm(false).unwrap())
    }

    /// A vmm that keeps the guest of the one before.
    fn vmm_that_keeps(&mut self) -> UnixStream {
        UnixStream::from(self.hub.connect_vmm(true).unwrap())
    }

    fn client(&self) -> UnixStream {
        let client = UnixStream::connect(&self.path).unwrap();
        client.set_nonblocking(true).unwrap();
        client
    }

    /// Lets the hub work until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let mut interests = Interests::default();
            self.hub.interests(&mut interests);
            let ready = interests.wait(Some(0)).unwrap();
            if ready.is_empty() {
                return;
            }
            for (token, events) in ready {
                self.hub.ready(token, events, self.now_ns);
            }
        }
        panic!("the hub spins");
    }
}

fn read_all(stream: &mut UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(len @ 1..) = stream.read(&mut chunk) {
        all.extend_from_slice(&chunk[..len]);
    }
    all
}

/// Writes until the pipe is full, letting the hub work in between; how much went in.
fn flood(scene: &mut Scene, vmm: &mut UnixStream, limit: usize) -> usize {
    let mut sent = 0;
    while sent < limit {
        match vmm.write(&[b'x'; 4096]) {
            Ok(len) => sent += len,
            Err(_) => break,
        }
        scene.settle();
    }
    sent
}

#[test]
fn bytes_pass_both_ways() {
    let mut scene = Scene::new();
    let (mut vmm, mut client) = (scene.vmm(), scene.client());
    scene.settle();
    vmm.write_all(b"login: ").unwrap();
    client.write_all(b"root\n").unwrap();
    scene.settle();
    assert_eq!(read_all(&mut client), b"login: ");
    assert_eq!(read_all(&mut vmm), b"root\n");
}

#[test]
fn client_gets_what_no_client_before_has_seen() {
    let mut scene = Scene::new();
    let mut vmm = scene.vmm();
    vmm.write_all(b"one ").unwrap();
    scene.settle();
    let mut first = scene.client();
    scene.settle();
    assert_eq!(read_all(&mut first), b"one ");
    drop(first);
    scene.settle();
    vmm.write_all(b"two").unwrap();
    scene.settle();
    let mut second = scene.client();
    scene.settle();
    assert_eq!(read_all(&mut second), b"two");
}

#[test]
fn newcomer_is_told_that_the_console_is_in_use() {
    let mut scene = Scene::new();
    let mut vmm = scene.vmm();
    let mut first = scene.client();
    scene.settle();
    let mut second = scene.client();
    scene.settle();
    assert_eq!(read_all(&mut second), CONSOLE_IN_USE.as_bytes());
    assert_eq!(second.read(&mut [0]).unwrap(), 0);
    vmm.write_all(b"still yours").unwrap();
    scene.settle();
    assert_eq!(read_all(&mut first), b"still yours");
}

#[test]
fn output_without_a_client_keeps_the_newest() {
    let mut scene = Scene::new();
    let mut vmm = scene.vmm();
    assert_eq!(flood(&mut scene, &mut vmm, 1 << 20), 1 << 20);
    vmm.write_all(b"end").unwrap();
    scene.settle();
    let mut client = scene.client();
    let mut seen = Vec::new();
    for _ in 0..64 {
        scene.settle();
        seen.extend(read_all(&mut client));
    }
    assert_eq!(seen.len(), CAPACITY_BYTES);
    assert!(seen.ends_with(b"xend"));
}

#[test]
fn client_that_does_not_read_holds_the_guest_back_but_not_for_ever() {
    let mut scene = Scene::new();
    let mut vmm = scene.vmm();
    let _client = scene.client();
    scene.settle();
    let held = flood(&mut scene, &mut vmm, 16 << 20);
    assert!(held < 2 << 20, "{held}");
    assert_eq!(scene.hub.deadline_ns(), Some(STALL_NS));
    scene.now_ns = STALL_NS;
    scene.hub.tick(STALL_NS);
    assert_eq!(scene.hub.deadline_ns(), None);
    scene.settle();
    assert_eq!(flood(&mut scene, &mut vmm, 4 << 20), 4 << 20);
    assert!(scene.hub.is_drained());
}

#[test]
fn input_waits_for_a_guest_that_does_not_read() {
    let mut scene = Scene::new();
    let vmm = scene.vmm();
    let mut client = scene.client();
    let mut sent = 0;
    while let Ok(len) = client.write(&[b'k'; 4096]) {
        sent += len;
        scene.settle();
        assert!(sent < 4 << 20, "input is buffered without bound");
    }
    assert!(scene.hub.input.len() <= INPUT_BYTES);
    drop(vmm);
    scene.settle();
}

#[test]
fn client_that_stops_sending_still_receives() {
    let mut scene = Scene::new();
    let (mut vmm, mut client) = (scene.vmm(), scene.client());
    client.write_all(b"reboot\n").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    scene.settle();
    vmm.write_all(b"bye").unwrap();
    scene.settle();
    assert_eq!(read_all(&mut vmm), b"reboot\n");
    assert_eq!(read_all(&mut client), b"bye");
}

#[test]
fn client_that_sends_and_leaves_was_heard() {
    let mut scene = Scene::new();
    let (mut vmm, mut client) = (scene.vmm(), scene.client());
    client.write_all(b"halt\n").unwrap();
    drop(client);
    scene.settle();
    assert_eq!(read_all(&mut vmm), b"halt\n");
    assert!(scene.hub.client.is_none());
}

#[test]
fn client_that_takes_over_from_one_that_has_just_left_is_let_in() {
    let mut scene = Scene::new();
    let mut vmm = scene.vmm();
    let mut first = scene.client();
    scene.settle();
    first.write_all(b"last\n").unwrap();
    drop(first);
    let mut second = scene.client();
    scene.settle();
    vmm.write_all(b"welcome").unwrap();
    scene.settle();
    assert_eq!(read_all(&mut second), b"welcome");
    assert_eq!(read_all(&mut vmm), b"last\n");
}

#[test]
fn output_of_a_dead_vmm_comes_before_that_of_the_next() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    let mut first = scene.vmm();
    first.write_all(b"rebooting ").unwrap();
    drop(first);
    let mut second = scene.vmm();
    second.write_all(b"booting").unwrap();
    client.write_all(b"k").unwrap();
    scene.settle();
    assert_eq!(read_all(&mut client), b"rebooting booting");
    assert_eq!(read_all(&mut second), b"k");
    assert!(!scene.hub.is_drained());
    second.write_all(b" bye").unwrap();
    scene.hub.end(0);
    assert!(scene.hub.is_drained());
    assert_eq!(read_all(&mut client), b" bye");
}

#[test]
fn end_of_a_dead_vmm_that_is_still_open_somewhere_keeps_nobody_waiting() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    let mut dead = scene.vmm();
    dead.write_all(b"one ").unwrap();
    let mut next = scene.vmm();
    next.write_all(b"two").unwrap();
    client.write_all(b"k").unwrap();
    scene.settle();
    assert_eq!(read_all(&mut client), b"one two");
    assert_eq!(read_all(&mut next), b"k");
}

#[test]
fn input_that_a_vmm_has_not_read_reaches_the_next_one_only_if_that_keeps_the_guest() {
    let mut scene = Scene::new();
    let (mut old, mut client) = (scene.vmm(), scene.client());
    client.write_all(b"read, unread").unwrap();
    scene.settle();
    let mut read = [0; 6];
    old.read_exact(&mut read).unwrap();
    old.write_all(b"written").unwrap();
    // The supervisor, which reads the rest, shares this.
    old.set_nonblocking(false).unwrap();
    drop(old);

    client.write_all(b", late").unwrap();
    scene.settle();
    let mut next = scene.vmm_that_keeps();
    scene.hub.tick(0);
    scene.settle();

    assert_eq!(read_all(&mut next), b"unread, late");
    assert_eq!(read_all(&mut client), b"written");
    client.write_all(b"lost").unwrap();
    scene.settle();
    drop(next);
    let mut rebooted = scene.vmm();
    scene.hub.tick(0);
    scene.settle();
    assert!(read_all(&mut rebooted).is_empty());
}
