// SPDX-License-Identifier: Apache-2.0
//! A disk request (virtio 1.2, §5.2.6): converts the buffers of a chain to an operation of an
//! engine, and the engine's result to the status byte.
//!
//! Runs on the worker thread that owns the queue. It copies all data from the guest once, then
//! checks it, then uses it.

use std::sync::Arc;

use device_backend::GuestMemory;
use device_backend::chain::{Buffer, Chain};
use ipc::record::SECTOR_BYTES;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};

use crate::config::{DISCARD_MAX_SECTORS, Disk, SERIAL_BYTES, WRITE_ZEROES_MAX_SECTORS};
use crate::io::{Io, Op};

/// The length of `struct virtio_blk_req` before its data.
const HEADER_BYTES: usize = 16;
/// The length of `struct virtio_blk_discard_write_zeroes`.
const RANGE_BYTES: usize = 16;

/// The status of a request for the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Failed, or not permitted.
    IoErr = 1,
    /// The device does not support it.
    Unsupported = 2,
}

const _: () = assert!(Status::Ok as u32 == VIRTIO_BLK_S_OK);
const _: () = assert!(Status::IoErr as u32 == VIRTIO_BLK_S_IOERR);
const _: () = assert!(Status::Unsupported as u32 == VIRTIO_BLK_S_UNSUPP);

/// The chain has no status byte: the device cannot report a status to the driver.
#[derive(Debug, thiserror::Error)]
#[error("the request has no status byte")]
pub struct NoStatus;

/// A parsed chain.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The engine must do the operation in `Io`.
    Io,
    /// It needs no I/O, or is done already.
    Done(Status),
}

/// The address of a request's status byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusByte(GuestAddress);

impl Default for StatusByte {
    fn default() -> Self {
        Self(GuestAddress(0))
    }
}

impl StatusByte {
    /// Removes the status byte, the last device-writable byte, from a chain.
    pub fn take(chain: &mut Chain, memory: &GuestMemory) -> Result<Self, NoStatus> {
        let last = chain.writable.last_mut().ok_or(NoStatus)?;
        last.len_bytes -= 1;
        let address = last.address.checked_add(u64::from(last.len_bytes));
        if last.len_bytes == 0 {
            chain.writable.pop();
        }
        match address {
            Some(address) if memory.address_in_range(address) => Ok(Self(address)),
            _ => Err(NoStatus),
        }
    }

    /// Writes the status to guest memory.
    pub fn write(self, memory: &GuestMemory, status: Status) {
        // `take` has checked the address in this memory.
        let _ = memory.write_obj(status as u8, self.0);
    }
}

/// Parses and validates the rest of a chain. Completes requests that need no engine. With
/// `durable`, the driver has not negotiated flushes, so that every write must be durable
/// (§5.2.6.2).
pub fn parse(
    chain: &mut Chain,
    memory: &GuestMemory,
    disk: &Disk,
    durable: bool,
    io: &mut Io,
) -> Parsed {
    io.clear(durable);
    let Some(header) = take_bytes::<HEADER_BYTES>(&mut chain.readable, memory) else {
        return Parsed::Done(Status::IoErr);
    };
    let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
    let sector = u64::from_le_bytes(sector);
    let outcome = match u32::from_le_bytes([t0, t1, t2, t3]) {
        VIRTIO_BLK_T_IN => transfer(&chain.writable, memory, disk, sector, Op::Read, io),
        // "A device MUST set the status byte to VIRTIO_BLK_S_IOERR for a write request if the
        // VIRTIO_BLK_F_RO feature if offered, and MUST NOT write any data." (§5.2.6.2)
        VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES if disk.readonly => {
            Err(Status::IoErr)
        }
        VIRTIO_BLK_T_OUT => transfer(&chain.readable, memory, disk, sector, Op::Write, io),
        VIRTIO_BLK_T_FLUSH => {
            io.set(Op::Flush, 0, 0);
            Ok(())
        }
        kind @ (VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES) => {
            match range(&mut chain.readable, memory, disk, kind, io) {
                Ok(false) => return Parsed::Done(Status::Ok),
                outcome => outcome.map(drop),
            }
        }
        VIRTIO_BLK_T_GET_ID => return Parsed::Done(get_id(&chain.writable, memory, disk)),
        _ => Err(Status::Unsupported),
    };
    match outcome {
        Ok(()) => Parsed::Io,
        Err(status) => Parsed::Done(status),
    }
}

/// Parses a read or write with the data `buffers`.
fn transfer(
    buffers: &[Buffer],
    memory: &GuestMemory,
    disk: &Disk,
    sector: u64,
    op: Op,
    io: &mut Io,
) -> Result<(), Status> {
    let len_bytes = buffers.iter().map(|b| u64::from(b.len_bytes)).sum();
    let offset = extent(disk, sector, len_bytes)?;
    for buffer in buffers {
        push(memory, *buffer, io)?;
    }
    io.set(op, offset, len_bytes);
    if disk.geometry.has_partial_blocks() {
        let block_bytes = u64::from(disk.geometry.io_block_bytes());
        io.keep_to_blocks(buffers, block_bytes)
            .map_err(|_| Status::IoErr)?;
    }
    if !io.is_aligned(&disk.geometry) {
        io.bounce(buffers, memory).map_err(|_| Status::IoErr)?;
    }
    Ok(())
}

/// The offset in bytes of a range of whole sectors, if it is on the disk and not empty.
fn extent(disk: &Disk, sector: u64, len_bytes: u64) -> Result<u64, Status> {
    let offset = sector.checked_mul(SECTOR_BYTES).ok_or(Status::IoErr)?;
    let end = offset.checked_add(len_bytes).ok_or(Status::IoErr)?;
    // "A driver MUST NOT submit a request which would cause a read or write beyond capacity."
    // (§5.2.6.1) "the length of data MUST be a multiple of 512 bytes" (§5.2.6)
    if end > disk.geometry.capacity_bytes || len_bytes == 0 {
        return Err(Status::IoErr);
    }
    if !len_bytes.is_multiple_of(SECTOR_BYTES) || len_bytes > Io::MAX_BYTES {
        return Err(Status::IoErr);
    }
    Ok(offset)
}

/// Adds a guest buffer to the vectors; one that crosses memory regions becomes several vectors.
fn push(memory: &GuestMemory, buffer: Buffer, io: &mut Io) -> Result<(), Status> {
    let len = usize::try_from(buffer.len_bytes).map_err(|_| Status::IoErr)?;
    if let Ok(slice) = memory.get_slice(buffer.address, len) {
        return io.push(&slice).map_err(|_| Status::IoErr);
    }
    for slice in memory.get_slices(buffer.address, len) {
        let slice = slice.map_err(|_| Status::IoErr)?;
        io.push(&slice).map_err(|_| Status::IoErr)?;
    }
    Ok(())
}

/// Parses a discard or write-zeroes request: the data is one range, as the configuration space
/// requires. False if there is nothing to do.
fn range(
    data: &mut Vec<Buffer>,
    memory: &GuestMemory,
    disk: &Disk,
    kind: u32,
    io: &mut Io,
) -> Result<bool, Status> {
    let range = take_bytes::<RANGE_BYTES>(data, memory).ok_or(Status::IoErr)?;
    if !data.is_empty() {
        return Err(Status::IoErr);
    }
    let [s @ .., n0, n1, n2, n3, f0, f1, f2, f3] = range;
    let (sector, sectors) = (u64::from_le_bytes(s), u32::from_le_bytes([n0, n1, n2, n3]));
    let flags = u32::from_le_bytes([f0, f1, f2, f3]);
    let unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
    let discard = kind == VIRTIO_BLK_T_DISCARD;
    // "The device MUST set the status byte to VIRTIO_BLK_S_UNSUPP for discard, secure erase and
    // write zeroes commands if any unknown flag is set. Furthermore, the device MUST set the status
    // byte to VIRTIO_BLK_S_UNSUPP for discard commands if the unmap flag is set." (§5.2.6.2)
    if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 || (discard && unmap) {
        return Err(Status::Unsupported);
    }
    let (most, op) = if discard {
        (DISCARD_MAX_SECTORS, Op::Discard)
    } else {
        (WRITE_ZEROES_MAX_SECTORS, Op::WriteZeroes { unmap })
    };
    let len_bytes = u64::from(sectors) * SECTOR_BYTES;
    let offset = sector.checked_mul(SECTOR_BYTES).ok_or(Status::IoErr)?;
    let end = offset.checked_add(len_bytes).ok_or(Status::IoErr)?;
    if sectors > most || sectors == 0 || end > disk.geometry.capacity_bytes {
        return Err(Status::IoErr);
    }
    io.set(op, offset, len_bytes);
    if !disk.geometry.has_partial_blocks() {
        return Ok(true);
    }
    let block_bytes = u64::from(disk.geometry.io_block_bytes());
    if discard {
        // Discard is a hint: keep a block of which the guest needs the rest.
        return Ok(io.shrink_to_blocks(block_bytes));
    }
    let fits = io.keep_to_blocks(&[], block_bytes);
    fits.map(|()| true).map_err(|_| Status::IoErr)
}

/// Writes the serial number to the guest's buffers.
fn get_id(buffers: &[Buffer], memory: &GuestMemory, disk: &Disk) -> Status {
    let mut serial = &disk.serial[..];
    let room: u64 = buffers.iter().map(|b| u64::from(b.len_bytes)).sum();
    if room < SERIAL_BYTES as u64 {
        return Status::IoErr;
    }
    for buffer in buffers {
        let len = serial.len().min(buffer.len_bytes as usize);
        let (now, later) = serial.split_at(len);
        if memory.write_slice(now, buffer.address).is_err() {
            return Status::IoErr;
        }
        serial = later;
    }
    Status::Ok
}

/// Copies the first `N` bytes of a list of buffers and removes them from it, across buffer
/// boundaries.
fn take_bytes<const N: usize>(buffers: &mut Vec<Buffer>, memory: &GuestMemory) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let (mut filled, mut spent) = (0, 0);
    while filled < N {
        let buffer = buffers.get_mut(spent)?;
        let len = (N - filled).min(buffer.len_bytes as usize);
        let part = bytes.get_mut(filled..filled + len)?;
        memory.read_slice(part, buffer.address).ok()?;
        filled += len;
        let taken = u32::try_from(len).ok()?;
        buffer.len_bytes -= taken;
        if buffer.len_bytes == 0 {
            spent += 1;
        } else {
            buffer.address = buffer.address.checked_add(u64::from(taken))?;
        }
    }
    buffers.drain(..spent);
    Some(bytes)
}

/// What to do after the engine has completed an operation.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The request is complete.
    Done(Status),
    /// `Io` was changed into the next operation of the request; start it.
    Again,
}

/// Evaluates the engine's result: the number of bytes or a negative errno. `memory` must be the one
/// in which the request was parsed.
pub fn completion(io: &mut Io, result: i32, memory: &GuestMemory) -> Outcome {
    let done = u64::try_from(result);
    match (io.op(), done) {
        // A short transfer is an error: the guest must not take the rest for data.
        (Op::Read | Op::Write, Ok(bytes)) if bytes == io.len_bytes() => match io.go_on(memory) {
            Ok(true) => Outcome::Again,
            Ok(false) => Outcome::Done(Status::Ok),
            Err(_) => Outcome::Done(Status::IoErr),
        },
        (Op::WriteZeroes { .. }, Ok(_)) if io.durable() => {
            io.become_flush();
            Outcome::Again
        }
        (Op::Flush | Op::Discard | Op::WriteZeroes { .. }, Ok(_)) => Outcome::Done(Status::Ok),
        // Discard is a hint: ignore it on storage that cannot deallocate.
        (Op::Discard, Err(_)) if result == -libc::EOPNOTSUPP => Outcome::Done(Status::Ok),
        (Op::WriteZeroes { .. }, Err(_)) if result == -libc::EOPNOTSUPP => {
            io.become_write_of_zeroes();
            Outcome::Again
        }
        _ => Outcome::Done(Status::IoErr),
    }
}

/// Why an operation failed, for the log.
pub fn failure(io: &Io, result: i32) -> String {
    match result {
        ..0 => std::io::Error::from_raw_os_error(-result).to_string(),
        done => format!("{done} of {} bytes at {}", io.len_bytes(), io.offset()),
    }
}

/// The number of bytes the device has written to the chain, for its used element.
pub fn written_bytes(io: &Io, status: Status) -> u32 {
    match (io.op(), status) {
        (Op::Read, Status::Ok) => u32::try_from(io.len_bytes() + 1).unwrap_or(u32::MAX),
        _ => 1,
    }
}

/// Guest memory, shared by all requests of a queue.
pub type Memory = Arc<GuestMemory>;

#[cfg(test)]
mod tests;
