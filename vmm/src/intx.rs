// SPDX-License-Identifier: Apache-2.0
//! The thread that waits for queues whose interrupts come by their function's line: those of drivers
//! that take no messages. It waits for nothing on other machines, and takes no part in the data path
//! of drivers that do.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::interrupt::{CallListener, CallWatcher};
use devices::virtio::eventfd;
use ipc::seccomp::Mode;
use log::error;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use vmm_sys_util::eventfd::EventFd;

use crate::seccomp;

/// How many eventfds are looked at after one wait.
const EVENTS_MAX: usize = 32;

/// Waits for call eventfds.
pub struct IntxWatcher {
    epoll: Epoll,
    listeners: Mutex<Listeners>,
}

#[derive(Default)]
struct Listeners {
    last_key: u64,
    by_key: BTreeMap<u64, Arc<dyn CallListener>>,
}

impl fmt::Debug for IntxWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IntxWatcher")
    }
}

impl IntxWatcher {
    /// Starts the thread, which confines itself before it waits.
    pub fn start(mode: Mode) -> io::Result<Arc<Self>> {
        let watcher = Arc::new(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            listeners: Mutex::default(),
        });
        let of_thread = Arc::clone(&watcher);
        let body = move || {
            // Without the thread a driver without messages gets no interrupts; others do not need it.
            if let Err(e) = seccomp::confine_intx(mode) {
                return error!("{}", host::log::chain(&e));
            }
            of_thread.run();
        };
        std::thread::Builder::new()
            .name("intx".into())
            .stack_size(128 << 10)
            .spawn(body)?;
        Ok(watcher)
    }

    fn listeners(&self) -> MutexGuard<'_, Listeners> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => return error!("cannot wait for interrupts of lines: {errno}"),
            };
            for event in &events[..count] {
                let listener = self.listeners().by_key.get(&event.data()).cloned();
                if let Some(listener) = listener {
                    listener.called();
                }
            }
        }
    }
}

impl CallWatcher for IntxWatcher {
    fn watch(&self, call: &EventFd, listener: Arc<dyn CallListener>) -> io::Result<u64> {
        let mut listeners = self.listeners();
        let key = listeners.last_key + 1;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, key);
        self.epoll.add(eventfd::borrow(call), event)?;
        listeners.last_key = key;
        listeners.by_key.insert(key, listener);
        Ok(key)
    }

    fn unwatch(&self, call: &EventFd, key: u64) {
        let mut listeners = self.listeners();
        if let Err(errno) = self.epoll.delete(eventfd::borrow(call)) {
            error!("cannot stop waiting for interrupts of a line: {errno}");
        }
        listeners.by_key.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    struct Queue {
        call: EventFd,
        heard: Sender<u8>,
        name: u8,
    }

    impl CallListener for Queue {
        fn called(&self) {
            if eventfd::drain(&self.call) {
                self.heard.send(self.name).unwrap();
            }
        }
    }

    #[test]
    fn signal_is_heard_while_its_queue_is_watched() {
        let watcher = IntxWatcher::start(Mode::Kill).unwrap();
        let (heard, hears) = channel();
        let call = || EventFd::new(EFD_NONBLOCK).unwrap();
        // Kept until the end, as devices keep their queues: the thread's filter closes nothing.
        let queue = |call: &EventFd, name| {
            Arc::new(Queue {
                call: call.try_clone().unwrap(),
                heard: heard.clone(),
                name,
            })
        };
        let (first, second) = (call(), call());
        first.write(1).unwrap();
        let queues = [queue(&first, 1), queue(&second, 2)];
        let key = watcher.watch(&first, queues[0].clone()).unwrap();
        watcher.watch(&second, queues[1].clone()).unwrap();
        let patience = Duration::from_secs(20);
        assert_eq!(hears.recv_timeout(patience), Ok(1), "signalled before");

        watcher.unwatch(&first, key);
        first.write(1).unwrap();
        second.write(1).unwrap();

        assert_eq!(hears.recv_timeout(patience), Ok(2));
        assert!(eventfd::is_readable(&first), "not drained any more");
    }
}
