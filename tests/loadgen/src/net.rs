// SPDX-License-Identifier: Apache-2.0
//! The driver of a NIC: queues of buffers that each hold a header and a frame.
//!
//! A buffer is one descriptor, and belongs to the descriptor of its number; what is received may
//! take several of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use crate::connection::{Place, QueueFds};
use crate::memory::{Memory, MemoryError};
use crate::ring::{Descriptor, DeviceFault, NEXT, Ring, RingOptions, WRITE};

pub mod host;

/// The length of `struct virtio_net_hdr_v1`.
pub const HEADER_BYTES: usize = 12;
/// Where `num_buffers` is in it.
const NUM_BUFFERS: usize = 10;

/// A queue cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// There is no memory for it.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// There are no eventfds.
    #[error("cannot make eventfds")]
    Eventfd(#[source] std::io::Error),
}

/// Which way frames go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The device reads the buffers.
    Transmit,
    /// The device writes them.
    Receive,
}

/// A queue and its buffers.
#[derive(Debug)]
pub struct Queue {
    /// The driver's half of it.
    pub ring: Ring,
    /// Its eventfds.
    pub fds: Arc<QueueFds>,
    memory: Arc<device_backend::GuestMemory>,
    buffers: GuestAddress,
    buffer_bytes: u32,
    direction: Direction,
    free: Vec<u16>,
    /// Parts of a received frame whose rest is not there yet.
    parts: Vec<u8>,
}

impl Queue {
    /// A queue whose buffers have a length. Those to receive into are all offered.
    pub fn new(
        memory: &mut Memory,
        options: RingOptions,
        buffer_bytes: u32,
        direction: Direction,
    ) -> Result<Self, NetError> {
        let ring = Ring::new(memory, options)?;
        let buffers = memory.take(u64::from(options.size) * u64::from(buffer_bytes))?;
        let mut queue = Self {
            ring,
            fds: Arc::new(QueueFds::new().map_err(NetError::Eventfd)?),
            memory: memory.bytes(),
            buffers,
            buffer_bytes,
            direction,
            free: (0..options.size).rev().collect(),
            parts: Vec::new(),
        };
        if direction == Direction::Receive {
            queue.offer_room(options.size);
            queue.ring.show();
        }
        Ok(queue)
    }

    /// What a connection has to know.
    pub fn place(&self) -> Place {
        Place {
            size: self.ring.options().size,
            addresses: self.ring.addresses(),
            used: self.ring.used().clone(),
            fds: self.fds.clone(),
        }
    }

    /// Where a buffer is.
    pub fn buffer(&self, slot: u16) -> GuestAddress {
        GuestAddress(self.buffers.0 + u64::from(slot) * u64::from(self.buffer_bytes))
    }

    /// Offers so many of the free buffers to receive into, as far as there are as many.
    pub fn offer_room(&mut self, count: u16) {
        for _ in 0..count {
            let Some(slot) = self.free.pop() else {
                return;
            };
            self.describe(slot, self.buffer_bytes, WRITE);
            self.ring.offer(slot);
        }
    }

    fn describe(&mut self, slot: u16, len_bytes: u32, flags: u16) {
        let address = self.buffer(slot);
        let descriptor = Descriptor {
            address,
            len_bytes,
            flags,
            next: 0,
        };
        self.ring.describe(slot, descriptor);
    }

    /// Offers a frame with its header to be sent. False if no buffer is free.
    pub fn offer(&mut self, frame: &[u8]) -> bool {
        let Some(slot) = self.free.pop() else {
            return false;
        };
        let _ = self.memory.write_slice(frame, self.buffer(slot));
        self.describe(slot, u32::try_from(frame.len()).unwrap_or(0), 0);
        self.ring.offer(slot);
        true
    }

    /// Offers as many frames as there are free buffers, at most `count`; they were filled before and
    /// have this length.
    pub fn offer_filled(&mut self, count: usize, len_bytes: u32) -> usize {
        let count = count.min(self.free.len());
        for _ in 0..count {
            let Some(slot) = self.free.pop() else {
                break;
            };
            self.describe(slot, len_bytes, 0);
            self.ring.offer(slot);
        }
        count
    }

    /// Puts the same frame into every buffer.
    pub fn fill(&mut self, frame: &[u8]) {
        for slot in 0..self.ring.options().size {
            let _ = self.memory.write_slice(frame, self.buffer(slot));
        }
    }

    /// Shows the device what was offered, and kicks it if it wants that.
    pub fn show(&mut self) {
        if self.ring.show() {
            let _ = self.fds.kick.write(1);
        }
    }

    /// Takes back what was sent. Returns how many frames.
    pub fn reap(&mut self) -> Result<usize, DeviceFault> {
        let mut count = 0;
        while let Some((head, _)) = self.ring.reap()? {
            self.free.push(head);
            count += 1;
        }
        Ok(count)
    }

    /// Takes a received frame with its header, if there is a whole one; its buffers are free then.
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>, DeviceFault> {
        while let Some((head, len_bytes)) = self.ring.reap()? {
            let len = len_bytes.min(self.buffer_bytes) as usize;
            let start = self.parts.len();
            self.parts.resize(start + len, 0);
            let buffer = self.buffer(head);
            let _ = self.memory.read_slice(&mut self.parts[start..], buffer);
            self.free.push(head);
            let count = self.parts.get(NUM_BUFFERS..HEADER_BYTES);
            let whole = match count {
                Some([low, high]) => usize::from(u16::from_le_bytes([*low, *high])),
                _ => 1,
            };
            if self.parts.len().div_ceil(self.buffer_bytes as usize) >= whole {
                return Ok(Some(std::mem::take(&mut self.parts)));
            }
        }
        Ok(None)
    }

    /// Takes received frames without looking at them, and offers their buffers again. Returns how
    /// many buffers.
    pub fn recycle(&mut self) -> Result<usize, DeviceFault> {
        let mut count = 0;
        while let Some((head, _)) = self.ring.reap()? {
            self.ring.offer(head);
            count += 1;
        }
        Ok(count)
    }

    /// Waits for something used, looking for it awake for a while.
    pub fn wait(&mut self, spin: Duration, patience: Duration) -> bool {
        let began = Instant::now();
        while !self.ring.has_used() {
            if began.elapsed() < spin {
                std::hint::spin_loop();
                continue;
            }
            self.ring.enable_calls();
            if self.ring.has_used() {
                break;
            }
            if began.elapsed() > patience {
                return false;
            }
            host::wait_readable(&self.fds.call, Duration::from_millis(20));
            let _ = self.fds.call.read();
        }
        self.ring.disable_calls();
        true
    }

    /// Which way its frames go.
    pub fn direction(&self) -> Direction {
        self.direction
    }
}

/// The control queue.
#[derive(Debug)]
pub struct ControlQueue {
    /// The driver's half of it.
    pub ring: Ring,
    /// Its eventfds.
    pub fds: Arc<QueueFds>,
    memory: Arc<device_backend::GuestMemory>,
    buffer: GuestAddress,
}

/// Room for a command.
const COMMAND_BYTES: u64 = 32 << 10;

impl ControlQueue {
    /// A queue.
    pub fn new(memory: &mut Memory, options: RingOptions) -> Result<Self, NetError> {
        Ok(Self {
            ring: Ring::new(memory, options)?,
            fds: Arc::new(QueueFds::new().map_err(NetError::Eventfd)?),
            memory: memory.bytes(),
            buffer: memory.take(COMMAND_BYTES + 1)?,
        })
    }

    /// What a connection has to know.
    pub fn place(&self) -> Place {
        Place {
            size: self.ring.options().size,
            addresses: self.ring.addresses(),
            used: self.ring.used().clone(),
            fds: self.fds.clone(),
        }
    }

    /// Gives a command. The answer, `None` if there is none in time.
    pub fn command(&mut self, bytes: &[u8], patience: Duration) -> Result<Option<u8>, DeviceFault> {
        let answer = GuestAddress(self.buffer.0 + COMMAND_BYTES);
        let _ = self.memory.write_slice(bytes, self.buffer);
        let _ = self.memory.write_obj(0xff_u8, answer);
        let command = Descriptor {
            address: self.buffer,
            len_bytes: u32::try_from(bytes.len()).unwrap_or(0),
            flags: NEXT,
            next: 1,
        };
        self.ring.describe(0, command);
        let ack = Descriptor {
            address: answer,
            len_bytes: 1,
            flags: WRITE,
            next: 0,
        };
        self.ring.describe(1, ack);
        self.ring.offer(0);
        if self.ring.show() {
            let _ = self.fds.kick.write(1);
        }
        let deadline = Instant::now() + patience;
        while self.ring.reap()?.is_none() {
            if Instant::now() > deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(self.memory.read_obj(answer).ok())
    }
}
