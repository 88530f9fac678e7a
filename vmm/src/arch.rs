// SPDX-License-Identifier: Apache-2.0
//! What differs between architectures, under the same names. Only this module depends on
//! `target_arch`.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::{
    boot::{BootError, EntryPoint, Images, load},
    layout::{bars_64, ram_regions},
    machine::{Machine, MachineError},
    prepare_vm,
    vcpu::{VcpuBlueprint, VcpuSetupError, state_of},
};
