// SPDX-License-Identifier: Apache-2.0
use super::*;

#[derive(Default)]
struct Recorder {
    sent: Mutex<Vec<MsiMessage>>,
    watched: Mutex<Vec<usize>>,
}

impl InterruptFabric for Recorder {
    fn send(&self, message: MsiMessage) {
        self.sent.lock().unwrap().push(message);
    }
    fn watch_level_pins(&self, pins: &[Option<MsiMessage>; PINS]) {
        self.watched
            .lock()
            .unwrap()
            .push(pins.iter().flatten().count());
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
