// SPDX-License-Identifier: Apache-2.0
use super::*;
use ipc::record::Geometry;

const HEADER: u64 = 0x1000;
const DATA: u64 = 0x2000;
const STATUS: u64 = 0x8000;
const CAPACITY_SECTORS: u64 = 2048;

fn memory() -> Memory {
    Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0x1000), 0x8000)]).unwrap())
}

fn disk(readonly: bool, memory_align_bytes: u32) -> Disk {
    Disk {
        geometry: Geometry {
            capacity_bytes: CAPACITY_SECTORS * SECTOR_BYTES,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            storage_block_bytes: 512,
            memory_align_bytes,
            block_device: false,
        },
        readonly,
        serial: Disk::serial_from("serial"),
        queues: 1,
        queue_size: 128,
    }
}

fn buffer(address: u64, len_bytes: u32) -> Buffer {
    Buffer {
        address: GuestAddress(address),
        len_bytes,
    }
}

/// A request: its type, its sector, its data, and a status byte.
struct Case {
    memory: Memory,
    disk: Disk,
    chain: Chain,
    io: Io,
}

impl Case {
    fn new(kind: u32, sector: u64) -> Self {
        let memory = memory();
        memory.write_obj(kind, GuestAddress(HEADER)).unwrap();
        memory.write_obj(sector, GuestAddress(HEADER + 8)).unwrap();
        let mut chain = Chain::default();
        chain.readable.push(buffer(HEADER, 16));
        let (disk, io) = (disk(false, 1), Io::default());
        Self {
            memory,
            disk,
            chain,
            io,
        }
    }

    fn read(sector: u64, len_bytes: u32) -> Self {
        let mut case = Self::new(VIRTIO_BLK_T_IN, sector);
        case.chain.writable.push(buffer(DATA, len_bytes));
        case
    }

    fn write(sector: u64, len_bytes: u32) -> Self {
        let mut case = Self::new(VIRTIO_BLK_T_OUT, sector);
        case.chain.readable.push(buffer(DATA, len_bytes));
        case
    }

    fn range(kind: u32, sector: u64, sectors: u32, flags: u32) -> Self {
        let mut case = Self::new(kind, 0);
        case.memory.write_obj(sector, GuestAddress(DATA)).unwrap();
        case.memory
            .write_obj(sectors, GuestAddress(DATA + 8))
            .unwrap();
        case.memory
            .write_obj(flags, GuestAddress(DATA + 12))
            .unwrap();
        case.chain.readable.push(buffer(DATA, 16));
        case
    }

    fn parse(&mut self) -> Parsed {
        self.chain.writable.push(buffer(STATUS, 1));
        let status = StatusByte::take(&mut self.chain, &self.memory).unwrap();
        assert_eq!(status, StatusByte(GuestAddress(STATUS)));
        parse(
            &mut self.chain,
            &self.memory,
            &self.disk,
            false,
            &mut self.io,
        )
    }
}

#[test]
fn read_becomes_vectors_into_guest_memory() {
    let mut case = Case::read(8, 4096);
    assert_eq!(case.parse(), Parsed::Io);
    assert_eq!((case.io.op(), case.io.offset()), (Op::Read, 4096));
    let host = case.memory.get_host_address(GuestAddress(DATA)).unwrap();
    assert_eq!(case.io.vectors().len(), 1);
    assert_eq!(case.io.vectors()[0].iov_base, host.cast());
    assert_eq!(written_bytes(&case.io, Status::Ok), 4097);
}

#[test]
fn request_cut_into_odd_pieces_is_the_same_request() {
    let mut case = Case::new(VIRTIO_BLK_T_OUT, 3);
    // "The device MUST NOT make assumptions about the particular arrangement of descriptors."
    // (§2.7.4.1)
    case.chain.readable = vec![
        buffer(HEADER, 1),
        buffer(HEADER + 1, 9),
        buffer(HEADER + 10, 6),
        buffer(DATA, 100),
        buffer(DATA + 100, 412),
    ];
    assert_eq!(case.parse(), Parsed::Io);
    assert_eq!((case.io.offset(), case.io.len_bytes()), (3 * 512, 512));
    assert_eq!(case.io.vectors().len(), 2);
}

#[test]
fn header_and_data_in_one_buffer_are_told_apart() {
    let mut case = Case::new(VIRTIO_BLK_T_OUT, 0);
    case.chain.readable = vec![buffer(HEADER, 16 + 512)];
    assert_eq!(case.parse(), Parsed::Io);
    assert_eq!(case.io.len_bytes(), 512);
}

#[test]
fn status_in_the_last_byte_of_a_larger_buffer_is_found() {
    let memory = memory();
    let mut chain = Chain::default();
    chain.writable.push(buffer(DATA, 513));
    let status = StatusByte::take(&mut chain, &memory).unwrap();
    assert_eq!(status, StatusByte(GuestAddress(DATA + 512)));
    assert_eq!(chain.writable, [buffer(DATA, 512)]);
}

#[test]
fn request_without_a_reachable_status_byte_cannot_be_answered() {
    let memory = memory();
    assert!(StatusByte::take(&mut Chain::default(), &memory).is_err());
    for address in [0, 0x9000, u64::MAX] {
        let mut chain = Chain::default();
        chain.writable.push(buffer(address, 1));
        assert!(StatusByte::take(&mut chain, &memory).is_err());
    }
}

#[test]
fn header_short_or_outside_memory_is_an_error() {
    let mut case = Case::new(VIRTIO_BLK_T_IN, 0);
    case.chain.readable = vec![buffer(HEADER, 15)];
    assert_eq!(case.parse(), Parsed::Done(Status::IoErr));
    let mut case = Case::new(VIRTIO_BLK_T_IN, 0);
    case.chain.readable = vec![buffer(0x8ff8, 16)];
    assert_eq!(case.parse(), Parsed::Done(Status::IoErr));
}

#[test]
fn transfer_beyond_the_capacity_is_an_error() {
    for (sector, len) in [
        (CAPACITY_SECTORS, 512),
        (CAPACITY_SECTORS - 1, 1024),
        (u64::MAX / 512, 512),
        (u64::MAX, 512),
    ] {
        assert_eq!(Case::read(sector, len).parse(), Parsed::Done(Status::IoErr));
        assert_eq!(
            Case::write(sector, len).parse(),
            Parsed::Done(Status::IoErr)
        );
    }
    assert_eq!(Case::read(CAPACITY_SECTORS - 1, 512).parse(), Parsed::Io);
}

#[test]
fn transfer_of_part_of_a_sector_or_of_nothing_is_an_error() {
    for len in [1, 511, 513] {
        assert_eq!(Case::read(0, len).parse(), Parsed::Done(Status::IoErr));
        assert_eq!(Case::write(0, len).parse(), Parsed::Done(Status::IoErr));
    }
    let mut nothing = Case::new(VIRTIO_BLK_T_IN, 0);
    assert_eq!(nothing.parse(), Parsed::Done(Status::IoErr));
}

#[test]
fn transfer_with_data_outside_memory_is_an_error() {
    let mut case = Case::new(VIRTIO_BLK_T_IN, 0);
    case.chain.writable.push(buffer(0x8f00, 512));
    assert_eq!(case.parse(), Parsed::Done(Status::IoErr));
}

#[test]
fn write_to_a_read_only_disk_is_an_error() {
    for mut case in [
        Case::write(0, 512),
        Case::range(VIRTIO_BLK_T_DISCARD, 0, 1, 0),
        Case::range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 0),
    ] {
        case.disk = disk(true, 1);
        assert_eq!(case.parse(), Parsed::Done(Status::IoErr));
    }
}

#[test]
fn range_with_unknown_flags_or_a_discard_with_unmap_is_unsupported() {
    for (kind, flags) in [
        (VIRTIO_BLK_T_DISCARD, 1),
        (VIRTIO_BLK_T_DISCARD, 2),
        (VIRTIO_BLK_T_WRITE_ZEROES, 2),
        (VIRTIO_BLK_T_WRITE_ZEROES, u32::MAX),
    ] {
        let parsed = Case::range(kind, 0, 8, flags).parse();
        assert_eq!(parsed, Parsed::Done(Status::Unsupported));
    }
}

#[test]
fn range_too_long_empty_or_beyond_the_capacity_is_an_error() {
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        for (sector, sectors) in [(0, 0), (CAPACITY_SECTORS, 1), (u64::MAX, 1), (0, u32::MAX)] {
            let parsed = Case::range(kind, sector, sectors, 0).parse();
            assert_eq!(parsed, Parsed::Done(Status::IoErr));
        }
    }
}

#[test]
fn range_request_with_more_or_less_than_one_range_is_an_error() {
    for len in [8, 15, 17, 32] {
        let mut case = Case::range(VIRTIO_BLK_T_DISCARD, 0, 8, 0);
        case.chain.readable[1].len_bytes = len;
        assert_eq!(case.parse(), Parsed::Done(Status::IoErr));
    }
}

#[test]
fn write_zeroes_says_whether_space_may_go() {
    for (flags, unmap) in [(0, false), (1, true)] {
        let mut case = Case::range(VIRTIO_BLK_T_WRITE_ZEROES, 8, 16, flags);
        assert_eq!(case.parse(), Parsed::Io);
        assert_eq!(case.io.op(), Op::WriteZeroes { unmap });
        assert_eq!((case.io.offset(), case.io.len_bytes()), (4096, 8192));
    }
}

#[test]
fn serial_number_is_written_however_the_buffer_is_cut() {
    let mut case = Case::new(VIRTIO_BLK_T_GET_ID, 0);
    case.chain.writable = vec![buffer(DATA, 3), buffer(DATA + 3, 17)];
    assert_eq!(case.parse(), Parsed::Done(Status::Ok));
    let mut id = [0xaa; 20];
    case.memory.read_slice(&mut id, GuestAddress(DATA)).unwrap();
    assert_eq!(id, disk(false, 1).serial);
}

#[test]
fn serial_number_with_too_little_room_is_an_error() {
    let mut case = Case::new(VIRTIO_BLK_T_GET_ID, 0);
    case.chain.writable = vec![buffer(DATA, 19)];
    assert_eq!(case.parse(), Parsed::Done(Status::IoErr));
}

#[test]
fn request_of_unknown_type_is_unsupported() {
    assert_eq!(Case::new(77, 0).parse(), Parsed::Done(Status::Unsupported));
}

#[test]
fn transfer_short_or_failed_is_an_error_of_that_request() {
    let mut case = Case::read(0, 4096);
    case.parse();
    assert_eq!(
        completion(&mut case.io, 4096, &case.memory),
        Outcome::Done(Status::Ok)
    );
    for result in [0, 512, 4095, -libc::EIO, -libc::ENOSPC] {
        assert_eq!(
            completion(&mut case.io, result, &case.memory),
            Outcome::Done(Status::IoErr)
        );
    }
}

#[test]
fn write_zeroes_that_the_file_system_lacks_becomes_a_write() {
    let mut case = Case::range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 2048, 0);
    case.parse();
    assert_eq!(
        completion(&mut case.io, -libc::EOPNOTSUPP, &case.memory),
        Outcome::Again
    );
    assert_eq!(case.io.op(), Op::Write);
    let total: usize = case.io.vectors().iter().map(|v| v.iov_len).sum();
    assert_eq!(total as u64, case.io.len_bytes());
    assert_eq!(
        completion(&mut case.io, 1 << 20, &case.memory),
        Outcome::Done(Status::Ok)
    );
}

#[test]
fn write_zeroes_for_a_driver_that_never_flushes_is_flushed() {
    let mut case = Case::range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0);
    let (chain, memory) = (&mut case.chain, &case.memory);
    assert_eq!(
        parse(chain, memory, &case.disk, true, &mut case.io),
        Parsed::Io
    );
    assert_eq!(completion(&mut case.io, 0, &case.memory), Outcome::Again);
    assert_eq!(case.io.op(), Op::Flush);
    assert_eq!(
        completion(&mut case.io, 0, &case.memory),
        Outcome::Done(Status::Ok)
    );
}

#[test]
fn discard_where_no_holes_can_be_made_is_fine() {
    let mut case = Case::range(VIRTIO_BLK_T_DISCARD, 0, 8, 0);
    case.parse();
    assert_eq!(
        completion(&mut case.io, -libc::EOPNOTSUPP, &case.memory),
        Outcome::Done(Status::Ok)
    );
}

#[test]
fn buffers_unaligned_for_direct_io_are_copied_there_and_back() {
    let mut case = Case::new(VIRTIO_BLK_T_OUT, 0);
    case.disk = disk(false, 512);
    let content: Vec<u8> = (0..=255).cycle().take(1024).collect();
    case.memory
        .write_slice(&content, GuestAddress(DATA + 4))
        .unwrap();
    case.chain
        .readable
        .extend([buffer(DATA + 4, 24), buffer(DATA + 28, 1000)]);
    assert_eq!(case.parse(), Parsed::Io);
    let [vector] = case.io.vectors() else {
        panic!("not one vector");
    };
    assert_eq!(vector.iov_base.addr() % 4096, 0);
    assert_eq!(vector.iov_len, 1024);

    let mut case = Case::new(VIRTIO_BLK_T_IN, 0);
    case.disk = disk(false, 512);
    case.memory
        .write_slice(&[7; 1024], GuestAddress(DATA))
        .unwrap();
    case.chain.writable.push(buffer(DATA + 4, 512));
    assert_eq!(case.parse(), Parsed::Io);
    case.io.unbounce(&case.memory);
    let mut after = [0; 520];
    case.memory
        .read_slice(&mut after, GuestAddress(DATA))
        .unwrap();
    assert_eq!(after[..4], [7; 4]);
    assert_eq!(after[4..516], [0; 512]);
    assert_eq!(after[516..], [7; 4]);
}

#[test]
fn status_is_written_where_the_driver_looks_for_it() {
    let memory = memory();
    for status in [Status::IoErr, Status::Unsupported, Status::Ok] {
        let mut chain = Chain::default();
        chain.writable.push(buffer(STATUS, 1));
        memory.write_obj(0xaa_u8, GuestAddress(STATUS)).unwrap();
        let place = StatusByte::take(&mut chain, &memory).unwrap();
        place.write(&memory, status);
        let written: u8 = memory.read_obj(GuestAddress(STATUS)).unwrap();
        assert_eq!(written, status as u8);
    }
}

#[test]
fn flush_is_a_flush_even_of_a_read_only_disk() {
    for readonly in [false, true] {
        let mut case = Case::new(VIRTIO_BLK_T_FLUSH, 0);
        case.disk = disk(readonly, 1);
        assert_eq!(case.parse(), Parsed::Io);
        assert_eq!(case.io.op(), Op::Flush);
        assert_eq!(
            completion(&mut case.io, 0, &case.memory),
            Outcome::Done(Status::Ok)
        );
        assert_eq!(
            completion(&mut case.io, -libc::EIO, &case.memory),
            Outcome::Done(Status::IoErr)
        );
    }
}

#[test]
fn header_s_other_fields_do_not_matter() {
    let mut case = Case::read(8, 512);
    let priority = GuestAddress(HEADER + 4);
    case.memory.write_obj(u32::MAX, priority).unwrap();
    assert_eq!(case.parse(), Parsed::Io);
    assert_eq!((case.io.op(), case.io.offset()), (Op::Read, 4096));
}

#[test]
fn data_behind_a_header_begins_where_the_header_ends() {
    let mut case = Case::new(VIRTIO_BLK_T_OUT, 0);
    case.chain.readable = vec![buffer(HEADER, 10), buffer(HEADER + 10, 6 + 512)];
    assert_eq!(case.parse(), Parsed::Io);
    let data = GuestAddress(HEADER + 16);
    let host = case.memory.get_host_address(data).unwrap();
    assert_eq!(case.io.vectors()[0].iov_base, host.cast());
}

#[test]
fn transfer_is_at_most_as_long_as_an_engine_takes() {
    let mut disk = disk(false, 1);
    disk.geometry.capacity_bytes = 4 * Io::MAX_BYTES;
    assert_eq!(extent(&disk, 2, Io::MAX_BYTES), Ok(1024));
    let longer = Io::MAX_BYTES + SECTOR_BYTES;
    assert_eq!(extent(&disk, 2, longer), Err(Status::IoErr));
}

#[test]
fn transfer_across_regions_of_memory_becomes_several_vectors() {
    let ranges = [
        (GuestAddress(0x1000), 0x1000),
        (GuestAddress(0x2000), 0x8000),
    ];
    let memory = Arc::new(GuestMemory::from_ranges(&ranges).unwrap());
    let mut case = Case::read(0, 1);
    case.chain.writable[0] = buffer(0x1f00, 512);
    case.memory = memory;
    case.memory
        .write_obj(VIRTIO_BLK_T_IN, GuestAddress(HEADER))
        .unwrap();
    assert_eq!(case.parse(), Parsed::Io);
    let lengths: Vec<usize> = case.io.vectors().iter().map(|v| v.iov_len).collect();
    assert_eq!(lengths, [256, 256]);
    assert_eq!(case.io.len_bytes(), 512);
}

#[test]
fn range_may_be_as_long_as_the_configuration_says_and_end_with_the_disk() {
    let most = [
        (VIRTIO_BLK_T_DISCARD, DISCARD_MAX_SECTORS),
        (VIRTIO_BLK_T_WRITE_ZEROES, WRITE_ZEROES_MAX_SECTORS),
    ];
    for (kind, most) in most {
        for (more, parsed) in [(0, Parsed::Io), (1, Parsed::Done(Status::IoErr))] {
            let mut case = Case::range(kind, 8, most + more, 0);
            case.disk.geometry.capacity_bytes = u64::from(u32::MAX) * SECTOR_BYTES;
            assert_eq!(case.parse(), parsed, "{kind}");
        }
        let last = Case::range(kind, CAPACITY_SECTORS - 1, 1, 0).parse();
        assert_eq!(last, Parsed::Io);
        let beyond = Case::range(kind, CAPACITY_SECTORS - 1, 2, 0).parse();
        assert_eq!(beyond, Parsed::Done(Status::IoErr));
    }
}

#[test]
fn discard_is_of_the_range_that_the_driver_names() {
    let mut case = Case::range(VIRTIO_BLK_T_DISCARD, 8, 16, 0);
    assert_eq!(case.parse(), Parsed::Io);
    assert_eq!(case.io.op(), Op::Discard);
    assert_eq!((case.io.offset(), case.io.len_bytes()), (4096, 8192));
    assert_eq!(
        completion(&mut case.io, 0, &case.memory),
        Outcome::Done(Status::Ok)
    );
    assert_eq!(
        completion(&mut case.io, -libc::EIO, &case.memory),
        Outcome::Done(Status::IoErr)
    );
}

#[test]
fn serial_number_leaves_what_is_behind_it_alone() {
    let mut case = Case::new(VIRTIO_BLK_T_GET_ID, 0);
    case.memory
        .write_slice(&[0xaa; 32], GuestAddress(DATA))
        .unwrap();
    case.chain.writable = vec![buffer(DATA, 24), buffer(DATA + 24, 8)];
    assert_eq!(case.parse(), Parsed::Done(Status::Ok));
    let mut after = [0; 32];
    case.memory
        .read_slice(&mut after, GuestAddress(DATA))
        .unwrap();
    assert_eq!(after[..20], disk(false, 1).serial);
    assert_eq!(after[20..], [0xaa; 12]);
}

#[test]
fn serial_number_outside_memory_is_an_error() {
    let mut case = Case::new(VIRTIO_BLK_T_GET_ID, 0);
    case.chain.writable = vec![buffer(0x8ff8, 20)];
    assert_eq!(case.parse(), Parsed::Done(Status::IoErr));
}

#[test]
fn write_zeroes_for_a_driver_that_flushes_is_over_when_it_is_done() {
    let mut case = Case::range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0);
    case.parse();
    assert_eq!(
        completion(&mut case.io, 0, &case.memory),
        Outcome::Done(Status::Ok)
    );
    assert_eq!(
        completion(&mut case.io, -libc::EIO, &case.memory),
        Outcome::Done(Status::IoErr)
    );
    assert_eq!(case.io.op(), Op::WriteZeroes { unmap: false });
}

#[test]
fn bytes_written_to_a_chain_are_the_data_read_and_the_status() {
    let mut read = Case::read(0, 4096);
    read.parse();
    assert_eq!(written_bytes(&read.io, Status::Ok), 4097);
    assert_eq!(written_bytes(&read.io, Status::IoErr), 1);
    let mut write = Case::write(0, 4096);
    write.parse();
    assert_eq!(written_bytes(&write.io, Status::Ok), 1);
}

#[test]
fn failure_is_told_by_its_errno_or_by_what_was_done() {
    let mut case = Case::read(8, 4096);
    case.parse();
    let told = failure(&case.io, -libc::EIO);
    let eio = std::io::Error::from_raw_os_error(libc::EIO);
    assert_eq!(told, eio.to_string());
    assert_eq!(failure(&case.io, 512), "512 of 4096 bytes at 4096");
    assert_eq!(failure(&case.io, 0), "0 of 4096 bytes at 4096");
}
