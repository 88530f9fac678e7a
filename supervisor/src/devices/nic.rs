// SPDX-License-Identifier: Apache-2.0
//! NICs with a tap: what their backends are started with. The supervisor keeps the tap's queues
//! open, so that link, bridge port and queued packets outlive a backend. Nothing that a dead
//! backend began can still happen.

use std::os::fd::OwnedFd;

use handover::host_resources::TapParts;
use ipc::fd::{self, net};
use ipc::memfd::{self, Backing};
use ipc::record::{Guard, NetRecord, Record as _, VERSION};
use spec::api::DeviceKind;
use spec::{MacAddress, Net, NetGuard, SpecError, Tap};

use super::BeginError;
use super::kind::{BackendError, Kind, Opened, PreparedBackend, SUPERVISED, SpawnOptions, program};
use super::socket_pair::{self, SocketPair};
use crate::child::ChildSpec;
use crate::process::SpawnContext;
use crate::profile::Profile;

/// How long a worker thread polls for work before it sleeps, in µs.
const POLL_US: u32 = 50;

/// A NIC with a tap.
#[derive(Debug)]
pub(crate) struct Nic {
    id: String,
    mac: MacAddress,
    spec: Tap,
    tap: TapParts,
    profile: Profile,
    /// What the driver has set on the control queue outlives a backend, but not the vmm.
    state: Option<OwnedFd>,
    link_up: bool,
}

impl Nic {
    /// A NIC of the VM of this name.
    pub(crate) fn new(net: &Net, vm: &str, spec: Tap, tap: TapParts, profile: Profile) -> Self {
        Self {
            id: net.id.to_string(),
            mac: net.mac(vm),
            spec,
            tap,
            profile,
            state: None,
            link_up: true,
        }
    }

    fn record(&self, context: &SpawnContext) -> NetRecord {
        NetRecord {
            version: VERSION,
            vm_id: context.vm_id.clone(),
            device_id: self.id.clone(),
            pairs: self.spec.pairs,
            queue_size: self.spec.queue_size,
            mac: self.mac,
            mtu: self.spec.mtu,
            uso: self.tap.uso,
            link_up: self.link_up,
            guard: guard(&self.spec.guard),
            poll_us: POLL_US,
            seccomp: context.seccomp,
            log_format: context.log_format,
        }
    }
}

fn guard(spec: &NetGuard) -> Guard {
    Guard {
        mac: !spec.any_mac,
        services: !spec.any_service,
        ipv4: spec.ipv4.clone(),
        ipv6: spec.ipv6.clone(),
    }
}

impl Kind for Nic {
    fn id(&self) -> &str {
        &self.id
    }

    fn role(&self) -> String {
        format!("net {}", self.id)
    }

    fn fault(&self, reason: String) -> SpecError {
        self.spec.source.fault(reason)
    }

    fn renew(&mut self) -> Result<Option<OwnedFd>, BeginError> {
        let id = || self.id.clone();
        let state = memfd::shared("net-state", net::STATE_BYTES as u64, Backing::Shmem)
            .map_err(|source| BeginError::Inflight(id(), source))?;
        let copy = state.try_clone();
        let copy = copy.map_err(|source| BeginError::Duplicate(id(), source))?;
        self.state = Some(state);
        Ok(Some(copy))
    }

    fn keep(&mut self) -> Result<Option<OwnedFd>, BeginError> {
        let copy = self.state.as_ref().map(OwnedFd::try_clone).transpose();
        copy.map_err(|source| BeginError::Duplicate(self.id.clone(), source))
    }

    fn kind(&self) -> Option<DeviceKind> {
        Some(DeviceKind::Nic)
    }

    fn queues(&self) -> u16 {
        // The control queue has no traffic and no worker thread of its own.
        2 * self.spec.pairs
    }

    fn set_link(&mut self, up: bool) -> bool {
        self.link_up = up;
        true
    }

    fn link_up(&self) -> Option<bool> {
        Some(self.link_up)
    }

    fn prepare(
        &mut self,
        context: &SpawnContext,
        how: SpawnOptions<'_>,
        _: Option<Opened>,
    ) -> Result<(PreparedBackend, OwnedFd), BackendError> {
        let state = self.state.as_ref().ok_or(nix::Error::EBADF)?;
        let record = self.record(context).write()?;
        let SocketPair { listener, stream } = socket_pair::arrange()?;
        let mut fds = vec![
            (fd::RECORD, record),
            (net::LISTENER, listener),
            (net::STATE, state.try_clone()?),
        ];
        for (number, queue) in (net::TAP..).zip(&self.tap.queues) {
            fds.push((number, queue.try_clone()?));
        }
        let child = ChildSpec {
            name: c"net-backend",
            arg: Some(SUPERVISED),
            program: program(how, context.binaries.net.as_ref())?,
            fds,
            profile: self.profile,
        };
        let pending_io = Box::new(());
        Ok((PreparedBackend { child, pending_io }, stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn guard_is_strict_but_for_what_is_allowed() {
        let strict = NetGuard {
            any_mac: false,
            any_service: false,
            ipv4: Vec::new(),
            ipv6: Vec::new(),
        };
        let default = guard(&strict);
        assert!(default.mac && default.services);
        assert!(default.ipv4.is_empty() && default.ipv6.is_empty());
        let any_mac = guard(&NetGuard {
            any_mac: true,
            ..strict.clone()
        });
        assert!(!any_mac.mac && any_mac.services);
        let addressed = guard(&NetGuard {
            any_service: true,
            ipv4: vec![Ipv4Addr::LOCALHOST],
            ipv6: vec![Ipv6Addr::LOCALHOST],
            ..strict
        });
        assert!(addressed.mac && !addressed.services);
        assert_eq!(addressed.ipv4, [Ipv4Addr::LOCALHOST]);
        assert_eq!(addressed.ipv6, [Ipv6Addr::LOCALHOST]);
    }
}
