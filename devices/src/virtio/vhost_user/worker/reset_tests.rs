// SPDX-License-Identifier: Apache-2.0
//! Resets, which always end, and what only a reset mends.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use vhost::vhost_user::message::FrontendReq;
use vm_memory::GuestAddress;

use super::*;
use crate::virtio::device::VirtioDevice;
use crate::virtio::queue::QueueLayout;
use crate::virtio::vhost_user::events::GuestFault;
use crate::virtio::vhost_user::spec::Origin;
use crate::virtio::vhost_user::testing::backend::{Backend, Mischief, values};
use crate::virtio::vhost_user::testing::{Bench, MEMORY_BASE, lost, spec};

#[test]
fn reset_stops_the_queues_clears_the_inflight_region_and_ends() {
    let bench = Bench::new();
    bench.activate();
    let (_, backend) = bench.attach(Backend::default());
    bench.expect_running();
    bench.inflight.write_all_at(&[0xff; 8192], 0).unwrap();
    bench.device.begin_reset();
    bench.reset_ends();
    let mut region = vec![0xff; 8192];
    bench.inflight.read_exact_at(&mut region, 0).unwrap();
    assert!(region.iter().all(|byte| *byte == 0));
    assert_eq!(
        values(&backend.messages(), FrontendReq::GET_VRING_BASE).len(),
        2
    );
    // And the next life begins at zero on the same backend.
    bench.activate();
    assert!(matches!(bench.report(), DeviceEvent::Running));
    let messages = backend.messages();
    assert_eq!(values(&messages, FrontendReq::SET_VRING_BASE), [0; 4]);
    assert!(bench.signals.interrupted.lock().unwrap().is_empty());
}

#[test]
fn reset_with_the_backend_dead_waits_until_it_is_fenced() {
    for successor in [false, true] {
        let bench = Bench::new();
        bench.activate();
        let (control, _) = bench.attach(Backend::default());
        bench.expect_running();
        control.shutdown(std::net::Shutdown::Both).unwrap();
        lost(bench.report());
        bench.device.begin_reset();
        std::thread::sleep(Duration::from_millis(50));
        assert!(!bench.device.reset_done());
        if successor {
            bench.attach(Backend::default());
        } else {
            bench.device.fenced();
        }
        bench.reset_ends();
    }
}

#[test]
fn reset_with_a_foreign_backend_dead_or_deaf_ends_all_the_same() {
    let started = |backend: Backend| {
        let bench = Bench::with(spec(Origin::Foreign));
        bench.activate();
        let (control, backend) = bench.attach(backend);
        bench.expect_running();
        (bench, control, backend)
    };
    let (bench, control, backend) = started(Backend::default());
    control.shutdown(std::net::Shutdown::Both).unwrap();
    lost(bench.report());
    bench.device.begin_reset();
    bench.reset_ends();

    // Deaf to what comes after the start.
    let messages = backend.messages().len();
    let (bench, _, _) = started(Backend::bad(messages, Mischief::Silent));
    bench.device.begin_reset();
    bench.reset_ends();
}

/// It fills a kick eventfd that it has made blocking between a look at it and a write to it.
#[test]
fn reset_ends_though_a_foreign_backend_catches_kicks() {
    let bench = Bench::with(spec(Origin::Foreign));
    bench.activate();
    bench.attach(Backend::default());
    bench.expect_running();
    let kick = &bench.events[0].kick;
    fcntl(eventfd::borrow(kick), FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    for _ in 0..300 {
        std::thread::scope(|scope| {
            let hostile = scope.spawn(|| {
                for _ in 0..1000 {
                    eventfd::drain(kick);
                    kick.write(u64::MAX - 1).unwrap();
                }
            });
            for _ in 0..10_000 {
                if hostile.is_finished() {
                    break;
                }
                bench.device.notify(QueueIndex(0));
            }
            bench.device.begin_reset();
            bench.reset_ends();
            while !hostile.is_finished() {
                // It may have caught itself.
                eventfd::drain(kick);
            }
        });
        bench.activate();
        assert!(matches!(bench.report(), DeviceEvent::Running));
    }
}

#[test]
fn reset_of_queues_that_never_ran_ends_without_a_backend() {
    let bench = Bench::new();
    bench.activate();
    bench.device.begin_reset();
    bench.reset_ends();
}

#[test]
fn queue_outside_memory_is_the_guest_s_fault() {
    let bench = Bench::new();
    let outside = QueueLayout::new(
        64,
        GuestAddress(MEMORY_BASE),
        GuestAddress(MEMORY_BASE + 0x1000),
        GuestAddress(MEMORY_BASE + (1 << 20) - 256),
    );
    bench.activate_at([Bench::layout(0), outside.unwrap()]);
    bench.attach(Backend::default());
    bench.expect_connected();
    let report = bench.report();
    let fault = GuestFault::QueueOutsideMemory(QueueIndex(1));
    assert!(
        matches!(report, DeviceEvent::Guest(f) if f == fault),
        "{report:?}"
    );
    bench.device.begin_reset();
    bench.reset_ends();
    assert_eq!(*bench.signals.needs_reset.lock().unwrap(), 1);
    bench.activate();
    assert!(matches!(bench.report(), DeviceEvent::Running));
}
