// SPDX-License-Identifier: Apache-2.0
//! A virtio-blk driver's queue: `depth` slots, each with its own header, data and status, that are
//! submitted and reaped independently of each other and of any connection.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::{Duration, Instant};

use device_backend::shared_mem::SharedMem;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vm_memory::GuestAddress;

use crate::connection::{Place, QueueFds};
use crate::memory::{Memory, MemoryError};
use crate::ring::{
    Descriptor, DeviceFault, INDIRECT, NEXT, Ring, RingOptions, WRITE, write_descriptor,
};

/// Requests a driver makes (virtio 1.2, §5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// VIRTIO_BLK_T_IN
    Read,
    /// VIRTIO_BLK_T_OUT
    Write,
    /// VIRTIO_BLK_T_FLUSH
    Flush,
    /// VIRTIO_BLK_T_GET_ID
    GetId,
    /// VIRTIO_BLK_T_DISCARD; the data is the range.
    Discard,
    /// VIRTIO_BLK_T_WRITE_ZEROES; the data is the range.
    WriteZeroes,
    /// A number that stands for nothing.
    Unknown,
}

impl Kind {
    fn number(self) -> u32 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Flush => 4,
            Self::GetId => 8,
            Self::Discard => 11,
            Self::WriteZeroes => 13,
            Self::Unknown => 77,
        }
    }

    fn device_writes(self) -> bool {
        matches!(self, Self::Read | Self::GetId)
    }
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub kind: Kind,
    /// The first sector.
    pub sector: u64,
    /// The length of the data in the slot's buffer.
    pub len_bytes: u32,
}

/// How a queue is to be.
#[derive(Debug, Clone, Copy)]
pub struct QueueOptions {
    /// The ring.
    pub ring: RingOptions,
    /// How many requests there may be at a time.
    pub depth: u16,
    /// The size of each data buffer.
    pub buffer_bytes: u32,
    /// Into how many descriptors the data is cut.
    pub segments: u16,
    /// Whether each request is one indirect descriptor.
    pub indirect: bool,
}

/// A slot came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The slot.
    pub slot: u16,
    /// The status byte.
    pub status: u8,
    /// The bytes written, as the used element has it.
    pub written_bytes: u32,
}

/// A queue.
#[derive(Debug)]
pub struct Queue {
    /// The ring.
    pub ring: Ring,
    /// Its eventfds.
    pub fds: Arc<QueueFds>,
    options: QueueOptions,
    slots: Vec<Slot>,
    status: SharedMem,
}

#[derive(Debug)]
struct Slot {
    header: GuestAddress,
    data: GuestAddress,
    status: GuestAddress,
    table: SharedMem,
    table_address: GuestAddress,
}

/// What a status byte holds until the device has written it.
const NO_STATUS: u8 = 0xff;

impl Queue {
    /// Puts a queue and its buffers into guest memory.
    pub fn new(memory: &mut Memory, options: QueueOptions) -> Result<Self, MemoryError> {
        let ring = Ring::new(memory, options.ring)?;
        let depth = u64::from(options.depth);
        let headers = memory.take(16 * depth)?;
        let status_address = memory.take(8 * depth)?;
        let table_bytes = 16 * (u64::from(options.segments) + 2);
        let tables = memory.take(table_bytes * depth)?;
        let buffer = u64::from(options.buffer_bytes).next_multiple_of(4096);
        let data = memory.take(buffer * depth)?;
        let mut slots = Vec::new();
        for slot in 0..depth {
            let table_address = GuestAddress(tables.0 + table_bytes * slot);
            let len = usize::try_from(table_bytes).unwrap_or(0);
            slots.push(Slot {
                header: GuestAddress(headers.0 + 16 * slot),
                data: GuestAddress(data.0 + buffer * slot),
                status: GuestAddress(status_address.0 + 8 * slot),
                table: memory.window(table_address, len)?,
                table_address,
            });
        }
        let status = memory.window(status_address, 8 * usize::from(options.depth))?;
        let fds = QueueFds::new().map_err(|e| MemoryError::Map(e.to_string()))?;
        let fds = Arc::new(fds);
        Ok(Self {
            ring,
            fds,
            options,
            slots,
            status,
        })
    }

    /// What a connection has to know of the queue.
    pub fn place(&self) -> Place {
        Place {
            size: self.options.ring.size,
            addresses: self.ring.addresses(),
            used: self.ring.used().clone(),
            fds: self.fds.clone(),
        }
    }

    /// How the queue is.
    pub fn options(&self) -> &QueueOptions {
        &self.options
    }

    /// Where a slot's data is.
    pub fn data(&self, slot: u16) -> GuestAddress {
        self.slots[usize::from(slot)].data
    }

    /// The descriptor head of a slot.
    pub fn head(&self, slot: u16) -> u16 {
        if self.options.indirect {
            slot
        } else {
            slot * (self.options.segments + 2)
        }
    }

    /// Puts a request into a slot and offers it; [`Queue::show`] shows it to the device.
    pub fn prepare(&mut self, memory: &Memory, slot: u16, request: Request) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&request.kind.number().to_le_bytes());
        header[8..].copy_from_slice(&request.sector.to_le_bytes());
        memory.write(&header, self.slots[usize::from(slot)].header);
        self.status_cell(slot).store(NO_STATUS, Relaxed);
        let chain = self.chain(slot, request);
        let head = self.head(slot);
        let target = &self.slots[usize::from(slot)];
        for (index, descriptor) in (0_u16..).zip(&chain) {
            if self.options.indirect {
                write_descriptor(&target.table, index, *descriptor);
            } else {
                let next = head + descriptor.next;
                self.ring.describe(
                    head + index,
                    Descriptor {
                        next,
                        ..*descriptor
                    },
                );
            }
        }
        if self.options.indirect {
            let table = Descriptor {
                address: target.table_address,
                len_bytes: 16 * u32::try_from(chain.len()).unwrap_or(0),
                flags: INDIRECT,
                next: 0,
            };
            self.ring.describe(head, table);
        }
        self.ring.offer(head);
    }

    /// Offers a flush in a slot whose header is anywhere: the slot's own head and the ring's last
    /// descriptor, which must be free.
    pub fn prepare_with_header_at(&mut self, slot: u16, header: GuestAddress) {
        self.status_cell(slot).store(NO_STATUS, Relaxed);
        let (head, last) = (self.head(slot), self.options.ring.size - 1);
        let first = Descriptor {
            address: header,
            len_bytes: 16,
            flags: NEXT,
            next: last,
        };
        let status = Descriptor {
            address: self.slots[usize::from(slot)].status,
            len_bytes: 1,
            flags: WRITE,
            next: 0,
        };
        self.ring.describe(head, first);
        self.ring.describe(last, status);
        self.ring.offer(head);
    }

    /// Header, data and status as a chain numbered from 0.
    fn chain(&self, slot: u16, request: Request) -> Vec<Descriptor> {
        let target = &self.slots[usize::from(slot)];
        let descriptor = |address, len_bytes, flags| Descriptor {
            address,
            len_bytes,
            flags,
            next: 0,
        };
        let mut chain = vec![descriptor(target.header, 16, 0)];
        let write = if request.kind.device_writes() {
            WRITE
        } else {
            0
        };
        let pieces = u32::from(self.options.segments);
        let piece = (request.len_bytes / pieces).max(512).next_multiple_of(512);
        let mut done = 0;
        while done < request.len_bytes {
            let left = request.len_bytes - done;
            let len = if left < 2 * piece && chain.len() >= usize::from(self.options.segments) {
                left
            } else {
                left.min(piece)
            };
            let address = GuestAddress(target.data.0 + u64::from(done));
            chain.push(descriptor(address, len, write));
            done += len;
        }
        chain.push(descriptor(target.status, 1, WRITE));
        let last = chain.len() - 1;
        for (next, descriptor) in (1..).zip(chain.iter_mut().take(last)) {
            descriptor.flags |= NEXT;
            descriptor.next = next;
        }
        chain
    }

    /// Shows the device what was prepared, and kicks it if it wants to be.
    pub fn show(&mut self) -> io::Result<()> {
        if self.ring.show() {
            self.fds.kick.write(1)?;
        }
        Ok(())
    }

    /// Takes back the next slot that is done.
    pub fn reap(&mut self) -> Result<Option<Completion>, DeviceFault> {
        let Some((head, written_bytes)) = self.ring.reap()? else {
            return Ok(None);
        };
        let slot = if self.options.indirect {
            head
        } else {
            head / (self.options.segments + 2)
        };
        let status = self.status_cell(slot).load(Acquire);
        Ok(Some(Completion {
            slot,
            status,
            written_bytes,
        }))
    }

    /// Sleeps until the device calls; first looks, awake, for as long as `spin`. False if nothing
    /// came within the patience.
    pub fn wait(&mut self, spin: Duration, patience: Duration) -> bool {
        let began = Instant::now();
        self.ring.disable_calls();
        while !spin.is_zero() && began.elapsed() < spin {
            if self.ring.has_used() {
                return true;
            }
            std::hint::spin_loop();
        }
        self.ring.enable_calls();
        // A call may be about something that was taken back before it came.
        while !self.ring.has_used() {
            let left = patience.saturating_sub(began.elapsed());
            if left.is_zero() {
                return false;
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let _ = poll(&mut [PollFd::new(self.call(), PollFlags::POLLIN)], timeout);
            let _ = self.fds.call.read();
        }
        true
    }

    /// Sleeps until the device calls, whether or not anything is used. False if it does not within the
    /// patience.
    pub fn called(&self, patience: Duration) -> bool {
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut [PollFd::new(self.call(), PollFlags::POLLIN)], timeout);
        self.fds.call.read().is_ok()
    }

    #[allow(unsafe_code)]
    fn call(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsRawFd;
        // SAFETY: the eventfd owns the descriptor and is borrowed for as long as the result is.
        unsafe { BorrowedFd::borrow_raw(self.fds.call.as_raw_fd()) }
    }

    fn status_cell(&self, slot: u16) -> &AtomicU8 {
        self.status.at(8 * usize::from(slot))
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.call()
    }
}
