// SPDX-License-Identifier: Apache-2.0
//! The verbs that change a running VM: one request each.

use std::path::Path;

use spec::api::{Reboot, Stop};

use crate::args::{Act, LinkState};
use crate::client;
use crate::error::Error;
use crate::output;
use crate::stop;
use crate::upgrade::{self, Devices};

/// Does it, and with `json` says so.
pub(crate) fn act(base: &Path, act: &Act, json: bool) -> Result<(), Error> {
    let (vm, verb) = match act {
        Act::Stop {
            vm,
            stop_timeout,
            force,
        } => {
            let wanted = Stop {
                force: *force,
                stop_timeout: *stop_timeout,
            };
            // It says itself by which button.
            return stop::stop(base, vm, wanted, json);
        }
        Act::Reboot {
            vm,
            stop_timeout,
            force,
        } => {
            let reboot = Reboot {
                force: *force,
                stop_timeout: *stop_timeout,
            };
            client::reboot(base, vm, reboot)?;
            (vm, "reboot")
        }
        Act::Pause { vm } => {
            client::put(base, vm, "/v1/vm/pause")?;
            (vm, "pause")
        }
        Act::Resume { vm } => {
            client::put(base, vm, "/v1/vm/resume")?;
            (vm, "resume")
        }
        Act::Restart { vm, device, wait } => {
            client::restart(base, vm, device, *wait)?;
            (vm, "restart")
        }
        Act::Link { vm, nic, state } => {
            client::link(base, vm, nic, *state == LinkState::Up)?;
            (vm, "link")
        }
        Act::Upgrade {
            vm, device, binary, ..
        } => {
            let devices = device.as_deref().map_or(Devices::All, Devices::One);
            return upgrade::upgrade(base, vm, devices, binary.as_deref(), json);
        }
    };
    output::acted(json, vm, verb)
}
