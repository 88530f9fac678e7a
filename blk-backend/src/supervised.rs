// SPDX-License-Identifier: Apache-2.0
//! The supervised disk.

use std::fs::File;
use std::sync::Arc;

use anyhow::Result;
use device_backend::serve::Service;
use ipc::fd::{blk, claim};
use ipc::health::HealthPage;
use ipc::record::{BlkEngine, BlkRecord};

use crate::config::Disk;
use crate::device::Device;
use crate::engine::Source;
use crate::serve::{self, StartParams};

/// Starts the disk of a launch record.
pub(crate) fn start(record: &BlkRecord, health: &'static HealthPage) -> Result<Service<Device>> {
    let disk = Disk {
        geometry: record.geometry,
        readonly: record.readonly,
        serial: Disk::serial_from(&record.serial),
        queues: record.queues,
        queue_size: record.queue_size,
    };
    disk.check()?;
    let engine = match &record.engine {
        BlkEngine::Uring(rings) => {
            let rings = (blk::RING..).zip(rings).take(usize::from(blk::QUEUES_MAX));
            let rings =
                rings.map(|(number, params)| Ok(host::ring::adopt(claim(number)?, params)?));
            Source::Rings(rings.collect::<Result<_>>()?)
        }
        BlkEngine::Threads => {
            let direct = record.geometry.memory_align_bytes > 1;
            Source::Threads(Arc::new(File::from(claim(blk::DISK)?)), direct)
        }
    };
    Ok(serve::start(StartParams {
        disk,
        listener: claim(blk::LISTENER)?,
        engine,
        inflight: Some(claim(blk::INFLIGHT)?),
        after_crash: record.after_crash,
        awaits_sync: record.awaits_sync,
        health,
        poll_us: record.poll_us,
        seccomp: Some(record.seccomp),
    })?)
}
