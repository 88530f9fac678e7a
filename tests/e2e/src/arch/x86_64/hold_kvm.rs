// SPDX-License-Identifier: Apache-2.0
//! Keeps the inner host's KVM from patching its own code while cases run.
//!
//! KVM switches static keys when the first VM appears, when a vCPU's local APIC is disabled or enabled,
//! and when one has none; the kernel then rewrites instructions that other processors may be running.
//! Software emulation with one thread for each processor gets that wrong now and then, and the inner
//! host crashes. A VM of every such kind that exists all the time leaves nothing to switch.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kvm_ioctls::Kvm;

const APIC_ENABLED: u64 = 1 << 11;

/// Makes those VMs and sleeps until it is killed.
///
/// # Errors
/// When KVM refuses.
pub fn run() -> Result<()> {
    let kvm = Kvm::new().context("/dev/kvm")?;
    let with_apic = kvm.create_vm().context("a VM")?;
    with_apic
        .create_irq_chip()
        .context("an interrupt controller")?;
    let apic_off_in_software = with_apic.create_vcpu(0).context("a vCPU")?;
    let apic_off_in_hardware = with_apic.create_vcpu(1).context("a vCPU")?;
    let mut registers = apic_off_in_hardware.get_sregs().context("its registers")?;
    registers.apic_base &= !APIC_ENABLED;
    apic_off_in_hardware
        .set_sregs(&registers)
        .context("its registers")?;
    let without_apic = kvm.create_vm().context("a VM")?;
    let no_apic = without_apic.create_vcpu(0).context("a vCPU")?;
    let _held = (apic_off_in_software, apic_off_in_hardware, no_apic);
    println!("held");
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
