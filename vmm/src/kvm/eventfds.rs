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

/// The MSI-X vectors of one device: a range of GSIs, each routed to a message.
#[derive(Debug)]
pub struct MsiRoutes {
    vm: Arc<Vm>,
    requester: Option<u16>,
    first: Gsi,
    count: u16,
}

impl MsiRoutes {
    /// Allocates GSIs for `count` vectors. `requester` is the device's requester id, if the
    /// interrupt controller translates messages by it.
    pub fn allocate(vm: Arc<Vm>, requester: Option<u16>, count: u16) -> Self {
        let first = vm.allocate_gsis(usize::from(count));
        Self {
            vm,
            requester,
            first,
            count,
        }
    }

    fn gsi(&self, vector: u16) -> io::Result<Gsi> {
        if vector >= self.count {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(Gsi(self.first.0 + u32::from(vector)))
    }
}

impl MsiVectors for MsiRoutes {
    fn send(&self, message: MsiMessage) {
        self.vm.send(message, self.requester);
    }

    fn assign(&self, vector: u16, message: MsiMessage, call: &EventFd) -> io::Result<()> {
        let gsi = self.gsi(vector)?;
        self.vm.route(gsi, message, self.requester)?;
        Ok(self.vm.vm.register_irqfd(call, gsi.0)?)
    }

    fn deassign(&self, vector: u16, call: &EventFd) -> io::Result<()> {
        Ok(self.vm.vm.unregister_irqfd(call, self.gsi(vector)?.0)?)
    }
}
