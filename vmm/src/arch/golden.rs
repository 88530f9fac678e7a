// SPDX-License-Identifier: Apache-2.0
//! What a guest can see of a version of the machine ([`ipc::record::MACHINE`]): addresses, interrupts,
//! tables, and the configuration space of every kind of device. A guest keeps what it has seen while its
//! vmm is replaced, so this must stay the same for as long as the version does. The file of each
//! architecture says what it is; with `BLESS=1` in the environment the test writes the file.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::Arc;

use devices::bus::Doorbells;
use devices::interrupt::{CallListener, CallWatcher, InterruptLine, MsiMessage, MsiVectors};
use devices::pci::bar::Windows;
use devices::pci::root::PciFunction;
use devices::virtio::device::VirtioDevice;
use devices::virtio::transport::pci::function::{PciContext, VirtioPci};
use devices::virtio::transport::pci::intx::Intx;
use devices::virtio::transport::pci::vector_count;
use devices::virtio::vhost_user::device::VhostUserDevice;
use devices::virtio::vhost_user::events::{DeviceEvent, DeviceEvents};
use ipc::memfd::{Backing, shared};
use ipc::record::{DeviceKind, DeviceRecord, MACHINE, NicRecord, Pages};
use ipc::slot::DeviceSlot;
use vmm_sys_util::eventfd::EventFd;

use super::this;
use crate::machine::MachineDesc;
use crate::memory::{self, GuestMemory, Mapping, Region};
use crate::virtio::spec_of;

/// A machine with two devices and a button in each way that there is.
pub(super) fn machine() -> MachineDesc {
    let ram = this::layout::ram_regions(512 << 20);
    let end = ram.last().map_or(0, |last| last.base + last.len_bytes);
    MachineDesc {
        cpus: 2,
        pci: this::layout::pci_windows(end),
        slots: [1, 2, 25].into_iter().filter_map(DeviceSlot::new).collect(),
        board_button: true,
    }
}

/// Guest memory from `base` on.
pub(super) fn ram(base: u64, len_bytes: u64) -> GuestMemory {
    let how = Mapping {
        pages: Pages::Base,
        prefault: false,
    };
    let memfd = shared("ram", len_bytes, Backing::Shmem).unwrap();
    memory::map(memfd, &[Region { base, len_bytes }], how).unwrap()
}

/// Bytes, 16 on a line, without lines of zeroes.
pub(super) fn hex(base: u64, bytes: &[u8]) -> String {
    let mut text = String::new();
    for (line, at) in bytes.chunks(16).zip((base..).step_by(16)) {
        if line.iter().any(|byte| *byte != 0) {
            let bytes: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
            let shown = |b: &u8| {
                if b.is_ascii_graphic() {
                    char::from(*b)
                } else {
                    '.'
                }
            };
            let chars: String = line.iter().map(shown).collect();
            let _ = writeln!(text, "{at:08x} {bytes} {chars}");
        }
    }
    text
}

/// The regions of RAM and the windows for PCI of machines of some sizes.
fn memory_map() -> String {
    let mut text = String::new();
    for mib in [512_u64, 3072, 8192] {
        let ram = this::layout::ram_regions(mib << 20);
        let _ = writeln!(text, "RAM of {mib} MiB: {}", regions(&ram));
        let end = ram.last().map_or(0, |last| last.base + last.len_bytes);
        let pci = this::layout::pci_windows(end);
        let _ = writeln!(text, "BARs: {}", regions(&[pci.bars_32, pci.bars_64]));
    }
    text
}

fn regions(regions: &[Region]) -> String {
    let each = regions.iter();
    let each = each.map(|region| format!("{:#x}+{:#x}", region.base, region.len_bytes));
    each.collect::<Vec<_>>().join(" ")
}

/// One device of each kind, as the supervisor asks for them by default.
fn devices() -> Vec<DeviceRecord> {
    let nic = NicRecord {
        mac: [2, 0, 0, 0, 0, 1],
        link_up: true,
    };
    let of = |id: &str, kind, queues, queue_size, foreign| DeviceRecord {
        slot: DeviceSlot::FIRST,
        id: id.into(),
        kind,
        queues,
        queue_size,
        foreign,
        inflight: false,
    };
    vec![
        of("disk", DeviceKind::Block, 1, 256, false),
        of("disk of 16 queues", DeviceKind::Block, 16, 1024, false),
        of("card", DeviceKind::Net(nic), 3, 256, false),
        of("card of passt", DeviceKind::Net(nic), 2, 256, true),
        of("file system", DeviceKind::Fs("home".into()), 2, 256, true),
        of("socket", DeviceKind::Vsock, 3, 256, true),
        of("entropy", DeviceKind::Rng, 1, 256, true),
        of("any", DeviceKind::Other(26), 1, 256, true),
        of("button", DeviceKind::PowerButton, 2, 64, false),
    ]
}

/// A host that connects nothing.
struct NoWires;

impl Doorbells for NoWires {
    fn register(&self, _: u64, _: &EventFd) -> io::Result<()> {
        Ok(())
    }
    fn unregister(&self, _: u64, _: &EventFd) -> io::Result<()> {
        Ok(())
    }
}

impl MsiVectors for NoWires {
    fn send(&self, _: MsiMessage) {}
    fn assign(&self, _: u16, _: MsiMessage, _: &EventFd) -> io::Result<()> {
        Ok(())
    }
    fn deassign(&self, _: u16, _: &EventFd) -> io::Result<()> {
        Ok(())
    }
}

impl InterruptLine for NoWires {
    fn set(&self, _: bool) {}
}

impl CallWatcher for NoWires {
    fn watch(&self, _: &EventFd, _: Arc<dyn CallListener>) -> io::Result<u64> {
        Ok(0)
    }
    fn unwatch(&self, _: &EventFd, _: u64) {}
}

impl DeviceEvents for NoWires {
    fn report(&self, _: DeviceEvent) {}
}

/// What a guest sees of a device before its backend has connected.
fn function(record: &DeviceRecord, memory: &GuestMemory) -> String {
    let made = VhostUserDevice::new(spec_of(record), memory.clone(), None, Arc::new(NoWires));
    let (device, _worker) = made.unwrap();
    let sizes = device.queue_max_sizes().to_vec();
    let vectors = vector_count(sizes.len());
    let windows = this::layout::pci_windows(memory::end(memory));
    let range = |window: Region| (window.base, window.len_bytes);
    let mut windows = Windows::new(range(windows.bars_32), range(windows.bars_64)).unwrap();
    let context = PciContext {
        memory_space: Arc::default(),
        doorbells: Arc::new(NoWires),
        vectors: Arc::new(NoWires),
        intx: Some(Intx {
            line: Arc::new(NoWires),
            watcher: Arc::new(NoWires),
        }),
    };
    let function = VirtioPci::new(Arc::new(device), context, &mut windows).unwrap();
    let mut config = [0; 256];
    for (word, at) in config.chunks_mut(4).zip((0..).step_by(4)) {
        function.config_read(at, word);
    }
    let mut bar = [0xff; 4];
    function.config_write(0x10, &bar);
    function.config_read(0x10, &mut bar);
    let bar_len = (!(u32::from_le_bytes(bar) & !0xf)).wrapping_add(1);
    format!(
        "{}: queues of {sizes:?}, {vectors} vectors, a BAR of {bar_len:#x} bytes\n{}",
        record.id,
        hex(0, &config)
    )
}

#[test]
fn guest_sees_what_the_version_of_the_machine_says() {
    let memory = ram(this::layout::ram_regions(1 << 20)[0].base, 1 << 20);
    let functions = devices()
        .iter()
        .map(|one| function(one, &memory))
        .collect::<String>();
    let seen = format!(
        "machine {MACHINE}\n\n{}\n{}\n{functions}",
        memory_map(),
        this::golden::describe()
    );
    let arch = std::env::consts::ARCH;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/arch/golden/{arch}.txt"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&file, &seen).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = seen.lines().zip(golden.lines()).find(|(a, b)| a != b);
    assert!(
        seen == golden,
        "a guest sees another machine than {} says, which needs another version: {differs:?}",
        file.display()
    );
}
