// SPDX-License-Identifier: Apache-2.0
//! Opens, at the start of a VM, what may be on storage that does not answer: kernel, initrd,
//! images, and sockets of external backends. A helper does it, so that a signal can end the start
//! at any time.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use handover::host_resources::Image;
use handover::outcome::say;
use handover::parked::Parked;
use ipc::control::{Channel, ControlError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use serde::{Deserialize, Serialize};
use spec::{Disk, SpecError, VhostUser, Vm};

use super::cgroups::Drive;
use super::helper::{Helper, HelperError};
use super::image::fresh_mark;
use super::open::{open_file, open_initrd};
use super::open_image::{Fault, ImageReport, open_image, open_stream, shared_with};

/// After this time the jailer tells the user what the start waits for, in ms.
const PATIENCE_MS: u16 = 2000;

/// One thing to open.
#[derive(Debug)]
enum Item<'a> {
    Kernel(&'a Path),
    Initrd(&'a Path, u64),
    Disk(&'a Disk, Places),
    Socket(&'a VhostUser),
}

/// Where the helper parks the openings of an image.
#[derive(Debug)]
struct Places {
    /// The opening that keeps the image locked for the VM's whole life.
    witness: Parked,
    /// The first backend's opening, and the byte that it locks as its mark.
    first: Parked,
    mark: i64,
}

/// The helper's report on one item; its descriptor comes with it, unless the helper parked it.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    place: usize,
    outcome: Result<Option<ImageReport>, Fault>,
}

/// An image that was opened.
#[derive(Debug)]
pub(crate) struct OpenImage {
    pub(crate) witness: Parked,
    pub(crate) first: Parked,
    pub(super) report: ImageReport,
}

/// Splits images into what the jailer keeps, what the supervisor gets, and the drives they are on.
pub(super) fn part(images: Vec<OpenImage>) -> (Vec<Parked>, Vec<Image>, Vec<Drive>) {
    let (mut witnesses, mut rest, mut drives) = (Vec::new(), Vec::new(), Vec::new());
    for image in images {
        let ImageReport {
            geometry,
            mark,
            drive,
        } = image.report;
        witnesses.push(image.witness);
        rest.push(Image {
            first: image.first,
            mark,
            geometry,
        });
        drives.push(drive);
    }
    (witnesses, rest, drives)
}

/// All that the helper opened.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) kernel: Option<File>,
    pub(super) initrd: Option<File>,
    pub(super) images: Vec<OpenImage>,
    pub(super) streams: Vec<OwnedFd>,
}

/// The start ends early.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The user sent a signal.
    Asked {
        /// The signal's number.
        signal: i32,
        /// What the start was waiting for, if the user had been told so.
        line: Option<String>,
    },
    /// There is no helper to wait for.
    Helper(HelperError),
    /// The helper died.
    Died,
}

/// An opening in progress.
#[derive(Debug)]
pub(super) struct Opening<'a> {
    items: Vec<Item<'a>>,
    helper: Helper,
}

impl<'a> Opening<'a> {
    /// Starts a helper that opens everything of this VM's.
    pub(super) fn begin(vm: &'a Vm) -> Result<Self, HelperError> {
        let mut items = vec![Item::Kernel(&vm.kernel)];
        if let Some(initrd) = &vm.initrd {
            items.push(Item::Initrd(initrd, vm.memory.size_bytes()));
        }
        for disk in &vm.disks {
            let places = Places {
                witness: Parked::empty()?,
                first: Parked::empty()?,
                mark: fresh_mark(),
            };
            items.push(Item::Disk(disk, places));
        }
        items.extend(vm.vhost_user.iter().map(Item::Socket));
        let kept: Vec<_> = items.iter().flat_map(Item::ends).collect();
        let helper = Helper::start(&kept, |channel| open_all(&items, channel))?;
        drop(kept);
        Ok(Self { items, helper })
    }

    /// Waits for all reports of the helper; adds what is wrong to `errors`.
    pub(super) fn finish(
        self,
        signals: &SignalFd,
        errors: &mut Vec<SpecError>,
    ) -> Result<Found, Ended> {
        let Self { items, helper } = self;
        let mut found = Found::default();
        for (place, item) in items.into_iter().enumerate() {
            let (report, fd) = await_report(&helper, signals, &item)?;
            if report.place != place {
                return Err(Ended::Died);
            }
            match report.outcome {
                Ok(report) => found.add(item, report, fd).ok_or(Ended::Died)?,
                Err(fault) => errors.push(item.error(&fault)),
            }
        }
        Ok(found)
    }
}

impl Found {
    fn add(
        &mut self,
        item: Item<'_>,
        report: Option<ImageReport>,
        fd: Option<OwnedFd>,
    ) -> Option<()> {
        match item {
            Item::Kernel(_) => self.kernel = Some(fd?.into()),
            Item::Initrd(..) => self.initrd = Some(fd?.into()),
            Item::Socket(_) => self.streams.push(fd?),
            Item::Disk(_, Places { witness, first, .. }) => self.images.push(OpenImage {
                witness,
                first,
                report: report?,
            }),
        }
        Some(())
    }
}

impl Item<'_> {
    /// The descriptors that the helper needs for this item.
    fn ends(&self) -> Vec<std::os::fd::BorrowedFd<'_>> {
        match self {
            Self::Disk(_, places) => [places.witness.ends(), places.first.ends()].concat(),
            _ => Vec::new(),
        }
    }

    fn disk(&self) -> Option<&Disk> {
        match self {
            Self::Disk(disk, _) => Some(disk),
            _ => None,
        }
    }

    fn error(&self, fault: &Fault) -> SpecError {
        let reason = &fault.reason;
        match self {
            Self::Kernel(path) => SpecError::new("kernel", path.display(), reason),
            Self::Initrd(path, _) => SpecError::new("initrd", path.display(), reason),
            Self::Disk(disk, _) if fault.engine => {
                SpecError::new("disk.engine", disk.engine, reason)
            }
            Self::Disk(disk, _) => SpecError::new("disk", disk.path.display(), reason),
            Self::Socket(device) => SpecError::new("vhost-user", device.socket.display(), reason),
        }
    }

    /// The item's name for the user: the flag and the path.
    fn named(&self) -> String {
        match self {
            Self::Kernel(path) => format!("kernel {path:?}"),
            Self::Initrd(path, _) => format!("initrd {path:?}"),
            Self::Disk(disk, _) => format!("disk {:?}", disk.path),
            Self::Socket(device) => format!("vhost-user {:?}", device.socket),
        }
    }
}

/// Runs in the helper: opens each item and reports on it.
fn open_all(items: &[Item<'_>], channel: &Channel) {
    for (place, item) in items.iter().enumerate() {
        let shared = item.disk().and_then(|disk| {
            let before = items[..place].iter().filter_map(Item::disk);
            shared_with(before, disk)
        });
        let (outcome, fd) = match shared.map_or_else(|| open(item), Err) {
            Ok((report, fd)) => (Ok(report), fd),
            Err(fault) => (Err(fault), None),
        };
        let report = Report { place, outcome };
        let told = match fd {
            Some(fd) => channel.send_with(&report, fd.as_fd()),
            None => channel.send(&report),
        };
        if told.is_err() {
            return;
        }
    }
}

fn open(item: &Item<'_>) -> Result<(Option<ImageReport>, Option<OwnedFd>), Fault> {
    match item {
        Item::Kernel(path) => {
            let file = open_file(path).map_err(Fault::of)?;
            Ok((None, Some(file.into())))
        }
        Item::Initrd(path, mem_bytes) => {
            let file = open_initrd(path, *mem_bytes).map_err(Fault::of)?;
            Ok((None, Some(file.into())))
        }
        Item::Socket(device) => {
            let stream = open_stream(device).map_err(Fault::of)?;
            Ok((None, Some(stream)))
        }
        Item::Disk(disk, places) => {
            let (witness, first, report) = open_image(disk, places.mark)?;
            let park = |place: &Parked, fd: &File| {
                let parked = place.park(fd.as_fd());
                parked.map_err(|e| Fault::of(e.desc().into()))
            };
            park(&places.witness, &witness)?;
            park(&places.first, &first)?;
            Ok((Some(report), None))
        }
    }
}

/// Waits for the helper's next report, or for a signal that ends the start.
fn await_report(
    helper: &Helper,
    signals: &SignalFd,
    item: &Item<'_>,
) -> Result<(Report, Option<OwnedFd>), Ended> {
    let mut patience: PollTimeout = PATIENCE_MS.into();
    loop {
        match helper.channel().receive_with() {
            Ok(Some(report)) => return Ok(report),
            Err(ControlError::Receive(Errno::EAGAIN)) => {}
            Ok(None) | Err(_) => return Err(Ended::Died),
        }
        let mut fds = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(helper.channel().as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, patience) {
            Ok(0) => {
                patience = PollTimeout::NONE;
                say(&format!("{}: waits for its storage", item.named()));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Ended::Helper(errno.into())),
        }
        if let Ok(Some(signal)) = signals.read_signal() {
            let number = signal.ssi_signo.cast_signed();
            let signal = Signal::try_from(number).map_or("a signal", Signal::as_str);
            let waited = patience == PollTimeout::NONE;
            let line =
                waited.then(|| format!("ended by {signal} while {} was waited for", item.named()));
            return Err(Ended::Asked {
                signal: number,
                line,
            });
        }
    }
}
