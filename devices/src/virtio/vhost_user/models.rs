// SPDX-License-Identifier: Apache-2.0
//! The mailbox in many orders of its threads: `mailbox.rs` once more, with a library's locks in place of
//! the standard library's, which decides which thread runs next, and an eventfd made of them.
//!
//! Found when planted: mail that is written after its reader was woken, a reader that sleeps before it
//! looks for mail, one that is woken only by the first mail, and mail that is taken without being
//! marked as taken together with what it says.

use std::collections::BTreeSet;
use std::sync::Arc;

use shuttle::thread;

use crate::virtio::device::QueueIndex;
use mailbox::Mailbox;

mod sync {
    use std::io;
    pub(super) use std::sync::PoisonError;

    use shuttle::sync::Condvar;
    pub(super) use shuttle::sync::{Mutex, MutexGuard};

    pub(super) const EFD_CLOEXEC: i32 = 0;
    pub(super) const EFD_NONBLOCK: i32 = 0;

    /// An eventfd, as far as the mailbox and its reader use one.
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
#[path = "mailbox.rs"]
mod mailbox;

/// What the device's thread has found.
#[derive(Debug, Default, PartialEq)]
struct Found {
    notified: BTreeSet<QueueIndex>,
    reset: bool,
    fenced: bool,
    drained: bool,
}

/// The device's thread: takes mail, then talks to a backend that does not answer until there is mail
/// that makes it pointless, and sleeps until there is any.
fn read(mailbox: &Mailbox) -> Found {
    let mut found = Found::default();
    loop {
        let mail = mailbox.take();
        found.notified.extend(&mail.notified);
        found.reset |= mail.reset;
        found.fenced |= mail.fenced;
        found.drained |= mail.drain == Some(true);
        if mail.quit {
            return found;
        }
        if mail.drain == Some(true) {
            while !mailbox.interrupts() {
                mailbox.wake().wait_and_drain();
            }
        }
        mailbox.wait_for_mail(|| mailbox.wake().wait_and_drain());
    }
}

fn leave_and_read() {
    let mailbox = Arc::new(Mailbox::new().unwrap());
    let reader = {
        let mailbox = Arc::clone(&mailbox);
        thread::spawn(move || read(&mailbox))
    };
    let vcpu = {
        let mailbox = Arc::clone(&mailbox);
        thread::spawn(move || {
            for queue in 0..2 {
                mailbox.leave(|mail| {
                    mail.notified.insert(QueueIndex(queue));
                });
            }
            mailbox.leave(|mail| mail.reset = true);
        })
    };
    mailbox.leave(|mail| mail.drain = Some(true));
    mailbox.leave(|mail| mail.fenced = true);
    vcpu.join().unwrap();
    mailbox.leave(|mail| mail.quit = true);

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
    shuttle::check_random(leave_and_read, 500);
    shuttle::check_pct(leave_and_read, 500, 3);
}
