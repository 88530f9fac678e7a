// SPDX-License-Identifier: Apache-2.0
//! How far a vCPU's time stamp counter is from the host's (Documentation/virt/kvm/devices/vcpu.rst §4.1).
//! Equal offsets of all vCPUs keep their counters equal.

use std::os::fd::AsRawFd;

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_device_attr};
use kvm_ioctls::VcpuFd;

mod ioctl {
    nix::ioctl_write_ptr!(set_device_attr, 0xae, 0xe1, kvm_bindings::kvm_device_attr);
    nix::ioctl_write_ptr!(get_device_attr, 0xae, 0xe2, kvm_bindings::kvm_device_attr);
}

fn attribute(value: *mut u64) -> kvm_device_attr {
    kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: value as u64,
    }
}

fn failed(errno: nix::Error) -> kvm_ioctls::Error {
    kvm_ioctls::Error::new(errno as i32)
}

/// The offset of a vCPU's counter. Fails before Linux 5.16.
#[allow(unsafe_code)]
pub(super) fn offset(vcpu: &VcpuFd) -> Result<u64, kvm_ioctls::Error> {
    let mut value = 0_u64;
    let attribute = attribute(&raw mut value);
    // SAFETY: the descriptor is a vCPU's, and the kernel writes the 8 bytes of this attribute to
    // `value`, which lives until the call returns.
    let got = unsafe { ioctl::get_device_attr(vcpu.as_raw_fd(), &raw const attribute) };
    got.map(|_| value).map_err(failed)
}

/// Sets the offset of a vCPU's counter.
#[allow(unsafe_code)]
pub(super) fn set_offset(vcpu: &VcpuFd, mut value: u64) -> Result<(), kvm_ioctls::Error> {
    let attribute = attribute(&raw mut value);
    // SAFETY: the descriptor is a vCPU's, and the kernel reads the 8 bytes of this attribute from
    // `value`, which lives until the call returns.
    let set = unsafe { ioctl::set_device_attr(vcpu.as_raw_fd(), &raw const attribute) };
    set.map(drop).map_err(failed)
}
