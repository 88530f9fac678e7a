// SPDX-License-Identifier: Apache-2.0
//! The NIC as the supervisor starts it.

use anyhow::Result;
use device_backend::serve::Service;
use ipc::fd::{claim, net};
use ipc::health::HealthPage;
use ipc::record::NetRecord;

use crate::config::Nic;
use crate::device::Device;
use crate::serve::{self, StartParams};

/// Starts the NIC.
pub(crate) fn start(record: &NetRecord, health: &'static HealthPage) -> Result<Service<Device>> {
    let nic = Nic {
        mac: Some(record.mac),
        mtu: record.mtu,
        pairs: record.pairs,
        queue_size: record.queue_size,
        uso: record.uso,
        guard: record.guard.clone(),
    };
    nic.check()?;
    let taps = (net::TAP..).take(usize::from(nic.pairs)).map(claim);
    Ok(serve::start(StartParams {
        taps: taps.collect::<Result<_, _>>()?,
        nic,
        listener: claim(net::LISTENER)?,
        state: Some(claim(net::STATE)?),
        link_up: record.link_up,
        health,
        poll_us: record.poll_us,
        seccomp: Some(record.seccomp),
    })?)
}
