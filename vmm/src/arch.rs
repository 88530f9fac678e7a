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

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::{
    board::{Board, BoardError},
    boot::{EntryPoint, load},
    exit::{Handled, handle, is_guest_fault},
    irqchip::Irqchip,
    layout::{pci_windows, ram_regions},
    prepare_vm,
    vcpu::{VcpuSetupError, after_pause, create_vcpus, enter_at, state_of},
};
