// SPDX-License-Identifier: Apache-2.0
//! A network card's frames and commands: frames in buffers of any shape, checked and sent; frames
//! received into any buffers; commands of a driver, and what is kept of them for the next process. What
//! leaves must satisfy the guard again once the kernel has written the checksum or cut it into segments.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

use device_backend::GuestMemory;
use device_backend::chain::Buffer;
use device_backend::shared_mem::SharedMem;
use host::tap::HEADER_BYTES;
use ipc::mac::MacAddress;
use ipc::record::Guard;
use net_backend::anti_spoof::packet::Frame;
use net_backend::anti_spoof::{Rules, Violation};
use net_backend::config::Nic;
use net_backend::ctrl_commands::Command;
use net_backend::header::{Header, Offload};
use net_backend::rx_buffers::RxBuffers;
use net_backend::state::State;
use net_backend::tx_frame::TxFrame;
use vm_memory::{Bytes, GuestAddress};

use crate::leaves::leaves;
use crate::script::Script;

/// Two regions with a hole between them.
const REGIONS: [(GuestAddress, usize); 2] =
    [(GuestAddress(0), 0x8000), (GuestAddress(0x1_0000), 0x4000)];
const STEPS_MAX: usize = 100;
const CHAINS_MAX: u16 = 8;

pub(crate) fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let memory = Arc::new(GuestMemory::from_ranges(&REGIONS).unwrap());
    let (tap, wire) = UnixDatagram::pair().unwrap();
    for end in [&tap, &wire] {
        end.set_nonblocking(true).unwrap();
    }
    let (mut frame, mut room) = (TxFrame::default(), RxBuffers::default());
    let mut state = State::default();
    for _ in 0..STEPS_MAX {
        let Some(step) = script.next() else { break };
        match step % 4 {
            0 => transmit(&mut script, &memory, &mut frame, &tap, &wire),
            1 => receive(&mut script, &memory, &mut room, &tap, &wire),
            2 => command(&mut script, &mut state),
            _ => {
                let at = GuestAddress(u64::from(script.u16()));
                let _ = memory.write_slice(script.bytes(), at);
            }
        }
    }
    keep(&state, script.rest());
}

fn nic(shape: u8) -> Nic {
    Nic {
        mac: (shape & 1 != 0).then_some(MacAddress([2, 0, 0, 0, 0, 1])),
        mtu: None,
        pairs: 2,
        queue_size: 64,
        uso: shape & 2 != 0,
        guard: Guard {
            mac: shape & 4 != 0,
            services: shape & 8 != 0,
            ipv4: vec![Ipv4Addr::new(10, 0, 0, 5); usize::from(shape >> 4 & 1)],
            ipv6: vec![Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5); usize::from(shape >> 5 & 1)],
        },
    }
}

fn buffers(script: &mut Script<'_>) -> Vec<Buffer> {
    let buffer = |script: &mut Script<'_>| {
        let address = match script.u8() {
            0..0xf0 => u64::from(script.u16()),
            _ => script.u64(),
        };
        Buffer {
            address: GuestAddress(address),
            len_bytes: match script.u8() {
                0..0xc0 => u32::from(script.u8()) + 1,
                0xc0..0xf8 => u32::from(script.u16()).max(1),
                _ => script.u32().max(1),
            },
        }
    };
    (0..script.u8() % 20).map(|_| buffer(script)).collect()
}

fn transmit(
    script: &mut Script<'_>,
    memory: &Arc<GuestMemory>,
    frame: &mut TxFrame,
    tap: &UnixDatagram,
    wire: &UnixDatagram,
) {
    let (nic, features) = (nic(script.u8()), script.u64());
    if frame.load(memory, &buffers(script)).is_err() {
        return;
    }
    let Some(header) = Header::parse(frame.head()) else {
        return;
    };
    let _ = header.fits(script.u32());
    let len_bytes = frame.len_bytes().saturating_sub(HEADER_BYTES);
    let legal = header.check(features, len_bytes).is_ok();
    let offload = header.offload();
    let outgoing = Frame {
        head: frame.head().get(HEADER_BYTES..).unwrap_or_default(),
        len_bytes,
        offload,
    };
    let rules = Rules {
        guard: &nic.guard,
        mac: nic.mac,
    };
    let allowed = rules.check(&outgoing).is_ok();
    frame.set_flags(header.known_flags());
    if let Ok(sent) = frame.send(tap.as_fd()) {
        assert_eq!(sent, frame.len_bytes(), "a part of a frame");
        let mut received = vec![0; sent];
        let _ = wire.recv(&mut received);
        assert_eq!(received[..frame.head().len()], *frame.head());
        if legal && allowed {
            let whole = received.get(HEADER_BYTES..).unwrap_or_default();
            stays_allowed(&rules, whole, offload);
        }
    }
}

/// What leaves is what was allowed, after the kernel has done what the header asks for, too.
pub(crate) fn stays_allowed(rules: &Rules<'_>, sent: &[u8], offload: Option<Offload>) {
    for left in leaves(sent, offload) {
        let outcome = rules.check(&Frame {
            head: &left,
            len_bytes: left.len(),
            offload: None,
        });
        // If there is nothing to cut the length stays that the driver wrote, and receivers drop what
        // is shorter than its headers.
        let uncut = left.len() == sent.len() && offload.is_some_and(|o| o.segments.is_some());
        let dropped = uncut && outcome == Err(Violation::Evasive);
        assert!(
            outcome.is_ok() || dropped,
            "{outcome:?}: {offload:?} {left:02x?}"
        );
    }
}

fn receive(
    script: &mut Script<'_>,
    memory: &Arc<GuestMemory>,
    room: &mut RxBuffers,
    tap: &UnixDatagram,
    wire: &UnixDatagram,
) {
    room.reset(Some(Arc::clone(memory)));
    for id in 0..CHAINS_MAX {
        if room.add(id, &buffers(script)).is_err() {
            return;
        }
        if script.flag() {
            break;
        }
    }
    let content = vec![script.u8(); usize::from(script.u16())];
    let sent = wire.send(&content).is_ok();
    let Ok(len) = room.read(tap.as_fd(), usize::from(script.u16())) else {
        return;
    };
    assert!(sent && len <= content.len());
    let mut head = [0; 64];
    room.peek(&mut head);
    assert!(room.overflow_bytes(len) <= len);
    let Some(count) = room.chains_for(len) else {
        return;
    };
    room.settle(len);
    let mut left = len;
    for _ in 0..count {
        let Some((id, bytes)) = room.take(left) else {
            break;
        };
        assert!(id < CHAINS_MAX && bytes <= left);
        left -= bytes;
    }
    assert_eq!(left, 0, "a frame of {len} bytes, {count} chains");
}

fn command(script: &mut Script<'_>, state: &mut State) {
    let (nic, features) = (nic(script.u8()), script.u64());
    let Ok(command) = Command::parse(script.bytes()) else {
        return;
    };
    if command.check(&nic, features).is_ok() {
        command.apply(state);
    }
}

/// What is kept reads back as it was; and anything at all reads back as something.
fn keep(state: &State, rubbish: &[u8]) {
    let memory = SharedMem::private(ipc::fd::net::STATE_BYTES);
    state.store(&memory);
    assert_eq!(State::load(&memory), *state);
    for (at, byte) in rubbish.iter().enumerate().take(memory.len_bytes()) {
        memory.at::<AtomicU8>(at).store(*byte, Relaxed);
    }
    let loaded = State::load(&memory);
    loaded.store(&memory);
    assert_eq!(State::load(&memory), loaded);
}
