// SPDX-License-Identifier: Apache-2.0
//! What a VM is: the JSON document, which has the same fields as the flags of `bulkhead run`, and
//! with the feature `api` the types of the API.
//!
//! The CLI and the jailer link it. It opens and touches nothing: a [`VmSpec`] is what the user
//! wrote, a [`Vm`] is validated, and only `TryFrom` makes one of the other. The jailer finds out
//! whether the files exist and the host is large enough.

mod affinity;
#[cfg(feature = "api")]
pub mod api;
mod cgroup;
mod cmdline;
mod console;
mod device;
mod disk;
mod document;
mod ended;
mod irqchip;
mod limits;
mod mac;
mod memory;
mod name;
mod net;
mod policy;
mod power_button;
mod size;
mod slots;
pub mod state;
mod uids;
mod vhost_user;
mod vm;

pub use affinity::{Affinity, AffinitySpec};
pub use cgroup::Cgroup;
pub use cmdline::CMDLINE_MAX_BYTES;
pub use console::{Console, check_socket_path};
pub use device::{DEVICE_ID_MAX_BYTES, DEVICES_MAX, DeviceId, POWER_BUTTON_ID, QUEUES_MAX};
pub use disk::{Disk, DiskEngine, DiskSpec, SERIAL_MAX_BYTES};
pub use document::{DOCUMENT_MAX_BYTES, DocumentError};
pub use ended::{Ended, Reason};
pub use ipc::cpu_model::CpuModel;
pub use ipc::cpu_set::CpuSet;
pub use ipc::mac::MacAddress;
pub use irqchip::Irqchip;
pub use limits::{Held, IoLimits, Limits, LimitsSpec};
pub use mac::derived as derived_mac;
pub use memory::{HugePages, Memory};
pub use name::VmName;
pub use net::{
    Forward, Net, NetGuard, NetKind, NetSpec, Protocol, TAP_NAME_MAX_BYTES, Tap, TapName, TapSource,
};
pub use policy::{LogFormat, OnReboot, Seccomp};
pub use power_button::PowerButton;
pub use size::ByteSize;
pub use uids::UidRange;
pub use vhost_user::{TAG_MAX_BYTES, VhostUser, VhostUserKind, VhostUserSpec, VhostUserType};
pub use vm::{CPUS_MAX, STOP_TIMEOUT_MAX_S, Vm, VmSpec, check_stop_timeout};

/// A field of the spec has an invalid value. One line: the field, the value, the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?}: {reason}")]
pub struct SpecError {
    /// The field as it is named in JSON; the flag of `bulkhead run` has the same name.
    pub field: &'static str,
    /// The value as it was written.
    pub value: String,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

impl SpecError {
    /// An error about `field`, which holds `value`.
    pub fn new(
        field: &'static str,
        value: impl std::fmt::Display,
        reason: impl std::fmt::Display,
    ) -> Self {
        Self {
            field,
            value: value.to_string(),
            reason: reason.to_string(),
        }
    }
}
