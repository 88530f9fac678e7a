// SPDX-License-Identifier: Apache-2.0
//! The attributes of devices that KVM makes (Documentation/virt/kvm/api.rst, KVM_SET_DEVICE_ATTR), for
//! the architectures whose interrupt controllers are such devices.

use kvm_bindings::kvm_device_attr;
use kvm_ioctls::{DeviceFd, Error};

/// Sets an attribute to the value behind the reference.
pub fn set<T>(device: &DeviceFd, group: u32, attr: u32, value: &T) -> Result<(), Error> {
    device.set_device_attr(&kvm_device_attr {
        group,
        attr: u64::from(attr),
        addr: std::ptr::from_ref(value) as u64,
        flags: 0,
    })
}

/// Has a device do what an attribute without a value stands for.
pub fn act(device: &DeviceFd, group: u32, attr: u32) -> Result<(), Error> {
    device.set_device_attr(&kvm_device_attr {
        group,
        attr: u64::from(attr),
        addr: 0,
        flags: 0,
    })
}

/// Reads an attribute of 32 bits.
#[allow(unsafe_code)]
pub fn get_u32(device: &DeviceFd, group: u32, attr: u32) -> Result<u32, Error> {
    let mut value = 0_u32;
    let mut attribute = kvm_device_attr {
        group,
        attr: u64::from(attr),
        addr: &raw mut value as u64,
        flags: 0,
    };
    // SAFETY: the kernel writes at most 4 bytes for an attribute of 32 bits, and `value`, which
    // `attribute.addr` points to, has 4 and outlives the call.
    unsafe { device.get_device_attr(&mut attribute) }?;
    Ok(value)
}
