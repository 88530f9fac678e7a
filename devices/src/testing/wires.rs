// SPDX-License-Identifier: Apache-2.0
//! The host's side of doorbells and interrupts. Behaves as KVM does, as far as can be seen from here:
//! whatever a guest does, no eventfd may be assigned twice and no doorbell left behind.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use crate::bus::Doorbells;
use crate::interrupt::{CallListener, CallWatcher, InterruptLine, MsiMessage, MsiVectors};
use crate::virtio::eventfd;

/// What is connected to what.
#[derive(Debug, Default)]
pub struct Wires {
    sent: Mutex<Vec<MsiMessage>>,
    assigned: Mutex<BTreeMap<RawFd, Assigned>>,
    doorbells: Mutex<BTreeMap<u64, (RawFd, EventFd)>>,
    watched: Mutex<BTreeMap<RawFd, Watched>>,
    line: AtomicBool,
    /// The host has no memory for anything new.
    pub exhausted: AtomicBool,
}

struct Watched {
    call: EventFd,
    listener: Arc<dyn CallListener>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.call.fmt(f)
    }
}

#[derive(Debug)]
struct Assigned {
    vector: u16,
    message: MsiMessage,
    call: EventFd,
}

impl Wires {
    fn allocate(&self) -> io::Result<()> {
        match self.exhausted.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::OutOfMemory.into()),
            false => Ok(()),
        }
    }

    /// What was sent since this was last asked.
    pub fn take_sent(&self) -> Vec<MsiMessage> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }

    /// A device's process signals a call eventfd: where it is assigned, KVM sends the message.
    pub fn call(&self, call: &EventFd) {
        match self.assigned.lock().unwrap().get(&call.as_raw_fd()) {
            Some(assigned) => self.sent.lock().unwrap().push(assigned.message),
            None => drop(call.write(1)),
        }
    }

    /// The vmm's thread looks at the eventfds that it waits for.
    pub fn look_at_calls(&self) {
        let watched = self.watched.lock().unwrap();
        let readable = watched.values();
        let readable = readable.filter(|one| eventfd::is_readable(&one.call));
        readable.for_each(|one| one.listener.called());
    }

    /// The same, and something happens between the wait and the look.
    pub fn look_at_calls_while(&self, happens: impl FnOnce()) {
        let listeners: Vec<_> = {
            let watched = self.watched.lock().unwrap();
            let readable = watched.values();
            let readable = readable.filter(|one| eventfd::is_readable(&one.call));
            readable.map(|one| Arc::clone(&one.listener)).collect()
        };
        happens();
        listeners.iter().for_each(|listener| listener.called());
    }

    /// How many eventfds the vmm waits for.
    pub fn watched(&self) -> usize {
        self.watched.lock().unwrap().len()
    }

    /// The level of the interrupt line.
    pub fn line(&self) -> bool {
        self.line.load(Ordering::SeqCst)
    }

    /// Whether a process has signalled the call eventfd of a vector since this was last asked.
    pub fn was_called(&self, vector: u16) -> bool {
        let assigned = self.assigned.lock().unwrap();
        let mut of_vector = assigned.values().filter(|one| one.vector == vector);
        of_vector.any(|one| eventfd::drain(&one.call))
    }

    /// The vectors that have an eventfd, and what KVM would send.
    pub fn assigned(&self) -> Vec<(u16, MsiMessage)> {
        let assigned = self.assigned.lock().unwrap();
        let each = assigned.values().map(|one| (one.vector, one.message));
        each.collect()
    }

    /// Where doorbells are.
    pub fn doorbells(&self) -> Vec<u64> {
        self.doorbells.lock().unwrap().keys().copied().collect()
    }

    /// A vCPU writes to a doorbell. Whether there is one.
    pub fn ring(&self, address: u64) -> bool {
        let doorbells = self.doorbells.lock().unwrap();
        let kick = doorbells.get(&address);
        kick.is_some_and(|(_, kick)| kick.write(1).is_ok())
    }
}

impl InterruptLine for Wires {
    fn set(&self, high: bool) {
        let before = self.line.swap(high, Ordering::SeqCst);
        assert_ne!(before, high, "told of a level that has not changed");
    }
}

impl CallWatcher for Wires {
    fn watch(&self, call: &EventFd, listener: Arc<dyn CallListener>) -> io::Result<u64> {
        self.allocate()?;
        let call = call.try_clone()?;
        let number = call.as_raw_fd();
        let watched = Watched { call, listener };
        self.watched.lock().unwrap().insert(number, watched);
        Ok(u64::try_from(number).unwrap())
    }
    fn unwatch(&self, _: &EventFd, key: u64) {
        let key = RawFd::try_from(key).unwrap();
        let before = self.watched.lock().unwrap().remove(&key);
        assert!(before.is_some(), "was not watched");
    }
}

impl MsiVectors for Wires {
    fn send(&self, message: MsiMessage) {
        self.sent.lock().unwrap().push(message);
    }
    fn assign(&self, vector: u16, message: MsiMessage, call: &EventFd) -> io::Result<()> {
        self.allocate()?;
        let assigned = Assigned {
            vector,
            message,
            call: call.try_clone()?,
        };
        let before = self
            .assigned
            .lock()
            .unwrap()
            .insert(call.as_raw_fd(), assigned);
        assert!(before.is_none(), "an eventfd was assigned twice");
        if eventfd::is_readable(call) {
            self.send(message);
        }
        Ok(())
    }
    fn deassign(&self, vector: u16, call: &EventFd) -> io::Result<()> {
        let before = self.assigned.lock().unwrap().remove(&call.as_raw_fd());
        let before = before.map(|assigned| assigned.vector);
        assert_eq!(before, Some(vector), "was not assigned");
        Ok(())
    }
}

impl Doorbells for Wires {
    fn register(&self, address: u64, kick: &EventFd) -> io::Result<()> {
        self.allocate()?;
        let rung = (kick.as_raw_fd(), kick.try_clone()?);
        let before = self.doorbells.lock().unwrap().insert(address, rung);
        assert!(before.is_none(), "a doorbell was registered twice");
        Ok(())
    }
    fn unregister(&self, address: u64, kick: &EventFd) -> io::Result<()> {
        let before = self.doorbells.lock().unwrap().remove(&address);
        let before = before.map(|(number, _)| number);
        assert_eq!(before, Some(kick.as_raw_fd()), "was not registered");
        Ok(())
    }
}
