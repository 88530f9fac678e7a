// SPDX-License-Identifier: Apache-2.0
//! The driver of a NIC, which sends back what comes, and resets of the device in between.

use anyhow::{Context as _, Result};
use loadgen::memory::Memory;
use vmm::virtio::Device;

use super::Shared;
use super::disk::reset;
use super::orders::Order;
use crate::driver::Notify;
use crate::nic;
use crate::vcpu::Vcpu;

/// Drives the NIC, the device `index`, until the guest ends.
pub(super) fn drive(
    index: usize,
    device: &Device,
    mut memory: Memory,
    mac: [u8; 6],
    shared: &Shared,
) -> Result<()> {
    let orders = &shared.orders[index];
    let notify = [Notify::new()?, Notify::new()?];
    let vcpu = Vcpu::start(shared.seccomp)?;
    let mut resets = 0;
    loop {
        memory.rewind();
        let mut nic = nic::start(device, &mut memory, mac, &notify, &vcpu)?;
        while orders.get() == Order::Load {
            let running = shared.running();
            let sent = nic.send_back();
            drop(running);
            let waited = sent.and_then(|_| nic.wait());
            waited.with_context(|| format!("device {index}"))?;
        }
        if orders.get() != Order::Reset {
            break;
        }
        if !reset(device, orders, &vcpu)? {
            break;
        }
        resets += 1;
    }
    shared.say(&format!("SUM resets={resets}"));
    Ok(())
}
