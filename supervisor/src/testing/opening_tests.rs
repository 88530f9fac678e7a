// SPDX-License-Identifier: Apache-2.0
//! A device whose backends need something opened by a jailer, which takes as long as it takes.

use std::os::fd::AsFd;

use ipc::broker::{Answer, Question, Reopened, ToJailer, ToSupervisor};
use ipc::control::Channel;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::actor::{Cast, Role};
use super::device_tests::{Card, Device, SECOND_NS};
use super::upgrade_tests::upgrade;
use super::*;
use crate::JailerLink;

const KILLED: Death = Death::Signalled(Signal::SIGKILL);
const FENCED: &str = "Fenced: 0 us after the end of its backend";

/// A device that serves, and the jailer's end of its link.
struct Stage {
    device: Device,
    link: Channel,
    jailer: Rc<JailerLink>,
}

impl Stage {
    fn new() -> Self {
        let cast = Cast::default();
        let disk = Card {
            role: Role(Rc::clone(&cast), Rc::default()),
            link: None,
            needs: Some(Question::ReopenDisk(3)),
        };
        let (ours, link) = Channel::pair().unwrap();
        for end in [&ours, &link] {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        }
        let mut device = Device::of(cast, disk);
        let jailer = Rc::new(JailerLink::new(ours));
        device.context = Rc::new(scenery::context(Rc::clone(&jailer)));
        device.hear(&DeviceNews::Connected);
        device.told();
        Self {
            device,
            link,
            jailer,
        }
    }

    /// The number of the one question that was asked, if there is one.
    fn asked(&self) -> Option<u32> {
        match self.link.receive().ok()?? {
            ToJailer::Ask(number, Question::ReopenDisk(3)) => Some(number),
            other => panic!("{other:?}"),
        }
    }

    /// The jailer has opened it; what is told.
    fn opened(&mut self, number: u32) -> Vec<String> {
        let reopened = Reopened {
            mark: 7,
            geometry: Err("never looked at".to_owned()),
        };
        let answer = ToSupervisor::Answer(number, Answer::Reopened(reopened));
        let null = scenery::null();
        self.link.send_with(&answer, null.as_fd()).unwrap();
        assert_eq!(self.jailer.listen(), []);
        self.device.pass(0)
    }

    /// The jailer cannot open it; what is told.
    fn refused(&mut self, number: u32) -> Vec<String> {
        let answer = ToSupervisor::Answer(number, Answer::Refused(libc::EIO));
        self.link.send(&answer).unwrap();
        assert_eq!(self.jailer.listen(), []);
        self.device.pass(0)
    }
}

#[test]
fn image_is_asked_for_once_the_backend_died_and_waited_for() {
    let mut stage = Stage::new();
    stage.device.pass(0);
    assert_eq!(stage.asked(), None, "its backend lives");
    stage.device.dies(0, KILLED);
    assert_eq!(stage.device.pass(0), [FENCED]);
    assert_eq!((stage.asked(), stage.asked()), (Some(1), None));
    let state = |stage: &Stage| stage.device.slot.info().state;
    assert_eq!(state(&stage), DeviceState::Opening);
    let deadline_ns = stage.device.now_ns + 2 * SECOND_NS;
    assert_eq!(stage.device.slot.deadline_ns(), Some(deadline_ns));
    assert_eq!(stage.device.pass(2 * SECOND_NS - 1), [""; 0]);
    let slow = "Slow: waits for its storage, which does not open the image";
    assert_eq!(stage.device.pass(1), [slow]);
    assert_eq!(
        stage.device.slot.deadline_ns(),
        None,
        "however long it takes"
    );
    assert_eq!(stage.device.pass(1000 * SECOND_NS), [""; 0]);
    assert_eq!(stage.asked(), None);
    let told = ["SlowNoMore", "attach", "BackendStarted: pid 3"];
    assert_eq!(stage.opened(1), told);
}

#[test]
fn image_opened_soon_is_not_spoken_of() {
    let mut stage = Stage::new();
    stage.device.part(0, |part| part.busy = true);
    stage.device.dies(0, KILLED);
    assert_eq!(stage.device.pass(0), [""; 0]);
    assert_eq!(stage.asked(), Some(1), "while its I/O is waited for");
    assert_eq!(stage.opened(1), [""; 0]);
    stage.device.part(0, |part| part.busy = false);
    let told = stage.device.pass(SECOND_NS);
    assert_eq!(told[1..], ["attach", "BackendStarted: pid 3"]);
    stage.device.dies(1, KILLED);
    stage.device.pass(0);
    assert_eq!(
        stage.asked(),
        Some(2),
        "each backend has an opening of its own"
    );
}

#[test]
fn image_that_cannot_be_opened_is_asked_for_again_after_a_pause() {
    let mut stage = Stage::new();
    stage.device.dies(0, KILLED);
    stage.device.pass(0);
    let number = stage.asked().unwrap();
    let told = stage.refused(number);
    let died = "BackendDied: could not be: cannot open the image again";
    assert!(told[0].starts_with(died), "{told:?}");
    stage.device.pass(0);
    let again = stage.asked().unwrap();
    assert_eq!(stage.opened(again), [""; 0]);
    assert_eq!(stage.device.pass(99_999_999), [""; 0]);
    let told = stage.device.pass(1);
    assert_eq!(told[0], "attach");
}

#[test]
fn device_retired_is_ready_once_it_is_idle_and_its_image_was_opened() {
    let mut stage = Stage::new();
    stage.device.retire();
    stage.device.dies(0, KILLED);
    assert!(!stage.device.slot.is_ready(), "its I/O has not ended");
    stage.device.pass(0);
    stage.device.pass(0);
    assert!(stage.device.slot.is_idle() && !stage.device.slot.is_ready());
    let number = stage.asked().unwrap();
    assert_eq!(stage.opened(number), [""; 0]);
    assert!(stage.device.slot.is_ready());
    let mut other = Device::serving();
    assert!(!other.slot.is_ready());
    other.retire();
    other.dies(0, KILLED);
    other.pass(0);
    assert!(other.slot.is_ready(), "there is nothing to open");
}

#[test]
fn upgrade_waits_for_the_image() {
    let mut stage = Stage::new();
    assert_eq!(upgrade(&mut stage.device), Ok(()));
    stage.device.pass(0);
    let number = stage.asked().unwrap();
    let told = stage.opened(number);
    assert!(told.contains(&"probe".to_owned()), "{told:?}");
    let mut stage = Stage::new();
    assert_eq!(upgrade(&mut stage.device), Ok(()));
    stage.device.pass(0);
    let number = stage.asked().unwrap();
    let told = stage.refused(number);
    assert!(
        told[0].starts_with("UpgradeRefused: cannot open"),
        "{told:?}"
    );
    assert!(told[1].starts_with("answer: cannot open"), "{told:?}");
    assert!(stage.device.lives(0));
    stage.device.pass(0);
    assert_eq!(stage.asked(), None, "nobody needs it any more");
}
