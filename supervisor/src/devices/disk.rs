// SPDX-License-Identifier: Apache-2.0
//! Disks: what their backends are started with, and the in-flight region that outlives a backend.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use handover::parked::Parked;
use host::disk::{DiskError, checked, for_guest_of};
use host::ring::{self, RingWatch};
use ipc::broker::Question;
use ipc::fd;
use ipc::inflight;
use ipc::record::{BlkEngine, BlkRecord, Geometry, Record as _, VERSION};
use spec::api::DeviceKind;
use spec::{Disk as DiskSpec, DiskEngine, SpecError, Vm};

use super::fence::{DiskRemains, Ring};
use super::kind::{BackendError, Kind, Opened, PreparedBackend, SUPERVISED, SpawnOptions, program};
use super::socket_pair::{self, SocketPair};
use super::{BeginError, Image};
use crate::child::ChildSpec;
use crate::process::SpawnContext;
use crate::profile::{self, OfDisk};

/// A disk.
#[derive(Debug)]
pub(crate) struct Disk {
    /// The disk's place in the spec.
    index: u8,
    spec: DiskSpec,
    /// The size and block size that the guest sees.
    geometry: Geometry,
    /// What the user says of its backends' jails.
    given: OfDisk,
    /// The guest has rebooted and has not seen the disk yet.
    forgotten: bool,
    /// The first backend's opening, and its mark.
    first: Option<(Parked, i64)>,
    /// In-flight requests outlive a backend, but not the vmm.
    inflight: Option<OwnedFd>,
}

impl Disk {
    /// The disk at place `index` of a VM, with this image.
    pub(crate) fn new(vm: &Vm, index: u8, spec: DiskSpec, image: Image) -> Self {
        Self {
            index,
            spec,
            geometry: image.geometry,
            given: OfDisk::new(vm, index),
            forgotten: false,
            first: Some((image.first, image.mark)),
            inflight: None,
        }
    }

    /// The geometry that a backend is to serve; `now` is what the image is now. A backend that
    /// follows another serves the geometry that the guest knows. A guest that has rebooted sees the
    /// image as it is now, unless it has grown by part of a sector.
    fn to_serve(
        &self,
        now: Result<Geometry, String>,
        anew: bool,
    ) -> Result<Geometry, BackendError> {
        let known = self.geometry;
        if !self.forgotten && !anew {
            return Ok(known);
        }
        let now = now.map_err(BackendError::Image)?;
        let served = match self.forgotten {
            true => checked(now),
            false => for_guest_of(now, known),
        };
        match served {
            Err(DiskError::PartialSector(bytes)) if bytes > known.capacity_bytes => Ok(known),
            served => served.map_err(|e| BackendError::Image(e.to_string())),
        }
    }

    fn record(
        &self,
        context: &SpawnContext,
        geometry: Geometry,
        engine: BlkEngine,
        how: SpawnOptions<'_>,
    ) -> BlkRecord {
        let disk = &self.spec;
        BlkRecord {
            version: VERSION,
            vm_id: context.vm_id.clone(),
            device_id: disk.id.to_string(),
            queues: disk.queues,
            queue_size: disk.queue_size,
            serial: disk.serial.clone(),
            readonly: disk.readonly,
            geometry,
            engine,
            poll_us: disk.poll_us,
            after_crash: how.after_crash,
            awaits_sync: how.awaits_sync && !disk.readonly,
            seccomp: context.seccomp,
            log_format: context.log_format,
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
        self.forgotten = self.inflight.replace(region).is_some();
        Ok(Some(copy))
    }

    fn keep(&mut self) -> Result<Option<OwnedFd>, BeginError> {
        let copy = self.inflight.as_ref().map(OwnedFd::try_clone).transpose();
        copy.map_err(|source| BeginError::Duplicate(self.spec.id.to_string(), source))
    }

    fn kind(&self) -> Option<DeviceKind> {
        Some(DeviceKind::Disk)
    }

    fn queues(&self) -> u16 {
        self.spec.queues
    }

    fn needs(&self) -> Option<Question> {
        Some(Question::ReopenDisk(self.index))
    }

    fn witness(&self) -> Option<Question> {
        (!self.spec.readonly).then_some(Question::SyncDisk(self.index))
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
        context: &SpawnContext,
        how: SpawnOptions<'_>,
        opened: Option<Opened>,
    ) -> Result<(PreparedBackend, OwnedFd), BackendError> {
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
        let geometry = self.to_serve(geometry, how.anew)?;
        let record = self.record(context, geometry, engine, how);
        let record = record.write()?;
        let SocketPair { listener, stream } = socket_pair::arrange()?;
        let mut fds = vec![
            (fd::RECORD, record),
            (fd::blk::LISTENER, listener),
            (fd::blk::INFLIGHT, inflight),
        ];
        if self.spec.engine == DiskEngine::Threads {
            fds.push((fd::blk::DISK, opening));
        }
        for (number, ring) in (fd::blk::RING..).zip(&rings) {
            fds.push((number, ring.fd.try_clone()?));
        }
        let child = ChildSpec {
            name: c"blk-backend",
            arg: Some(SUPERVISED),
            program: program(how, context.binaries.blk.as_ref())?,
            fds,
            profile: profile::of_disk(self.index, &self.spec, &geometry, self.given),
        };
        if std::mem::take(&mut self.forgotten) {
            self.geometry = geometry;
        }
        let pending_io = DiskRemains::new(self.index, rings, self.spec.queue_size, mark);
        let pending_io = Box::new(pending_io);
        Ok((PreparedBackend { child, pending_io }, stream))
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

#[cfg(test)]
mod tests {
    use super::*;
    use spec::{DiskSpec, VmSpec};

    const LEN: u64 = 1 << 20;

    fn of(capacity_bytes: u64) -> Geometry {
        Geometry {
            capacity_bytes,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            storage_block_bytes: 512,
            memory_align_bytes: 1,
            block_device: false,
        }
    }

    /// A disk that a guest knows to be this long.
    fn disk() -> Disk {
        let mut spec = VmSpec::new("/k");
        spec.disks = vec![DiskSpec::new("/image")];
        let vm = Vm::try_from(spec).unwrap();
        let image = Image {
            first: Parked::empty().unwrap(),
            mark: 0,
            geometry: of(LEN),
        };
        let mut disk = Disk::new(&vm, 0, vm.disks[0].clone(), image);
        disk.renew().unwrap();
        disk
    }

    /// How long it is served, if the image is as long as this.
    fn served(disk: &Disk, len: u64, anew: bool) -> Result<u64, String> {
        let geometry = disk.to_serve(Ok(of(len)), anew);
        let len = geometry.map(|geometry| geometry.capacity_bytes);
        len.map_err(|error| error.to_string())
    }

    #[test]
    fn image_that_has_grown_stays_what_the_guest_knows_until_it_reboots() {
        let mut disk = disk();
        assert_eq!(served(&disk, 2 * LEN, false), Ok(LEN), "after a crash");
        assert_eq!(served(&disk, 2 * LEN, true), Ok(LEN), "for an upgrade");
        disk.renew().unwrap();
        assert_eq!(served(&disk, 2 * LEN, false), Ok(2 * LEN));
        assert_eq!(served(&disk, LEN + 7, false), Ok(LEN), "a part of a sector");
        assert_eq!(served(&disk, LEN / 2, false), Ok(LEN / 2));
        assert!(served(&disk, 0, false).unwrap_err().contains("empty"));
    }

    #[test]
    fn image_that_has_shrunk_is_not_served_by_another_program() {
        let told = served(&disk(), LEN - 512, true).unwrap_err();
        assert!(
            told.contains("1048064 bytes") && told.contains("1048576"),
            "{told}"
        );
        assert_eq!(served(&disk(), LEN - 512, false), Ok(LEN), "after a crash");
    }
}
