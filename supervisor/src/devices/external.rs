// SPDX-License-Identifier: Apache-2.0
//! A device with an external vhost-user backend. The supervisor does not start, watch, fence or
//! replace it: when it is gone, the supervisor connects again as soon as a backend listens at its
//! socket.

use std::os::fd::OwnedFd;

use ipc::broker::Question;
use ipc::control::DeviceNews;
use ipc::inflight;
use spec::VhostUserKind;
use spec::api::{DeviceInfo, DeviceState, EventKind};

use super::managed::{Actions, DeviceAction};
use super::{BeginError, Link};
use crate::jailer_link::{AskError, Asked, JailerLink};

const MS_NS: u64 = 1_000_000;
/// The pauses before the first, second, … attempt to connect; the last one repeats.
const PAUSES_NS: [u64; 4] = [10 * MS_NS, 100 * MS_NS, 500 * MS_NS, 1000 * MS_NS];
/// A backend that has served for so long after a connection is no reason for a longer pause.
const STABLE_NS: u64 = 10_000 * MS_NS;
/// The least pause after the first, second, … backend in a row that has not; the last one repeats.
const FLAP_PAUSES_NS: [u64; 6] = [
    0,
    0,
    1000 * MS_NS,
    5000 * MS_NS,
    15_000 * MS_NS,
    60_000 * MS_NS,
];

/// What the API and errors say about a device.
#[derive(Debug)]
pub(crate) struct ExternalDeviceInfo {
    /// Its name.
    pub(crate) id: String,
    /// Its name in the spec, for errors.
    pub(crate) named: String,
    /// Whether the link is up, if it is a NIC.
    pub(crate) link_up: Option<bool>,
    /// The shape of its in-flight region, if its requests complete out of order: queues and size.
    pub(crate) tracked: Option<(u16, u16)>,
}

/// An external device and the connection to its backend.
#[derive(Debug)]
pub(crate) struct External {
    info: ExternalDeviceInfo,
    /// Its place among the external devices.
    index: u8,
    /// The connection for the next vmm.
    stream: Option<OwnedFd>,
    /// No vmm runs now.
    retired: bool,
    connected: bool,
    /// When to connect again; `attempts` counts the failures.
    retry_ns: Option<u64>,
    /// The jailer was asked to connect.
    asked: Option<Asked>,
    attempts: usize,
    /// When the vmm got the last connection, if that was not at the start of the guest; `flaps`
    /// counts the connections in a row that were lost soon.
    attached_ns: Option<u64>,
    flaps: usize,
    outages: u32,
}

impl External {
    /// A device that is connected already.
    pub(crate) fn new(index: u8, info: ExternalDeviceInfo, stream: OwnedFd) -> Self {
        Self {
            info,
            index,
            stream: Some(stream),
            retired: true,
            connected: false,
            retry_ns: None,
            asked: None,
            attempts: 0,
            attached_ns: None,
            flaps: 0,
            outages: 0,
        }
    }

    /// Its name.
    pub(crate) fn id(&self) -> &str {
        &self.info.id
    }

    /// Whether its link is up, if it has one.
    pub(crate) fn link_up(&self) -> Option<bool> {
        self.info.link_up
    }

    /// Sets the link; false if the device has none.
    pub(crate) fn set_link(&mut self, up: bool) -> bool {
        let has_link = self.info.link_up.is_some();
        self.info.link_up = has_link.then_some(up);
        has_link
    }

    /// Whether a connection for the next vmm is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.stream.is_some()
    }

    /// Takes the connection for a new vmm.
    pub(crate) fn begin(&mut self) -> Result<Link, BeginError> {
        let Some(stream) = self.stream.take() else {
            return Err(BeginError::Connect(self.info.named.clone()));
        };
        let region = self
            .info
            .tracked
            .map(|(queues, size)| inflight::create(queues, size));
        let inflight = region
            .transpose()
            .map_err(|source| BeginError::Inflight(self.info.id.clone(), source))?;
        (self.retired, self.outages) = (false, 0);
        (self.retry_ns, self.attempts) = (None, 0);
        (self.attached_ns, self.flaps) = (None, 0);
        Ok(Link { stream, inflight })
    }

    /// The vmm has ended; the next one waits until a backend listens again.
    pub(crate) fn retire(&mut self, now_ns: u64) {
        (self.retired, self.connected) = (true, false);
        (self.retry_ns, self.attempts) = (Some(now_ns), 0);
    }

    /// Handles the vmm's message about the device.
    pub(crate) fn hear(&mut self, news: &DeviceNews, now_ns: u64) -> Actions {
        let mut actions = Actions::default();
        match news {
            DeviceNews::Connected => {
                self.connected = true;
                (self.retry_ns, self.attempts) = (None, 0);
                actions.note(EventKind::BackendConnected, "");
            }
            DeviceNews::Lost(why) => {
                self.lost(now_ns);
                actions.note(EventKind::BackendLost, why);
            }
            // An external backend is neither watched nor replaced.
            _ => {}
        }
        actions
    }

    /// The vmm has lost the backend.
    fn lost(&mut self, now_ns: u64) {
        if std::mem::take(&mut self.connected) {
            self.outages = self.outages.saturating_add(1);
        }
        let flapped = self
            .attached_ns
            .is_some_and(|then_ns| now_ns.saturating_sub(then_ns) < STABLE_NS);
        self.flaps = if flapped { self.flaps + 1 } else { 0 };
        self.try_later(now_ns);
    }

    fn try_later(&mut self, now_ns: u64) {
        let pause_ns = PAUSES_NS[self.attempts.min(PAUSES_NS.len() - 1)];
        let pause_ns = pause_ns.max(FLAP_PAUSES_NS[self.flaps.min(FLAP_PAUSES_NS.len() - 1)]);
        self.attempts += 1;
        self.retry_ns = Some(now_ns + pause_ns);
    }

    /// When [`Self::tick`] must be called at the latest.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        self.retry_ns
    }

    /// Asks the jailer to connect when it is time, and looks for the answer.
    pub(crate) fn tick(&mut self, jailer: &JailerLink, now_ns: u64) -> Actions {
        let mut actions = Actions::default();
        if self
            .retry_ns
            .take_if(|then_ns| *then_ns <= now_ns)
            .is_some()
            && self.asked.is_none()
        {
            match jailer.ask(Question::ConnectForeign(self.index)) {
                Ok(asked) => self.asked = Some(asked),
                Err(error) => self.answered(Err(error), now_ns, &mut actions),
            }
        }
        if let Some(answer) = self.asked.as_ref().and_then(Asked::connected) {
            self.asked = None;
            self.answered(answer, now_ns, &mut actions);
        }
        actions
    }

    /// Handles the jailer's answer: it has connected, or could not.
    fn answered(&mut self, answer: Result<OwnedFd, AskError>, now_ns: u64, actions: &mut Actions) {
        match answer {
            Ok(stream) => {
                self.retry_ns = None;
                actions.note(EventKind::BackendStarted, "a program listens again");
                match self.retired {
                    true => self.stream = Some(stream),
                    false => {
                        self.attached_ns = Some(now_ns);
                        actions.push(DeviceAction::Attach(stream));
                    }
                }
            }
            Err(error) => {
                let error = host::log::chain(&error);
                log::debug!(device_id = self.info.id.as_str(); "{error}");
                if self.retired && self.attempts == 0 {
                    let why = format!("{error}: the guest's reboot waits until a program listens");
                    actions.note(EventKind::BackendLost, why);
                }
                self.try_later(now_ns);
            }
        }
    }

    /// For `inspect`.
    pub(crate) fn info(&self) -> DeviceInfo {
        DeviceInfo {
            id: self.info.id.clone(),
            role: self.info.named.clone(),
            state: match self.connected {
                true => DeviceState::Serving,
                false => DeviceState::Connecting,
            },
            restarts: self.outages,
            link_up: self.info.link_up,
        }
    }
}

/// Whether such a device completes requests out of order, so that a later backend needs a record of
/// those that are left.
pub(crate) fn is_tracked(kind: &VhostUserKind) -> bool {
    matches!(kind, VhostUserKind::Blk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::broker::{Answer, ToSupervisor};
    use ipc::control::Channel;
    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use std::os::fd::AsFd;

    fn somebody() -> OwnedFd {
        std::os::unix::net::UnixStream::pair().unwrap().0.into()
    }

    /// A device whose backend is lost a second after each connection.
    #[test]
    fn backend_that_ends_at_once_again_and_again_is_waited_for_longer() {
        let (ours, other) = Channel::pair().unwrap();
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let jailer = JailerLink::new(ours);
        let info = ExternalDeviceInfo {
            id: "net0".into(),
            named: "net.user \"net0\"".into(),
            link_up: Some(true),
            tracked: None,
        };
        let mut device = External::new(0, info, somebody());
        assert!(device.begin().is_ok());
        let (mut now_ns, mut pauses_ms) = (0, Vec::new());
        let mut number = 0;
        let mut serve = |device: &mut External, for_ns: u64| {
            now_ns += for_ns;
            device.hear(&DeviceNews::Lost("it hung up".into()), now_ns);
            let retry_ns = device.deadline_ns().unwrap();
            pauses_ms.push((retry_ns - now_ns) / MS_NS);
            now_ns = retry_ns;
            device.tick(&jailer, now_ns);
            number += 1;
            let opened = ToSupervisor::Answer(number, Answer::Opened);
            other.send_with(&opened, somebody().as_fd()).unwrap();
            assert_eq!(jailer.listen(), []);
            device.tick(&jailer, now_ns);
            device.hear(&DeviceNews::Connected, now_ns);
        };
        for _ in 0..8 {
            serve(&mut device, 1000 * MS_NS);
        }
        serve(&mut device, STABLE_NS);
        let told = [10, 10, 1000, 5000, 15_000, 60_000, 60_000, 60_000, 10];
        assert_eq!(pauses_ms, told);
    }

    #[test]
    fn reboot_waits_until_somebody_listens_again() {
        let (ours, other) = Channel::pair().unwrap();
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let jailer = JailerLink::new(ours);
        let info = ExternalDeviceInfo {
            id: "fs0".into(),
            named: "vhost-user \"/fs\"".into(),
            link_up: None,
            tracked: None,
        };
        let mut device = External::new(0, info, somebody());
        assert!(device.is_ready() && device.begin().is_ok());
        device.hear(&DeviceNews::Connected, 0);
        device.retire(0);
        let refused = Answer::Refused(Errno::ECONNREFUSED as i32);
        for (number, now_ns) in (1..).zip([0, PAUSES_NS[0], PAUSES_NS[0] + PAUSES_NS[1]]) {
            assert_eq!(device.deadline_ns(), Some(now_ns));
            device.tick(&jailer, now_ns);
            assert_eq!(device.deadline_ns(), None, "asked, and not answered");
            let answer = ToSupervisor::Answer(number, refused.clone());
            other.send(&answer).unwrap();
            assert_eq!(jailer.listen(), []);
            device.tick(&jailer, now_ns);
            assert!(!device.is_ready());
        }
        device.tick(&jailer, u64::MAX);
        let opened = ToSupervisor::Answer(4, Answer::Opened);
        other.send_with(&opened, somebody().as_fd()).unwrap();
        assert_eq!(jailer.listen(), []);
        let actions = device.tick(&jailer, u64::MAX);
        assert!(device.is_ready() && device.begin().is_ok());
        let mut actions = actions.into_iter();
        assert!(!actions.any(|action| matches!(action, DeviceAction::Attach(_))));
    }
}
