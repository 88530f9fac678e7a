// SPDX-License-Identifier: Apache-2.0
//! Backends that are nobody: what a device has of a process, in the hands of a script.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use ipc::control::{Channel, FromBackend, ToBackend};
use ipc::health::{self, HealthPage};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::fstat;
use nix::unistd::Pid;
use spec::SpecError;
use spec::api::DeviceKind;

use super::super::child::ChildSpec;
use super::super::death::Death;
use super::super::devices::script::{
    BackendError, BeginError, Kind, Opened, PendingIo, PreparedBackend, SpawnOptions,
};
use super::super::jailer_link::JailerLink;
use super::super::process::{Actor, ManagedProcess, SpawnContext, SpawnError};
use crate::profile::Profile;

/// The queues of the device.
pub(super) const QUEUES: u16 = 2;

/// So often is enough to hear of an end: of one that was killed for another's end, once more.
const TOLD_MAX: u32 = 3;

/// One backend, from its start to after its death.
#[derive(Debug)]
pub(super) struct Part {
    /// How it ended, once it has.
    pub(super) death: Option<Death>,
    pub(super) reaped: bool,
    /// Nobody waits for its end any more.
    released: bool,
    /// How often its end was told.
    told: u32,
    /// The kernel still does something for it.
    pub(super) busy: bool,
    /// It is of a program that an upgrade brought.
    pub(super) upgraded: bool,
    /// It follows one that died of itself.
    #[cfg_attr(not(test), allow(dead_code, reason = "fuzz targets do not look at it"))]
    pub(super) after_crash: bool,
    /// The device was given to it.
    pub(super) served: bool,
    /// Its end of its stream, by which the other end is known.
    stream: u64,
    control: Option<Channel>,
    page: HealthPage,
}

impl Part {
    /// Ends, unless it has.
    pub(super) fn die(&mut self, death: Death) {
        if self.death.is_none() {
            self.death = Some(death);
            self.control = None;
        }
    }

    /// Whether poll would tell of its end, as it does for as long as it is asked.
    pub(super) fn is_told(&mut self) -> bool {
        let told = self.death.is_some() && !self.released;
        self.told += u32::from(told);
        assert!(self.told <= TOLD_MAX, "poll never waits again: {self:?}");
        told
    }

    pub(super) fn say(&self, message: &FromBackend) {
        if let Some(control) = &self.control {
            // If no program listens, nobody does.
            let _ = control.send(message);
        }
    }

    /// Answers the last ping, of its own accord if there was none.
    pub(super) fn beat(&self) {
        let Some(control) = &self.control else { return };
        let quiet = nix::poll::PollTimeout::ZERO;
        let pinged = || {
            let mut fds = [nix::poll::PollFd::new(
                control.as_fd(),
                nix::poll::PollFlags::POLLIN,
            )];
            nix::poll::poll(&mut fds, quiet).is_ok_and(|ready| ready > 0)
        };
        while pinged() {
            let Ok(Some(ToBackend::Ping(ping))) = control.receive() else {
                return;
            };
            for queue in &self.page.queues {
                queue.heartbeat.store(ping, Relaxed);
            }
        }
    }

    /// Its health page.
    #[cfg(test)]
    pub(super) fn writes_page(&self) -> &HealthPage {
        &self.page
    }

    /// The next message that it was sent.
    #[cfg(test)]
    pub(super) fn next_message(&self) -> Option<ToBackend> {
        let control = self.control.as_ref()?;
        let mut fds = [nix::poll::PollFd::new(
            control.as_fd(),
            nix::poll::PollFlags::POLLIN,
        )];
        nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).unwrap();
        match fds[0].any() {
            Some(true) => control.receive().unwrap(),
            _ => None,
        }
    }

    /// All of its workers answer this ping.
    #[cfg(test)]
    pub(super) fn answer(&self, ping: u32) {
        for queue in &self.page.queues {
            queue.heartbeat.store(ping, Relaxed);
        }
    }

    /// Whether all of its workers have answered a ping.
    pub(super) fn has_beaten(&self) -> bool {
        let queues = self.page.queues.iter().take(QUEUES.into());
        queues
            .map(|queue| queue.heartbeat.load(Relaxed))
            .all(|beat| beat != 0)
    }

    pub(super) fn claim(&self, requests: u64, flags: u32) {
        self.page.queues[0].requests.store(requests, Relaxed);
        self.page.queues[0].flags.store(flags, Relaxed);
    }
}

/// All of them, in the order in which they were prepared.
pub(super) type Cast = Rc<RefCell<Vec<Part>>>;

/// Which of them has the other end of this stream.
pub(super) fn behind(cast: &Cast, stream: &OwnedFd) -> Option<usize> {
    let number = fstat(stream).ok()?.st_ino;
    let cast = cast.borrow();
    cast.iter().position(|part| part.stream == number)
}

/// How many of the next backends cannot be had, because the host has no room for them.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    prepared: Cell<u8>,
    started: Cell<u8>,
}

impl Shortage {
    /// So many more cannot be prepared, so many that were cannot be started.
    pub(super) fn add(&self, prepared: u8, started: u8) {
        self.prepared.update(|count| count.saturating_add(prepared));
        self.started.update(|count| count.saturating_add(started));
    }
}

/// Whether one more fails.
fn fails(count: &Cell<u8>) -> bool {
    let left = count.get().checked_sub(1);
    count.set(left.unwrap_or(0));
    left.is_some()
}

/// The device whose backends they are.
#[derive(Debug)]
pub(super) struct Role(pub(super) Cast, pub(super) Rc<Shortage>);

impl Kind for Role {
    fn id(&self) -> &'static str {
        "played"
    }

    fn role(&self) -> String {
        "blk played".into()
    }

    fn fault(&self, reason: String) -> SpecError {
        SpecError::new("disk", "played", reason)
    }

    fn renew(&mut self) -> Result<Option<OwnedFd>, BeginError> {
        Ok(None)
    }

    fn kind(&self) -> Option<DeviceKind> {
        Some(DeviceKind::Disk)
    }

    fn queues(&self) -> u16 {
        QUEUES
    }

    fn prepare(
        &mut self,
        context: &SpawnContext,
        how: SpawnOptions<'_>,
        _: Option<Opened>,
    ) -> Result<(PreparedBackend, OwnedFd), BackendError> {
        if fails(&self.1.prepared) {
            return Err(nix::Error::ENFILE.into());
        }
        let page = health::create().map_err(SpawnError::from)?;
        let flags = SockFlag::SOCK_CLOEXEC;
        let (stream, exit) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
        let number = self.0.borrow().len();
        self.0.borrow_mut().push(Part {
            death: None,
            reaped: false,
            released: false,
            told: 0,
            busy: false,
            upgraded: how.program.is_some(),
            after_crash: how.after_crash,
            served: false,
            stream: fstat(&stream)?.st_ino,
            control: None,
            page: HealthPage::map(&page).map_err(SpawnError::from)?,
        });
        let child = ChildSpec {
            name: c"played",
            arg: None,
            program: context.binaries.vmm.try_clone()?,
            fds: vec![(0, exit), (1, page)],
            profile: Profile {
                user: 0,
                descriptors_max: 0,
                file_bytes_max: 0,
                threads_max: None,
                oom_score_adj: 0,
                affinity: None,
            },
        };
        let pending_io = Box::new(Left(Rc::clone(&self.0), number));
        Ok((PreparedBackend { child, pending_io }, stream))
    }

    fn start(&self, _: &SpawnContext, child: &ChildSpec) -> Result<ManagedProcess, SpawnError> {
        let (ours, theirs) = Channel::pair()?;
        let number = self.0.borrow().len() - 1;
        let part = &mut self.0.borrow_mut()[number];
        if fails(&self.1.started) {
            part.die(Death::Unknown);
            (part.reaped, part.released) = (true, true);
            return Err(nix::Error::EAGAIN.into());
        }
        part.control = Some(theirs);
        let player = Player {
            cast: Rc::clone(&self.0),
            number,
            exit: child.fds[0].1.try_clone().unwrap(),
        };
        ManagedProcess::of(Box::new(player), 0, ours, &child.fds[1].1)
    }
}

#[derive(Debug)]
struct Player {
    cast: Cast,
    number: usize,
    /// Never readable: who is dead is known.
    exit: OwnedFd,
}

impl Actor for Player {
    fn identify(&mut self, _: &JailerLink) -> bool {
        true
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.number).unwrap_or(0) + 2)
    }

    fn exit_fd(&self) -> BorrowedFd<'_> {
        self.exit.as_fd()
    }

    fn kill(&self) {
        let mut cast = self.cast.borrow_mut();
        cast[self.number].die(Death::Signalled(Signal::SIGKILL));
    }

    fn reap(&mut self) -> Option<Death> {
        let part = &mut self.cast.borrow_mut()[self.number];
        part.reaped |= part.death.is_some();
        part.death
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.kill();
        self.reap();
        self.cast.borrow_mut()[self.number].released = true;
    }
}

#[derive(Debug)]
struct Left(Cast, usize);

impl PendingIo for Left {
    fn is_quiesced(&mut self, _: &str, _: &JailerLink) -> bool {
        !self.0.borrow()[self.1].busy
    }

    fn is_busy(&self, _: u16) -> Option<bool> {
        Some(self.0.borrow()[self.1].busy)
    }
}
