// SPDX-License-Identifier: Apache-2.0
//! What a driver is told to do, and the file in which the host says it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Shared;

/// From one look at the file to the next.
const EVERY: Duration = Duration::from_millis(2);

/// What a driver is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Order {
    /// Load the device.
    Load,
    /// Reset the device, whatever is outstanding.
    Reset,
    /// Submit nothing more, and end when nothing is outstanding.
    Finish,
    /// End at once, whatever is outstanding: the guest reboots.
    Halt,
}

/// The order of one driver. A later order never takes back a stronger one.
#[derive(Debug, Default)]
pub(super) struct Orders(AtomicU8);

impl Orders {
    /// What is to be done.
    pub(super) fn get(&self) -> Order {
        match self.0.load(Ordering::SeqCst) {
            0 => Order::Load,
            1 => Order::Reset,
            2 => Order::Finish,
            _ => Order::Halt,
        }
    }

    /// Gives an order.
    pub(super) fn give(&self, order: Order) {
        self.0.fetch_max(order as u8, Ordering::SeqCst);
    }

    /// The reset is over.
    pub(super) fn reset_done(&self) {
        let (reset, load) = (Order::Reset as u8, Order::Load as u8);
        // It fails when there is a stronger order meanwhile.
        let _ = self
            .0
            .compare_exchange(reset, load, Ordering::SeqCst, Ordering::SeqCst);
    }
}

/// What was heard.
#[derive(Debug, Default)]
pub(super) struct Told(AtomicBool);

impl Told {
    /// Whether the guest reboots.
    pub(super) fn reboot(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Obeys what is appended to the file from now on, on a thread of its own.
pub(super) fn hear(file: File, shared: &Arc<Shared>) -> Result<Arc<Told>> {
    let mut at = file.metadata().context("the file with orders")?.len();
    let told = Arc::new(Told::default());
    let (shared, heard) = (Arc::clone(shared), Arc::clone(&told));
    std::thread::spawn(move || {
        let mut line = Vec::new();
        loop {
            std::thread::sleep(EVERY);
            let mut bytes = [0; 64];
            let Ok(len) = file.read_at(&mut bytes, at) else {
                shared.say("FAULT the file with orders cannot be read");
                return;
            };
            at += len as u64;
            for byte in &bytes[..len] {
                match byte {
                    b'\n' => obey(&std::mem::take(&mut line), &shared, &heard),
                    byte => line.push(*byte),
                }
            }
        }
    });
    Ok(told)
}

fn obey(line: &[u8], shared: &Shared, told: &Told) {
    // A guest that is paused does nothing of itself.
    let _running = shared.running();
    let line = String::from_utf8_lossy(line);
    match line.split_once(' ') {
        None if line == "reboot" => {
            told.0.store(true, Ordering::SeqCst);
            shared.tell_all(Order::Halt);
        }
        Some(("reset", device)) => {
            let orders = device
                .parse()
                .ok()
                .and_then(|n: usize| shared.orders.get(n));
            if let Some(orders) = orders {
                orders.give(Order::Reset);
            }
        }
        _ => shared.say(&format!("FAULT no such order: {line:?}")),
    }
}
