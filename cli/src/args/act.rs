// SPDX-License-Identifier: Apache-2.0
//! The verbs that change a running VM.

use std::path::PathBuf;

use clap::Subcommand;
use spec::VmName;

use super::examples;

/// How a cable is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LinkState {
    /// Plugged in.
    Up,
    /// Pulled.
    Down,
}

/// What is to be done with a VM.
#[derive(Debug, Subcommand)]
pub(crate) enum Act {
    /// Press a VM's power button, or end it at once
    #[command(after_help = examples::STOP)]
    Stop {
        /// The VM's name
        vm: VmName,
        /// End the VM if its guest has not powered off by then; return when the VM is gone
        #[arg(long, value_name = "SECONDS", conflicts_with = "force")]
        stop_timeout: Option<u32>,
        /// Do not ask the guest; return when the VM is gone
        #[arg(long)]
        force: bool,
    },
    /// Start a VM's guest anew
    #[command(after_help = examples::REBOOT)]
    Reboot {
        /// The VM's name
        vm: VmName,
        /// Reset the guest if it has not powered off by then
        #[arg(long, value_name = "SECONDS", conflicts_with = "force")]
        stop_timeout: Option<u32>,
        /// Do not ask the guest: reset it at once
        #[arg(long)]
        force: bool,
    },
    /// Stop a VM's vCPUs
    #[command(after_help = "Example:\n  bulkhead pause web && bulkhead resume web")]
    Pause {
        /// The VM's name
        vm: VmName,
    },
    /// Let a paused VM run again
    #[command(after_help = "Example:\n  bulkhead resume web")]
    Resume {
        /// The VM's name
        vm: VmName,
    },
    /// Replace the backend of a device, or bring one to a device that stalls; or replace the vmm
    #[command(after_help = examples::RESTART)]
    Restart {
        /// The VM's name
        vm: VmName,
        /// The device, as `bulkhead inspect` names it, or vmm
        device: String,
        /// Return when the next backend serves the device
        #[arg(long)]
        wait: bool,
    },
    /// Plug a network card's cable in, or pull it
    #[command(after_help = "Example:\n  bulkhead link web net0 down")]
    Link {
        /// The VM's name
        vm: VmName,
        /// The network card, as `bulkhead inspect` names it
        nic: String,
        /// up or down
        state: LinkState,
    },
    /// Replace the program behind a device, or the vmm, while the guest uses it
    #[command(after_help = examples::UPGRADE)]
    Upgrade {
        /// The VM's name
        vm: VmName,
        /// The device, as `bulkhead inspect` names it, or vmm
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        device: Option<String>,
        /// All devices that have processes of the VM's own, one after the other, and the vmm where that can be
        #[arg(long)]
        all: bool,
        /// The new program [default: the one installed beside bulkhead]
        #[arg(long, value_name = "FILE", conflicts_with = "all")]
        binary: Option<PathBuf>,
    },
}
