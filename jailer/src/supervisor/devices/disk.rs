// SPDX-License-Identifier: Apache-2.0
//! Disks: what their backends are started with, and the in-flight region that outlives them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use launch::disk::Geometry;
use launch::fd;
use launch::inflight;
use launch::record::{BlkEngine, BlkRecord, Record as _, VERSION};
use launch::ring::{self, RingWatch};
use spec::api::DeviceKind;
use spec::{Disk as DiskSpec, DiskEngine, SpecError};

use super::backend::Outfit;
use super::kind::{BackendError, Birth, How, Kind, Means, Opened, program};
use super::rendezvous::{self, Meeting};
use super::{BeginError, Image};
use crate::link::Question;
use crate::parked::Parked;
use crate::profile;

mod remains;

use remains::{DiskRemains, Ring};

/// A disk.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Its place in the spec.
    index: u8,
    spec: DiskSpec,
    /// What the guest is shown.
    geometry: Geometry,
    /// The opening of the first backend, and its mark.
    first: Option<(Parked, i64)>,
    /// In-flight requests outlive the backends, not the vmm.
    inflight: Option<OwnedFd>,
}

impl Disk {
    /// A disk that is an image.
    pub(crate) fn new(index: u8, spec: DiskSpec, image: Image) -> Self {
        Self {
            index,
            spec,
            geometry: image.geometry,
            first: Some((image.first, image.mark)),
            inflight: None,
        }
    }

    fn record(
        &self,
        means: &Means<'_>,
        geometry: Geometry,
        engine: BlkEngine,
        after_crash: bool,
    ) -> BlkRecord {
        let disk = &self.spec;
        BlkRecord {
            version: VERSION,
            vm_id: means.vm_id.into(),
            device_id: disk.id.to_string(),
            queues: disk.queues,
            queue_size: disk.queue_size,
            serial: disk.serial.clone(),
            readonly: disk.readonly,
            geometry,
            engine,
            poll_us: disk.poll_us,
            after_crash,
            seccomp: means.seccomp,
        }
    }
}

impl Kind for Disk {
    fn id(&self) -> &str {
        self.spec.id.as_str()
    }

    fn role(&self) -> String {
        format!("blk {}", self.spec.id)
    }

    fn fault(&self, reason: String) -> SpecError {
        SpecError::new("disk", self.spec.path.display(), reason)
    }

    fn renew(&mut self) -> Result<Option<OwnedFd>, BeginError> {
        let id = || self.spec.id.to_string();
        let region = inflight::create(self.spec.queues, self.spec.queue_size)
            .map_err(|source| BeginError::Inflight(id(), source))?;
        let copy = region.try_clone();
        let copy = copy.map_err(|source| BeginError::Duplicate(id(), source))?;
        self.inflight = Some(region);
        Ok(Some(copy))
    }

    fn kind(&self) -> DeviceKind {
        DeviceKind::Disk
    }

    fn queues(&self) -> u16 {
        self.spec.queues
    }

    fn needs(&self) -> Option<Question> {
        Some(Question::ReopenDisk(self.index))
    }

    fn first(&mut self) -> Option<Opened> {
        let (parked, mark) = self.first.take()?;
        Some(Opened {
            file: parked.take().ok()?,
            mark,
            geometry: Ok(self.geometry),
        })
    }

    fn prepare(
        &mut self,
        means: &Means<'_>,
        how: How<'_>,
        opened: Option<Opened>,
    ) -> Result<(Birth, OwnedFd), BackendError> {
        let inflight = self
            .inflight
            .as_ref()
            .ok_or(nix::Error::EBADF)?
            .try_clone()?;
        let Opened {
            file: opening,
            mark,
            geometry,
        } = opened.ok_or(BackendError::Unopened)?;
        let (engine, rings) = engine(&self.spec, opening.as_fd())?;
        let geometry = match how.anew {
            true => geometry.map_err(BackendError::Image)?,
            false => self.geometry,
        };
        let record = self.record(means, geometry, engine, how.after_crash);
        let record = record.write()?;
        let Meeting { listener, stream } = rendezvous::arrange()?;
        let mut fds = vec![(fd::blk::LISTENER, listener), (fd::blk::INFLIGHT, inflight)];
        if self.spec.engine == DiskEngine::Threads {
            fds.push((fd::blk::DISK, opening));
        }
        for (number, ring) in (fd::blk::RING..).zip(&rings) {
            fds.push((number, ring.fd.try_clone()?));
        }
        let outfit = Outfit {
            name: c"blk-backend",
            program: program(how, means.blk)?,
            record,
            fds,
            profile: profile::blk::profile(self.index, &self.spec, &self.geometry),
        };
        let remains = DiskRemains::new(self.index, rings, self.spec.queue_size, mark);
        let remains = Box::new(remains);
        Ok((Birth { outfit, remains }, stream))
    }
}

fn engine(
    disk: &DiskSpec,
    opening: BorrowedFd<'_>,
) -> Result<(BlkEngine, Vec<Ring>), BackendError> {
    if disk.engine == DiskEngine::Threads {
        return Ok((BlkEngine::Threads, Vec::new()));
    }
    let (mut all_params, mut rings) = (Vec::new(), Vec::new());
    for _ in 0..disk.queues {
        let (fd, params) = ring::create(disk.queue_size, opening)?;
        let watch = RingWatch::new(&fd, &params)?;
        rings.push(Ring { watch, fd });
        all_params.push(params);
    }
    Ok((BlkEngine::Uring(all_params), rings))
}
