// SPDX-License-Identifier: Apache-2.0
//! The command slot in many orders of its threads: `command_slot.rs` once more, with a library's locks in place of
//! the standard library's, which decides which thread runs next, and an eventfd made of them.
//!
//! Found when planted: a command that is posted after its reader was woken, a reader that sleeps before it
//! checks the slot, one that is woken by the first command only, and commands that are taken without being
//! marked as taken.

use std::collections::BTreeSet;
use std::sync::Arc;

use shuttle::thread;

use crate::virtio::device::QueueIndex;
use command_slot::CommandSlot;

mod sync {
    use std::io;
    pub(super) use std::sync::PoisonError;

    use shuttle::sync::Condvar;
    pub(super) use shuttle::sync::{Mutex, MutexGuard};

    pub(super) const EFD_CLOEXEC: i32 = 0;
    pub(super) const EFD_NONBLOCK: i32 = 0;

    /// An eventfd, as far as the slot and its reader use one.
    pub(super) struct EventFd {
        count: Mutex<u64>,
        changed: Condvar,
    }

    impl EventFd {
        pub(super) fn new(_: i32) -> io::Result<Self> {
            Ok(Self {
                count: Mutex::new(0),
                changed: Condvar::new(),
            })
        }

        pub(super) fn write(&self, count: u64) -> io::Result<()> {
            *self.count.lock().unwrap() += count;
            self.changed.notify_all();
            Ok(())
        }

        /// As poll(2) does, and then a read, between which others may write.
        pub(super) fn wait_and_drain(&self) {
            let count = self.count.lock().unwrap();
            drop(self.changed.wait_while(count, |count| *count == 0).unwrap());
            *self.count.lock().unwrap() = 0;
        }
    }
}

#[allow(dead_code, clippy::duplicate_mod)] // not all of it is used here
#[path = "command_slot.rs"]
mod command_slot;

/// What the device's thread has found.
#[derive(Debug, Default, PartialEq)]
struct Found {
    notified: BTreeSet<QueueIndex>,
    reset: bool,
    fenced: bool,
    drained: bool,
}

/// The device's thread: takes commands, then talks to a backend that does not answer until there is one
/// that makes it pointless, and sleeps until there is any.
fn read(commands: &CommandSlot) -> Found {
    let mut found = Found::default();
    loop {
        let pending = commands.take();
        found.notified.extend(&pending.notified);
        found.reset |= pending.reset;
        found.fenced |= pending.fenced;
        found.drained |= pending.drain == Some(true);
        if pending.quit {
            return found;
        }
        if pending.drain == Some(true) {
            while !commands.interrupts() {
                commands.wake().wait_and_drain();
            }
        }
        commands.wait_for_command(|| commands.wake().wait_and_drain());
    }
}

fn post_and_take() {
    let commands = Arc::new(CommandSlot::new().unwrap());
    let reader = {
        let commands = Arc::clone(&commands);
        thread::spawn(move || read(&commands))
    };
    let vcpu = {
        let commands = Arc::clone(&commands);
        thread::spawn(move || {
            for queue in 0..2 {
                commands.post(|pending| {
                    pending.notified.insert(QueueIndex(queue));
                });
            }
            commands.post(|pending| pending.reset = true);
        })
    };
    commands.post(|pending| pending.drain = Some(true));
    commands.post(|pending| pending.fenced = true);
    vcpu.join().unwrap();
    commands.post(|pending| pending.quit = true);

    let expected = Found {
        notified: [QueueIndex(0), QueueIndex(1)].into(),
        reset: true,
        fenced: true,
        drained: true,
    };
    assert_eq!(reader.join().unwrap(), expected);
}

#[test]
fn model_of_the_mailbox_all_mail_is_found_and_its_reader_never_sleeps_over_it() {
    shuttle::check_random(post_and_take, 500);
    shuttle::check_pct(post_and_take, 500, 3);
}
