// SPDX-License-Identifier: Apache-2.0
//! MSI-X (PCI local bus 3.0 §6.8.2): the vector table, the pending bits, and the mapping of queues
//! to vectors.
//!
//! A queue's interrupt does not pass through the vmm: its call eventfd is assigned to its vector's
//! GSI (irqfd). While the vector is masked it is not assigned; then a readable eventfd *is* the
//! pending bit, and assigning it again delivers the interrupt.

use std::fmt;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::interrupt::{MsiMessage, MsiVectors};
use crate::state::{StateError, check_count};
use crate::virtio::device::QueueIndex;
use crate::virtio::eventfd::{self, QueueEvents};

/// The length of a table entry in bytes.
pub(super) const ENTRY_LEN_BYTES: usize = 16;

/// The bits of configuration space that control interrupts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Control {
    /// MSI-X Enable.
    pub(super) enabled: bool,
    /// Function Mask.
    pub(super) masked: bool,
    /// Bus Master Enable: a message is a write to memory.
    pub(super) bus_master: bool,
    /// INTx Disable: of the line, not of messages.
    pub(super) line_disabled: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    message: MsiMessage,
    masked: bool,
    /// An interrupt of the vmm is pending because the vector is masked.
    pending: bool,
}

/// An entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct EntryState {
    address: u64,
    data: u32,
    masked: bool,
    pending: bool,
}

/// The table and the pending bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MsixState(Vec<EntryState>);

#[derive(Debug)]
struct Line {
    events: Arc<QueueEvents>,
    vector: Option<u16>,
    assigned: Option<(u16, MsiMessage)>,
}

impl Line {
    /// Assigns the eventfd as `wanted`. `assigned` is the actual assignment, even after an error;
    /// an interrupt that arrives meanwhile stays pending in the eventfd.
    fn bring_to(
        &mut self,
        wanted: Option<(u16, MsiMessage)>,
        vectors: &dyn MsiVectors,
    ) -> io::Result<()> {
        let call = &self.events.call;
        if let Some((vector, _)) = self.assigned {
            vectors.deassign(vector, call)?;
            self.assigned = None;
        }
        if let Some((vector, message)) = wanted {
            vectors.assign(vector, message, call)?;
            self.assigned = wanted;
            // Assigning has sent the pending interrupt; clear it, so that it is not sent twice.
            eventfd::drain(call);
        }
        Ok(())
    }
}

pub(super) struct Msix {
    vectors: Arc<dyn MsiVectors>,
    entries: Vec<Entry>,
    lines: Vec<Line>,
    config_vector: Option<u16>,
    control: Control,
    /// The kernel refused an assignment. Every change and [`Msix::retry`] try again.
    faulted: bool,
}

impl fmt::Debug for Msix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Msix")
            .field("entries", &self.entries)
            .field("lines", &self.lines)
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}

impl Msix {
    /// A table with every vector masked, for queues with these eventfds.
    pub(super) fn new(vectors: Arc<dyn MsiVectors>, queues: &[Arc<QueueEvents>]) -> Self {
        let entry = Entry {
            message: MsiMessage::default(),
            masked: true,
            pending: false,
        };
        let line = |events: &Arc<QueueEvents>| Line {
            events: Arc::clone(events),
            vector: None,
            assigned: None,
        };
        Self {
            vectors,
            entries: vec![entry; super::vector_count(queues.len())],
            lines: queues.iter().map(line).collect(),
            config_vector: None,
            control: Control::default(),
            faulted: false,
        }
    }

    pub(super) fn save(&self) -> MsixState {
        let entry = |(vector, entry): (usize, &Entry)| EntryState {
            address: entry.message.address,
            data: entry.message.data,
            masked: entry.masked,
            pending: self.is_pending(vector),
        };
        MsixState(self.entries.iter().enumerate().map(entry).collect())
    }

    pub(super) fn check(&self, state: &MsixState) -> Result<(), StateError> {
        check_count("MSI-X vectors", state.0.len(), self.entries.len())
    }

    /// Sets table and pending bits, as far as there are as many as the state has.
    pub(super) fn restore(&mut self, state: &MsixState) {
        for (entry, state) in self.entries.iter_mut().zip(&state.0) {
            entry.message.address = state.address & !3;
            entry.message.data = state.data;
            entry.masked = state.masked;
            entry.pending = state.pending;
        }
        self.sync_routes();
    }

    /// The message of a vector, if it may be sent now.
    fn deliverable(&self, vector: u16) -> Option<MsiMessage> {
        let entry = self.entries.get(usize::from(vector))?;
        let Control {
            enabled,
            masked,
            bus_master,
            ..
        } = self.control;
        // §6.8.2.9: a vector is masked by its own bit or by the function's
        (enabled && bus_master && !masked && !entry.masked).then_some(entry.message)
    }

    /// Updates the assignments of the eventfds to the table, and delivers pending interrupts.
    fn sync_routes(&mut self) {
        for index in 0..self.lines.len() {
            self.settle_line(index);
        }
        for vector in (0..).take(self.entries.len()) {
            let Some(message) = self.deliverable(vector) else {
                continue;
            };
            // "if the Mask bit is cleared and the Pending bit is set, the function must schedule
            // sending the message" (§6.8.2.10)
            if std::mem::take(&mut self.entries[usize::from(vector)].pending) {
                self.vectors.send(message);
            }
        }
    }

    fn settle_line(&mut self, index: usize) {
        let wanted = self.wanted(index);
        let line = &mut self.lines[index];
        if wanted == line.assigned {
            return;
        }
        let outcome = line.bring_to(wanted, &*self.vectors);
        if let (Err(error), false) = (&outcome, self.faulted) {
            log::error!("cannot route the interrupt of queue {index}, trying again: {error}");
        }
        self.faulted |= outcome.is_err();
    }

    /// The assignment that a queue's eventfd should have.
    fn wanted(&self, index: usize) -> Option<(u16, MsiMessage)> {
        let vector = self.lines[index].vector?;
        Some((vector, self.deliverable(vector)?))
    }

    /// Retries the assignments that the kernel refused. A driver that waits for an interrupt makes
    /// no change that would retry them, so the device's thread calls this.
    pub(super) fn retry(&mut self) {
        if !self.faulted {
            return;
        }
        self.sync_routes();
        let settled = |index: usize| self.wanted(index) == self.lines[index].assigned;
        self.faulted = !(0..self.lines.len()).all(settled);
        if !self.faulted {
            log::info!("every interrupt is routed again");
        }
    }

    /// Sets the control bits of configuration space.
    pub(super) fn set_control(&mut self, control: Control) {
        if self.control != control {
            self.control = control;
            self.sync_routes();
        }
    }

    /// Maps a queue's interrupt to a vector.
    pub(super) fn map_queue(&mut self, queue: QueueIndex, vector: Option<u16>) {
        let index = usize::from(queue.0);
        if let Some(line) = self.lines.get_mut(index) {
            line.vector = vector;
            self.settle_line(index);
        }
    }

    /// Maps the interrupt of configuration changes to a vector.
    pub(super) fn map_config(&mut self, vector: Option<u16>) {
        self.config_vector = vector;
    }

    /// Unmaps every interrupt and clears the pending ones, as a device reset does.
    pub(super) fn unmap_all(&mut self) {
        self.config_vector = None;
        for index in 0..self.lines.len() {
            self.lines[index].vector = None;
            self.settle_line(index);
            eventfd::drain(&self.lines[index].events.call);
        }
        for entry in &mut self.entries {
            entry.pending = false;
        }
    }

    /// Sends the interrupt of a queue once.
    pub(super) fn interrupt_queue(&mut self, queue: QueueIndex) {
        let line = self.lines.get(usize::from(queue.0));
        if let Some(vector) = line.and_then(|line| line.vector) {
            self.interrupt(vector);
        }
    }

    /// Sends the interrupt of configuration changes once.
    pub(super) fn interrupt_config(&mut self) {
        if let Some(vector) = self.config_vector {
            self.interrupt(vector);
        }
    }

    fn interrupt(&mut self, vector: u16) {
        match self.deliverable(vector) {
            Some(message) => self.vectors.send(message),
            // §6.8.2.9: "while a vector is masked, the function is prohibited from sending the
            // associated message, and the function must set the associated Pending bit"
            None => {
                if let Some(entry) = self.entries.get_mut(usize::from(vector)) {
                    entry.pending = true;
                }
            }
        }
    }

    /// A driver's read of the table.
    pub(super) fn read_table(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let entry = self.entries.get(at / ENTRY_LEN_BYTES);
            *byte = entry.map_or(0, |entry| entry_image(entry)[at % ENTRY_LEN_BYTES]);
        }
    }

    /// A driver's write to the table: "must use aligned full DWORD or aligned full QWORD
    /// transactions; otherwise, the result is undefined" (§6.8.2).
    pub(super) fn write_table(&mut self, offset: usize, data: &[u8]) {
        if data.len() == 8 && offset.is_multiple_of(8) {
            self.write_entry(offset, &data[..4]);
            self.write_entry(offset + 4, &data[4..]);
        } else if data.len() == 4 && offset.is_multiple_of(4) {
            self.write_entry(offset, data);
        }
        self.sync_routes();
    }

    fn write_entry(&mut self, offset: usize, data: &[u8]) {
        let Some(entry) = self.entries.get_mut(offset / ENTRY_LEN_BYTES) else {
            return;
        };
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else {
            return;
        };
        let (low, high) = (0xffff_ffff_u64, 0xffff_ffff_0000_0000);
        let message = &mut entry.message;
        match offset % ENTRY_LEN_BYTES {
            // "software must always write zeroes to these two bits" (§6.8.2.7)
            0 => message.address = message.address & high | u64::from(value & !3),
            4 => message.address = message.address & low | u64::from(value) << 32,
            8 => message.data = value,
            _ => entry.masked = value & 1 != 0,
        }
    }

    /// A driver's read of the pending bits, which are read-only.
    pub(super) fn read_pending(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = (0..8)
                .filter(|bit| self.is_pending(8 * at + bit))
                .fold(0, |bits, bit| bits | 1 << bit);
        }
    }

    fn is_pending(&self, vector: usize) -> bool {
        let Some(entry) = self.entries.get(vector) else {
            return false;
        };
        let waits = |line: &Line| {
            line.vector.map(usize::from) == Some(vector)
                && line.assigned.is_none()
                && eventfd::is_readable(&line.events.call)
        };
        entry.pending || self.lines.iter().any(waits)
    }
}

fn entry_image(entry: &Entry) -> [u8; ENTRY_LEN_BYTES] {
    let mut image = [0; ENTRY_LEN_BYTES];
    image[..8].copy_from_slice(&entry.message.address.to_le_bytes());
    image[8..12].copy_from_slice(&entry.message.data.to_le_bytes());
    image[12] = u8::from(entry.masked);
    image
}

#[cfg(test)]
mod models;
#[cfg(test)]
mod tests;
