// SPDX-License-Identifier: Apache-2.0
//! What differs between architectures, under the same names. Only this module depends on
//! `target_arch`.
//!
//! | module | what it knows |
//! |---|---|
//! | `layout` | where RAM, PCI windows and devices are |
//! | `irqchip` | the interrupt controllers: lines and MSI-X vectors |
//! | `vcpu` | how vCPUs are made and where the first one starts |
//! | `board` | the devices besides PCI: serial port, clock, power button |
//! | `boot` | kernel formats, and the tables that describe the machine |
//! | `exit` | exits of KVM_RUN that no other architecture has |

// What the architectures described by a device tree share. Tests of it run anywhere.
#[cfg(any(test, not(target_arch = "x86_64")))]
mod fdt;
#[cfg(all(test, not(target_arch = "x86_64")))]
mod fdt_text;
#[cfg(test)]
mod golden;
#[cfg(any(test, not(target_arch = "x86_64")))]
mod image;
#[cfg(any(test, not(target_arch = "x86_64")))]
#[allow(unreachable_pub)] // the architectures that it is for export it
mod platform;
#[cfg(any(test, not(target_arch = "x86_64")))]
#[allow(unreachable_pub)] // likewise
mod tree_boot;

#[cfg(not(target_arch = "x86_64"))]
mod unsaved;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "riscv64")]
mod riscv64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as this;
#[cfg(target_arch = "riscv64")]
use riscv64 as this;
#[cfg(target_arch = "x86_64")]
use x86_64 as this;

pub use this::{
    board::{Board, BoardError},
    boot::{Description, EntryPoint, load},
    exit::{Handled, handle, is_guest_fault},
    irqchip::Irqchip,
    layout::{pci_windows, ram_regions},
    prepare_vm,
    state::{IS_SAVED, MachineStateError, restore_board, restore_vcpus, save_machine},
    vcpu::{VcpuSetupError, after_pause, create_vcpus, enter_at, state_of},
};
