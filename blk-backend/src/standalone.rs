// SPDX-License-Identifier: Apache-2.0
//! The standalone disk.

use std::os::fd::AsFd;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use device_backend::fd_table;
use device_backend::health;
use device_backend::serve::Service;
use host::disk::Access;
use ipc::fd::blk;

use crate::config::Disk;
use crate::device::Device;
use crate::engine::Source;
use crate::options::{DiskOption, EngineOption, Options};
use crate::serve::{self, StartParams};

/// Starts a disk that serves one frontend.
pub(crate) fn start(options: &Options) -> Result<Service<Device>> {
    let inherited = options.inherited()?;
    let Some(option) = &options.device.disk else {
        bail!("--disk is needed");
    };
    let health = health::own()?;
    let (disk, engine) = open(option).with_context(|| format!("{}", option.path.display()))?;
    let listener = options.listener(inherited)?;
    Ok(serve::start(StartParams {
        disk,
        listener,
        engine,
        inflight: None,
        after_crash: false,
        awaits_sync: false,
        health,
        poll_us: option.poll_us,
        seccomp: options.seccomp.mode(),
    })?)
}

/// Opens the image and makes the engines, with the same restrictions as in a jail.
fn open(option: &DiskOption) -> Result<(Disk, Source)> {
    let access = Access {
        readonly: option.readonly,
        direct: option.direct,
        block_bytes: option.block_size,
    };
    let (file, geometry) = host::disk::open(&option.path, access)?;
    let disk = Disk {
        geometry,
        readonly: option.readonly,
        serial: Disk::serial_from(&option.serial),
        queues: option.queues,
        queue_size: option.queue_size,
    };
    disk.check()?;
    let file = fd_table::above_table(file.into())?;
    let source = match option.engine {
        EngineOption::Uring => {
            let rings = (blk::RING..)
                .take(usize::from(option.queues))
                .map(|number| {
                    let (ring, params) = host::ring::create(option.queue_size, file.as_fd())?;
                    Ok(host::ring::adopt(fd_table::at(number, ring)?, &params)?)
                });
            Source::Rings(rings.collect::<Result<_>>()?)
        }
        EngineOption::Threads => {
            let file = fd_table::at(blk::DISK, file)?;
            Source::Threads(Arc::new(file.into()), option.direct)
        }
    };
    Ok((disk, source))
}
