// SPDX-License-Identifier: Apache-2.0
//! The data path past the vmm: ioeventfds in, irqfds out.

use std::io;
use std::sync::Arc;

use devices::bus::Doorbells;
use devices::interrupt::{MsiMessage, MsiVectors};
use kvm_ioctls::{IoEventAddress, NoDatamatch};
use vmm_sys_util::eventfd::EventFd;

use super::Vm;
use super::routes::Gsi;

impl Doorbells for Vm {
    fn register(&self, address: u64, kick: &EventFd) -> io::Result<()> {
        let address = IoEventAddress::Mmio(address);
        Ok(self.vm.register_ioevent(kick, &address, NoDatamatch)?)
    }

    fn unregister(&self, address: u64, kick: &EventFd) -> io::Result<()> {
        let address = IoEventAddress::Mmio(address);
        Ok(self.vm.unregister_ioevent(kick, &address, NoDatamatch)?)
    }
}

/// The MSI-X vectors of one device: a range of GSIs.
#[derive(Debug)]
pub struct DeviceVectors {
    vm: Arc<Vm>,
    first: Gsi,
    count: u16,
}

impl DeviceVectors {
    /// Allocates GSIs for `count` vectors.
    pub fn allocate(vm: Arc<Vm>, count: u16) -> Self {
        let first = vm.routes().allocate(usize::from(count));
        Self { vm, first, count }
    }

    fn gsi(&self, vector: u16) -> io::Result<Gsi> {
        if vector >= self.count {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(Gsi(self.first.0 + u32::from(vector)))
    }
}

impl MsiVectors for DeviceVectors {
    fn assign(&self, vector: u16, message: MsiMessage, call: &EventFd) -> io::Result<()> {
        let gsi = self.gsi(vector)?;
        self.vm.route(gsi, message)?;
        Ok(self.vm.vm.register_irqfd(call, gsi.0)?)
    }

    fn deassign(&self, vector: u16, call: &EventFd) -> io::Result<()> {
        Ok(self.vm.vm.unregister_irqfd(call, self.gsi(vector)?.0)?)
    }
}
