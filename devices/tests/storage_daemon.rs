// SPDX-License-Identifier: Apache-2.0
//! A disk served by qemu-storage-daemon, used by a driver through the PCI transport: everything but
//! KVM is real. Needs qemu-storage-daemon (package qemu-system-common), which `cargo xtask test` has
//! installed.

#![allow(clippy::unwrap_used, clippy::panic)] // this is a test
#![allow(clippy::cast_possible_truncation)] // is meant wherever it happens here

mod machine;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use devices::virtio::device::DeviceType;
use devices::virtio::vhost_user::events::{DeviceEvent, PeerFault};
use devices::virtio::vhost_user::spec::{ConfigSource, DeviceSpec, Origin, Timeouts};

use machine::Machine;

/// A running daemon, killed when dropped.
struct Daemon(Child);

impl Daemon {
    fn start(image: &Path, socket: &Path) -> Self {
        let _ = std::fs::remove_file(socket);
        let blockdev = format!("driver=file,node-name=f,filename={}", image.display());
        let export = format!(
            "type=vhost-user-blk,id=e,node-name=f,writable=on,num-queues=2,addr.type=unix,addr.path={}",
            socket.display()
        );
        let child = Command::new("qemu-storage-daemon")
            .args(["--blockdev", &blockdev, "--export", &export])
            .stdin(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn connect(socket: &Path) -> UnixStream {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn image(folder: &Path) -> PathBuf {
    let path = folder.join("image");
    let mut file = std::fs::File::create(&path).unwrap();
    for sector in 0..2048_u32 {
        file.write_all(&[sector as u8; 512]).unwrap();
    }
    path
}

fn spec() -> DeviceSpec {
    DeviceSpec {
        device_type: DeviceType::BLOCK,
        queue_max_sizes: vec![64, 64],
        config: ConfigSource::of(DeviceType::BLOCK),
        origin: Origin::Foreign,
        timeouts: Timeouts::default(),
    }
}

#[test]
fn disk_of_a_storage_daemon_survives_its_death_and_a_reset() {
    let folder = std::env::temp_dir().join(format!("storage-daemon-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (image, socket) = (image(&folder), folder.join("socket"));
    let mut machine = Machine::new(spec());

    let daemon = Daemon::start(&image, &socket);
    machine.guest.device.attach(connect(&socket).into());
    assert!(
        machine
            .guest
            .device
            .wait_until_connected(Duration::from_secs(5))
    );
    assert!(matches!(machine.report(), DeviceEvent::Connected));
    assert_eq!(machine.guest.read(0x2000, 8), 2048, "capacity in sectors");
    machine.start_driver();
    assert!(matches!(machine.report(), DeviceEvent::Running));
    for sector in [0, 5, 2047] {
        assert_eq!(machine.read_sector(0, sector), [sector as u8; 512]);
        assert_eq!(machine.read_sector(1, sector), [sector as u8; 512]);
    }

    drop(daemon);
    let report = machine.report();
    assert!(
        matches!(report, DeviceEvent::Lost(PeerFault::Closed)),
        "{report:?}"
    );
    // The driver goes on in the meantime; it just has to wait.
    machine.submit(0, 9);
    let daemon = Daemon::start(&image, &socket);
    machine.guest.device.attach(connect(&socket).into());
    assert!(matches!(machine.report(), DeviceEvent::Connected));
    assert!(matches!(machine.report(), DeviceEvent::Running));
    assert_eq!(machine.complete(0), [9; 512]);
    assert_eq!(machine.read_sector(1, 7), [7; 512]);

    machine.reset_driver();
    machine.start_driver();
    assert!(matches!(machine.report(), DeviceEvent::Running));
    assert_eq!(machine.read_sector(0, 3), [3; 512]);
    drop(daemon);
    std::fs::remove_dir_all(&folder).unwrap();
}
