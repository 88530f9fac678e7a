// SPDX-License-Identifier: Apache-2.0
//! A vector that its driver masks and unmasks while the device's process calls, in many orders of the
//! two: no interrupt is lost, and none is sent while it is masked.
//!
//! Found when planted: an eventfd that is drained before it is assigned, one that is drained when it is
//! taken away, and a line that is not settled when its vector is unmasked.

use std::io;
use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::thread;
use vmm_sys_util::eventfd::EventFd;

use super::*;

const CALLS: usize = 3;
const MESSAGE: MsiMessage = MsiMessage {
    address: 0xfee0_0000,
    data: 0x41,
};

/// KVM's part: eventfds that are assigned send, others only become readable. Each step is one that the
/// other side's may come between.
#[derive(Default)]
struct Kvm {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    assigned: bool,
    /// What was sent so far; how much of it since the last call began.
    sent: usize,
    since_call: usize,
}

impl State {
    fn send(&mut self) {
        self.sent += 1;
        self.since_call += 1;
    }
}

impl Kvm {
    /// The device's process writes to the eventfd.
    fn call(&self, call: &EventFd) {
        let mut state = self.state.lock().unwrap();
        state.since_call = 0;
        match state.assigned {
            true => state.send(),
            false => call.write(1).unwrap(),
        }
    }
}

impl MsiVectors for Kvm {
    fn send(&self, _: MsiMessage) {
        self.state.lock().unwrap().send();
    }
    fn assign(&self, _: u16, message: MsiMessage, call: &EventFd) -> io::Result<()> {
        assert_eq!(message, MESSAGE);
        self.state.lock().unwrap().assigned = true;
        // Between the two, a call is sent by the waiter that now hangs at the eventfd.
        let mut state = self.state.lock().unwrap();
        if eventfd::is_readable(call) {
            state.send();
        }
        Ok(())
    }
    fn deassign(&self, _: u16, _: &EventFd) -> io::Result<()> {
        self.state.lock().unwrap().assigned = false;
        Ok(())
    }
}

fn mask_and_call() {
    let kvm = Arc::<Kvm>::default();
    let events = Arc::new(QueueEvents::new().unwrap());
    let mut msix = Msix::new(Arc::clone(&kvm) as _, &[Arc::clone(&events)]);
    msix.map_queue(QueueIndex(0), Some(1));
    msix.set_control(Control {
        enabled: true,
        masked: false,
        bus_master: true,
        line_disabled: false,
    });
    let entry = ENTRY_LEN_BYTES;
    msix.write_table(entry, &MESSAGE.address.to_le_bytes());
    msix.write_table(entry + 8, &MESSAGE.data.to_le_bytes());

    let backend = {
        let (kvm, events) = (Arc::clone(&kvm), Arc::clone(&events));
        thread::spawn(move || (0..CALLS).for_each(|_| kvm.call(&events.call)))
    };
    let set_masked = |msix: &mut Msix, masked: u32| {
        msix.write_table(entry + 12, &masked.to_le_bytes());
    };
    for _ in 0..2 {
        set_masked(&mut msix, 0);
        set_masked(&mut msix, 1);
        let before = kvm.state.lock().unwrap().sent;
        thread::yield_now();
        let after = kvm.state.lock().unwrap().sent;
        assert_eq!(before, after, "sent while it was masked");
    }
    backend.join().unwrap();
    set_masked(&mut msix, 0);

    let state = kvm.state.lock().unwrap();
    assert!(state.since_call > 0, "the last call was never heard");
    // One may be sent twice: once by its eventfd and once as pending.
    assert!(state.sent <= 2 * CALLS, "{} of {CALLS}", state.sent);
    let mut pending = [0];
    msix.read_pending(0, &mut pending);
    assert_eq!(pending, [0], "pending and not masked");
}

#[test]
fn model_of_msix_no_interrupt_is_lost_or_sent_while_its_vector_is_masked() {
    shuttle::check_random(mask_and_call, 500);
    shuttle::check_pct(mask_and_call, 500, 3);
}
