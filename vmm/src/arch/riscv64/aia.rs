// SPDX-License-Identifier: Apache-2.0
//! The advanced interrupt architecture, in KVM: an IMSIC for each hart takes the devices' messages, an
//! APLIC turns the levels of wired devices into messages.
//!
//! KVM's order: the controller before its settings, which need all harts; routes and irqfds after its
//! completion.

use std::sync::Arc;

use devices::interrupt::InterruptLine;
use kvm_bindings::{
    KVM_DEV_RISCV_AIA_ADDR_APLIC, KVM_DEV_RISCV_AIA_CONFIG_GROUP_BITS,
    KVM_DEV_RISCV_AIA_CONFIG_GUEST_BITS, KVM_DEV_RISCV_AIA_CONFIG_HART_BITS,
    KVM_DEV_RISCV_AIA_CONFIG_IDS, KVM_DEV_RISCV_AIA_CONFIG_SRCS, KVM_DEV_RISCV_AIA_CTRL_INIT,
    KVM_DEV_RISCV_AIA_GRP_ADDR, KVM_DEV_RISCV_AIA_GRP_CONFIG, KVM_DEV_RISCV_AIA_GRP_CTRL,
    kvm_create_device, kvm_device_type_KVM_DEV_TYPE_RISCV_AIA,
};
use kvm_ioctls::{DeviceFd, Error};
use log::warn;

use super::layout::{self, source};
use crate::kvm::{Vm, device};

/// Makes the controllers, before the first hart.
pub(super) fn create(vm: &Vm) -> Result<DeviceFd, Error> {
    let mut wanted = kvm_create_device {
        type_: kvm_device_type_KVM_DEV_TYPE_RISCV_AIA,
        ..Default::default()
    };
    vm.fd().create_device(&mut wanted)
}

/// Completes them, when all `harts` exist.
pub(super) fn complete(aia: &DeviceFd, harts: u64) -> Result<(), Error> {
    let hart_bits = u64::BITS - harts.saturating_sub(1).leading_zeros();
    for (attr, value) in [
        (KVM_DEV_RISCV_AIA_CONFIG_SRCS, source::LAST),
        (KVM_DEV_RISCV_AIA_CONFIG_GROUP_BITS, 0),
        (KVM_DEV_RISCV_AIA_CONFIG_HART_BITS, hart_bits),
        (KVM_DEV_RISCV_AIA_CONFIG_GUEST_BITS, 0),
    ] {
        device::set(aia, KVM_DEV_RISCV_AIA_GRP_CONFIG, attr, &value)?;
    }
    let place =
        |attr: u32, address: u64| device::set(aia, KVM_DEV_RISCV_AIA_GRP_ADDR, attr, &address);
    place(KVM_DEV_RISCV_AIA_ADDR_APLIC, layout::APLIC.base)?;
    for (attr, hart) in (1..).zip(0..harts) {
        place(attr, layout::IMSICS + hart * layout::IMSIC_BYTES)?;
    }
    let (group, attr) = (KVM_DEV_RISCV_AIA_GRP_CTRL, KVM_DEV_RISCV_AIA_CTRL_INIT);
    device::act(aia, group, attr)
}

/// How many interrupts an IMSIC tells apart.
pub(super) fn ids(aia: &DeviceFd) -> Result<u32, Error> {
    let (group, attr) = (KVM_DEV_RISCV_AIA_GRP_CONFIG, KVM_DEV_RISCV_AIA_CONFIG_IDS);
    device::get_u32(aia, group, attr)
}

/// A source of the APLIC.
pub(super) struct AplicSource {
    pub(super) vm: Arc<Vm>,
    pub(super) source: u32,
}

impl InterruptLine for AplicSource {
    fn set(&self, high: bool) {
        if let Err(e) = self.vm.fd().set_irq_line(self.source, high) {
            warn!("cannot set the level of source {}: {e}", self.source);
        }
    }
}
