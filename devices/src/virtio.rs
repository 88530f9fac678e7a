// SPDX-License-Identifier: Apache-2.0
//! Virtio devices (virtio 1.2) in the vmm process: a [`transport`], through which the guest's
//! driver reaches the device, and the device itself, which another process implements
//! ([`vhost_user`]). The two only use each other through the traits of [`device`].
//!
//! With MSI-X the data path is between guest and backend; no thread of the vmm takes part in it.
//!
//! # What the machine has to provide
//!
//! - [`Doorbells`](crate::bus::Doorbells), one for the machine: KVM_IOEVENTFD without datamatch and
//!   of length 0.
//! - [`MsiVectors`](crate::interrupt::MsiVectors), one for each device: as many GSIs as
//!   [`vector_count`](transport::pci::vector_count) says, allocated when the device is made.
//!   `assign` sets the GSI's route if the message is a new one (KVM_SET_GSI_ROUTING replaces all
//!   routes of the machine) and assigns the eventfd to it (KVM_IRQFD); `deassign` undoes that. KVM
//!   injects immediately if the eventfd is readable when it is assigned, as the trait requires.
//!   `send` is KVM_SIGNAL_MSI.
//! - the memory [`Bus`](crate::bus::Bus), where the functions place and move their BARs themselves.
//!   Guest memory need not be on it: KVM handles those accesses without an exit.
//! - [`DeviceEvents`](vhost_user::events::DeviceEvents), one for each device: passes events to the
//!   supervisor. `Lost` asks it to fence the backend and attach a new one; `Failed` and `Guest` are
//!   for the log.
//!
//! # Threads
//!
//! Each device has one, which runs [`Worker::run`](vhost_user::worker::Worker::run). The vmm starts
//! it before the guest runs, so that it can confine it first; the system calls are listed there. It
//! ends when the [`VhostUserDevice`](vhost_user::device::VhostUserDevice) is dropped. vCPU threads
//! handle register accesses and never wait for a backend. A vCPU thread calls ioctl (the traits
//! above), write (a command slot's eventfd), poll and preadv2 (eventfds, at MSI-X unmask and
//! reset).
//!
//! # Making a device
//!
//! ```no_run
//! # use std::os::fd::OwnedFd;
//! # use std::sync::Arc;
//! # use std::time::Duration;
//! # use devices::pci::{bar::Windows, root::{PciRoot, Slot}};
//! # use devices::virtio::device::DeviceType;
//! # use devices::virtio::transport::pci::function::{PciContext, VirtioPci};
//! # use devices::virtio::vhost_user::device::VhostUserDevice;
//! # use devices::virtio::vhost_user::events::DeviceEvents;
//! # use devices::virtio::vhost_user::inflight::InflightRegion;
//! # use devices::virtio::vhost_user::spec::{ConfigSource, DeviceSpec, Origin, Timeouts};
//! # fn example(
//! #     memory: vm_memory::GuestMemoryMmap<()>, stream: OwnedFd, inflight_fd: OwnedFd,
//! #     supervisor: Arc<dyn DeviceEvents>, context: PciContext, windows: &mut Windows, root: &PciRoot, slot: Slot,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! // From the launch record's entry: type, queues, queue size, whose backend it is.
//! let spec = DeviceSpec {
//!     device_type: DeviceType::BLOCK,
//!     queue_max_sizes: vec![256; 4],
//!     config: ConfigSource::of(DeviceType::BLOCK),
//!     origin: Origin::Own,
//!     timeouts: Timeouts::default(),
//! };
//! // From the descriptor table: the stream, and the region that backends of ours inherit.
//! let inflight = Some(InflightRegion::map(inflight_fd)?);
//! let (device, worker) = VhostUserDevice::new(spec, memory, inflight, supervisor)?;
//! let device = Arc::new(device);
//! std::thread::Builder::new().name("disk0".into()).spawn(move || worker.run())?;
//! device.attach(stream);
//! root.insert(slot, Arc::new(VirtioPci::new(Arc::clone(&device) as _, context, windows)?))?;
//! // Before the first vCPU runs: a driver must have something to see.
//! if !device.wait_until_connected(Duration::from_secs(2)) {
//!     return Err("disk0 has no backend".into());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Later, as the supervisor asks: `attach` for each new backend, once the old one is killed, reaped
//! and fenced; `fenced` if there is no new one yet; `probe`, `drain`, then `switch` or `resume`,
//! for an upgrade; `set_link` for a network card.

pub mod device;
pub mod eventfd;
pub mod features;
pub mod queue;
pub mod transport;
pub mod vhost_user;
