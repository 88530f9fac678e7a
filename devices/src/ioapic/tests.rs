// SPDX-License-Identifier: Apache-2.0
use std::io;

use super::*;

#[derive(Default)]
struct Recorder {
    sent: Mutex<Vec<MsiMessage>>,
    watched: Mutex<Vec<usize>>,
    /// So many more times there is no memory for routes.
    refusals: Mutex<usize>,
}

impl LocalApics for Recorder {
    fn send(&self, message: MsiMessage) {
        self.sent.lock().unwrap().push(message);
    }
    fn watch_level_pins(&self, pins: &[Option<MsiMessage>; PINS]) -> io::Result<()> {
        let mut refusals = self.refusals.lock().unwrap();
        if *refusals > 0 {
            *refusals -= 1;
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.watched
            .lock()
            .unwrap()
            .push(pins.iter().flatten().count());
        Ok(())
    }
}

impl Recorder {
    fn take(&self) -> Vec<MsiMessage> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }
}

fn ioapic() -> (Arc<Recorder>, IoApic) {
    let recorder = Arc::new(Recorder::default());
    (recorder.clone(), IoApic::new(recorder))
}

fn write_register(ioapic: &IoApic, register: u8, value: u32) {
    ioapic.write(IOREGSEL, &u32::from(register).to_le_bytes());
    ioapic.write(IOWIN, &value.to_le_bytes());
}

fn read_register(ioapic: &IoApic, register: u8) -> u32 {
    ioapic.write(IOREGSEL, &u32::from(register).to_le_bytes());
    let mut data = [0; 4];
    ioapic.read(IOWIN, &mut data);
    u32::from_le_bytes(data)
}

/// Points `pin` at APIC 3.
fn route(ioapic: &IoApic, pin: u8, low: u32) {
    write_register(ioapic, REG_REDIRECTION + 2 * pin + 1, 3 << 24);
    write_register(ioapic, REG_REDIRECTION + 2 * pin, low);
}

const EDGE_0X31: u32 = 0x31;
const LEVEL_0X31: u32 = 0x31 | (1 << 15);

#[test]
fn pin_edge_triggered_sends_one_message_per_edge() {
    let (recorder, ioapic) = ioapic();
    route(&ioapic, 4, EDGE_0X31);
    let message = MsiMessage {
        address: 0xfee0_3000,
        data: 0x4031,
    };
    ioapic.set_line(4, true);
    ioapic.set_line(4, true);
    assert_eq!(recorder.take(), [message]);
    ioapic.set_line(4, false);
    ioapic.set_line(4, true);
    assert_eq!(recorder.take(), [message]);
}

/// Bit for bit, as the Intel SDM (volume 3 §11.11) has an entry become an address and a data word.
#[test]
fn message_has_each_field_of_the_entry_in_its_place() {
    const ADDRESS: u64 = 0xfee0_0000;
    const DATA: u32 = 1 << 14; // "assert"
    let destination = (0..8).map(|bit| (1 << (24 + bit), 0, 1 << (12 + bit), 0));
    let vector = (0..8).map(|bit| (0, 1 << bit, 0, 1 << bit));
    let delivery_mode = (8..11).map(|bit| (0, 1 << bit, 0, 1 << bit));
    let (logical, level) = ((0, 1 << 11, 1 << 2, 0), (0, 1 << 15, 0, 1 << 15));
    let nothing = (0, 0, 0, 0);
    let everything = (0xff << 24, 0x8fff, (0xff << 12) | (1 << 2), 0x87ff);
    let fields = destination.chain(vector).chain(delivery_mode);
    for (high, low, address, data) in fields.chain([logical, level, nothing, everything]) {
        let (recorder, ioapic) = ioapic();
        write_register(&ioapic, REG_REDIRECTION + 9, high);
        write_register(&ioapic, REG_REDIRECTION + 8, low);
        ioapic.set_line(4, true);
        let message = MsiMessage {
            address: ADDRESS | address,
            data: DATA | data,
        };
        assert_eq!(recorder.take(), [message], "{high:#x} {low:#x}");
    }
}

#[test]
fn pulses_of_several_threads_are_an_edge_each() {
    const THREADS: usize = 4;
    const PULSES: usize = 20_000;
    let (recorder, ioapic) = ioapic();
    route(&ioapic, 4, EDGE_0X31);
    let pin = IoApicPin::new(Arc::new(ioapic), 4);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| (0..PULSES).for_each(|_| pin.pulse()));
        }
    });
    assert_eq!(recorder.take().len(), THREADS * PULSES);
}

#[test]
fn pin_masked_holds_its_edge_until_unmasked() {
    let (recorder, ioapic) = ioapic();
    ioapic.set_line(4, true);
    ioapic.set_line(4, false);
    assert!(recorder.take().is_empty());
    route(&ioapic, 4, EDGE_0X31);
    assert_eq!(recorder.take().len(), 1);
}

#[test]
fn pin_level_triggered_sends_again_only_after_eoi() {
    let (recorder, ioapic) = ioapic();
    route(&ioapic, 5, LEVEL_0X31);
    ioapic.set_line(5, true);
    ioapic.set_line(5, false);
    ioapic.set_line(5, true);
    assert_eq!(recorder.take().len(), 1);
    ioapic.eoi(0x32);
    assert!(recorder.take().is_empty());
    ioapic.eoi(0x31);
    assert_eq!(recorder.take().len(), 1);
    ioapic.set_line(5, false);
    ioapic.write(IOEOI, &0x31_u32.to_le_bytes());
    assert!(recorder.take().is_empty());
}

#[test]
fn fabric_is_told_only_when_level_routes_change() {
    let (recorder, ioapic) = ioapic();
    route(&ioapic, 4, EDGE_0X31);
    assert!(recorder.watched.lock().unwrap().is_empty());
    route(&ioapic, 5, LEVEL_0X31);
    route(&ioapic, 5, LEVEL_0X31);
    assert_eq!(*recorder.watched.lock().unwrap(), [1]);
    route(&ioapic, 5, 1 << 16);
    assert_eq!(*recorder.watched.lock().unwrap(), [1, 0]);
}

#[test]
fn level_pin_that_the_host_could_not_watch_is_told_again() {
    let (recorder, ioapic) = ioapic();
    *recorder.refusals.lock().unwrap() = 2;
    route(&ioapic, 5, LEVEL_0X31);
    assert!(recorder.watched.lock().unwrap().is_empty());
    route(&ioapic, 5, LEVEL_0X31);
    assert_eq!(*recorder.watched.lock().unwrap(), [1]);
}

#[test]
fn entry_read_only_bits_survive_writes_and_edge_clears_remote_irr() {
    let (_, ioapic) = ioapic();
    route(&ioapic, 5, LEVEL_0X31);
    ioapic.set_line(5, true);
    let register = REG_REDIRECTION + 10;
    write_register(&ioapic, register, LEVEL_0X31 | (1 << 12));
    assert_eq!(read_register(&ioapic, register), LEVEL_0X31 | (1 << 14));
    write_register(&ioapic, register, EDGE_0X31);
    assert_eq!(read_register(&ioapic, register), EDGE_0X31);
}

#[test]
fn registers_identify_24_pins() {
    let (_, ioapic) = ioapic();
    assert_eq!(read_register(&ioapic, REG_VERSION), 0x17_0020);
    write_register(&ioapic, REG_ID, 0xffff_ffff);
    assert_eq!(read_register(&ioapic, REG_ID), 0x0f00_0000);
    assert_eq!(read_register(&ioapic, 0xff), 0);
}

#[test]
fn registers_of_each_pin_are_its_own_and_hold_what_an_entry_can_hold() {
    let (_, ioapic) = ioapic();
    let written = |pin: u8| (u32::from(pin) << 24, (1 << 16) | u32::from(pin));
    for pin in 0..PINS_U8 {
        let (high, low) = written(pin);
        write_register(&ioapic, REG_REDIRECTION + 2 * pin, low);
        write_register(&ioapic, REG_REDIRECTION + 2 * pin + 1, high);
    }
    for pin in 0..PINS_U8 {
        let entry = [1, 0].map(|half| read_register(&ioapic, REG_REDIRECTION + 2 * pin + half));
        assert_eq!(<(u32, u32)>::from(entry), written(pin), "pin {pin}");
    }
    write_register(&ioapic, REG_REDIRECTION, 0xffff_ffff);
    write_register(&ioapic, REG_REDIRECTION + 1, 0xffff_ffff);
    assert_eq!(read_register(&ioapic, REG_REDIRECTION), 0x1_afff);
    assert_eq!(read_register(&ioapic, REG_REDIRECTION + 1), 0xff00_0000);
}

#[test]
fn registers_that_are_not_there_read_as_zero_and_take_no_write() {
    let (recorder, ioapic) = ioapic();
    let is_there = |register| matches!(register, REG_ID..=REG_ARBITRATION | 0x10..=0x3f);
    for register in (0..=0xff).filter(|register| !is_there(*register)) {
        write_register(&ioapic, register, 0xffff_ffff);
        assert_eq!(read_register(&ioapic, register), 0, "{register:#x}");
    }
    assert_eq!(read_register(&ioapic, REG_ARBITRATION), 0);
    assert!(recorder.take().is_empty());
}

#[test]
fn read_of_fewer_or_more_bytes_than_four_is_of_the_register_and_zeros() {
    let (_, ioapic) = ioapic();
    write_register(&ioapic, REG_REDIRECTION, 0x1_0a31);
    for len in 0..=8 {
        let mut data = vec![0xa5; len];
        ioapic.read(IOWIN, &mut data);
        let expected = 0x1_0a31_u64.to_le_bytes();
        assert_eq!(data, expected[..len], "{len} bytes");
    }
    let mut selected = [0xa5; 4];
    ioapic.read(IOREGSEL, &mut selected);
    assert_eq!(selected, [REG_REDIRECTION, 0, 0, 0]);
    ioapic.read(IOEOI, &mut selected);
    assert_eq!(selected, [0; 4]);
}

#[test]
fn pulse_of_a_line_that_is_high_is_no_edge_and_leaves_it_high() {
    let (recorder, ioapic) = ioapic();
    route(&ioapic, 5, LEVEL_0X31);
    ioapic.set_line(5, true);
    assert_eq!(recorder.take().len(), 1);
    ioapic.pulse(5);
    ioapic.eoi(0x31);
    assert_eq!(recorder.take().len(), 1);
}

#[test]
fn eoi_by_the_register_is_of_its_low_byte_s_vector() {
    let (recorder, ioapic) = ioapic();
    route(&ioapic, 5, LEVEL_0X31);
    ioapic.set_line(5, true);
    assert_eq!(recorder.take().len(), 1);
    ioapic.write(IOEOI, &0x32_u32.to_le_bytes());
    assert!(recorder.take().is_empty());
    ioapic.write(IOEOI, &0xffff_ff31_u32.to_le_bytes());
    assert_eq!(recorder.take().len(), 1);
}

#[test]
fn eoi_of_an_edge_triggered_pin_is_of_no_consequence() {
    let (recorder, ioapic) = ioapic();
    route(&ioapic, 4, EDGE_0X31);
    route(&ioapic, 5, LEVEL_0X31 + 1);
    ioapic.set_line(4, true);
    ioapic.set_line(5, true);
    assert_eq!(recorder.take().len(), 2);
    ioapic.eoi(0x31);
    assert!(recorder.take().is_empty());
}

#[test]
fn access_of_any_width_and_offset_does_no_harm() {
    let (_, ioapic) = ioapic();
    for offset in (0..LEN_BYTES).step_by(3) {
        for len in 0..=16 {
            ioapic.write(offset, &vec![0xa5; len]);
            ioapic.read(offset, &mut vec![0; len]);
        }
    }
    ioapic.set_line(PINS, true);
}

#[test]
fn state_taken_over_sends_what_was_due_and_watches_what_was_watched() {
    let (_, ioapic) = ioapic();
    route(&ioapic, 3, LEVEL_0X31);
    ioapic.set_line(3, true);
    route(&ioapic, 5, EDGE_0X31 | 1 << 16);
    ioapic.set_line(5, true);
    let (recorder, next) = super::tests::ioapic();

    next.restore(&ioapic.save()).unwrap();

    assert_eq!(next.save(), ioapic.save());
    assert_eq!(recorder.watched.lock().unwrap().last(), Some(&1));
    // In service: not sent again before its end.
    assert!(recorder.take().is_empty());
    next.eoi(0x31);
    assert_eq!(recorder.take().len(), 1);
    route(&next, 5, EDGE_0X31);
    assert_eq!(recorder.take().len(), 1);
}

#[test]
fn state_of_another_number_of_pins_is_refused() {
    let (_, ioapic) = ioapic();
    let mut state = ioapic.save();
    state.pins.pop();
    assert!(ioapic.restore(&state).is_err());
}
