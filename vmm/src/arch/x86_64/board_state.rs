// SPDX-License-Identifier: Apache-2.0
//! What the devices of the board hold, for the vmm that follows. Saved on the state thread, restored on the
//! main thread.

use devices::ioapic::IoApicState;
use devices::serial::SerialState;
use devices::state::StateError;
use serde::{Deserialize, Serialize};

use super::board::Board;

/// What the devices of the board hold.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BoardState {
    ioapic: IoApicState,
    serial: SerialState,
    config_ports: u32,
}

impl Board {
    /// What its devices hold; the other ones hold nothing.
    pub(super) fn save(&self) -> BoardState {
        BoardState {
            ioapic: self.ioapic.save(),
            serial: self.serial.save(),
            config_ports: self.config_ports.save(),
        }
    }

    /// Sets what its devices hold.
    pub(super) fn restore(&self, state: &BoardState) -> Result<(), StateError> {
        self.ioapic.restore(&state.ioapic)?;
        self.serial.restore(&state.serial);
        self.config_ports.restore(state.config_ports);
        Ok(())
    }
}
