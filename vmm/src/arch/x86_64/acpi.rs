// SPDX-License-Identifier: Apache-2.0
//! The ACPI tables of a hardware-reduced machine (ACPI 6.5 §5.2): RSDP, XSDT, FADT, MADT, MCFG,
//! DSDT, one after the other from [`layout::ACPI`].

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use devices::legacy::AcpiPm;
use vm_memory::{Bytes, GuestAddress};

use super::{dsdt, layout};
use crate::machine::MachineDesc;
use crate::memory::GuestMemory;

/// OEM id, OEM table id and OEM revision of every table.
pub(super) const OEM: ([u8; 6], [u8; 8], u32) = (*b"BULKHD", *b"BULKHEAD", 1);

/// IA-PC boot architecture flags (§5.2.9.3): no VGA, no CMOS RTC.
const IAPC_BOOT_ARCH: u16 = 1 << 2 | 1 << 5;

/// Why the tables cannot be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum AcpiError {
    /// They are longer than the space for them.
    #[error("the ACPI tables do not fit below 1 MiB")]
    NoRoom,
    /// Guest memory ends below them.
    #[error("cannot write the ACPI tables")]
    Write(#[source] vm_memory::GuestMemoryError),
}

/// Writes the tables one after the other.
struct Writer<'a> {
    memory: &'a GuestMemory,
    next: u64,
}

impl Writer<'_> {
    fn write(&mut self, table: &[u8]) -> Result<u64, AcpiError> {
        let at = self.next;
        self.next = (at + table.len() as u64).next_multiple_of(16);
        if self.next > layout::ACPI_END {
            return Err(AcpiError::NoRoom);
        }
        self.memory
            .write_slice(table, GuestAddress(at))
            .map_err(AcpiError::Write)?;
        Ok(at)
    }
}

/// Writes all tables of a machine; the RSDP is at [`layout::ACPI`].
pub(super) fn write(memory: &GuestMemory, machine: &MachineDesc) -> Result<(), AcpiError> {
    let (id, table_id, revision) = OEM;
    // The RSDP comes first, but its content is known last.
    let mut writer = Writer {
        memory,
        next: layout::ACPI + 64,
    };
    let dsdt = writer.write(&dsdt::dsdt(machine))?;
    let mut xsdt = XSDT::new(id, table_id, revision);
    for table in [
        bytes(&fadt(dsdt)),
        bytes(&madt(machine.cpus)),
        bytes(&mcfg()),
    ] {
        xsdt.add_entry(writer.write(&table)?);
    }
    let xsdt = writer.write(&bytes(&xsdt))?;
    writer.next = layout::ACPI;
    writer.write(&bytes(&Rsdp::new(id, xsdt))).map(drop)
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn port(offset: u64) -> GAS {
    let port = u64::from(layout::ACPI_PM) + offset;
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port)
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let (id, table_id, revision) = OEM;
    let mut fadt = FADTBuilder::new(id, table_id, revision)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = IAPC_BOOT_ARCH.into();
    fadt.reset_reg = port(AcpiPm::RESET);
    fadt.reset_value = AcpiPm::RESET_VALUE;
    fadt.sleep_control_reg = port(AcpiPm::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(AcpiPm::SLEEP_STATUS);
    fadt.finalize()
}

fn madt(cpus: u8) -> MADT {
    let (id, table_id, revision) = OEM;
    let apics = LocalInterruptController::Address(layout::LOCAL_APIC);
    let mut madt = MADT::new(id, table_id, revision, apics);
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    let ioapic = u32::try_from(layout::IOAPIC).unwrap_or(0);
    madt.add_structure(IoApic::new(0, ioapic, 0));
    madt
}

fn mcfg() -> MCFG {
    let (id, table_id, revision) = OEM;
    let mut mcfg = MCFG::new(id, table_id, revision);
    mcfg.add_ecam(layout::ECAM, 0, 0, layout::LAST_BUS);
    mcfg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cpus: u8) -> MachineDesc {
        MachineDesc {
            cpus,
            pci: layout::pci_windows(8 << 30),
            slots: Vec::new(),
            board_button: true,
        }
    }

    fn memory() -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
    }

    fn table(memory: &GuestMemory, at: u64) -> Vec<u8> {
        let len: u32 = memory.read_obj(GuestAddress(at + 4)).unwrap();
        let mut table = vec![0; len as usize];
        memory.read_slice(&mut table, GuestAddress(at)).unwrap();
        table
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn tables_are_linked_from_the_rsdp_and_sum_to_zero() {
        let memory = memory();
        write(&memory, &machine(4)).unwrap();
        let mut rsdp = [0; 36];
        memory
            .read_slice(&mut rsdp, GuestAddress(layout::ACPI))
            .unwrap();
        assert_eq!(
            (&rsdp[..8], sum(&rsdp), sum(&rsdp[..20])),
            (&b"RSD PTR "[..], 0, 0)
        );
        let xsdt = table(
            &memory,
            u64::from_le_bytes(rsdp[24..32].try_into().unwrap()),
        );
        let signatures: Vec<Vec<u8>> = xsdt[36..]
            .chunks(8)
            .map(|entry| table(&memory, u64::from_le_bytes(entry.try_into().unwrap())))
            .inspect(|table| assert_eq!(sum(table), 0))
            .map(|table| table[..4].to_vec())
            .collect();
        assert_eq!(
            (sum(&xsdt), signatures),
            (
                0,
                vec![b"FACP".to_vec(), b"APIC".to_vec(), b"MCFG".to_vec()]
            )
        );
    }

    #[test]
    fn dsdt_is_reached_from_the_fadt_and_sums_to_zero() {
        let memory = memory();
        write(&memory, &machine(1)).unwrap();
        let at = layout::ACPI + 64;
        let dsdt = table(&memory, at);
        assert_eq!((&dsdt[..4], sum(&dsdt)), (&b"DSDT"[..], 0));
        assert_eq!(bytes(&fadt(at))[140..148], at.to_le_bytes());
    }

    #[test]
    fn button_is_described_only_if_the_board_has_one() {
        let is_there = |board_button| {
            let machine = MachineDesc {
                board_button,
                ..machine(1)
            };
            let code = dsdt::dsdt(&machine);
            code.windows(4).any(|name| name == b"PWRB")
        };
        assert!(is_there(true) && !is_there(false));
    }

    #[test]
    fn madt_of_254_vcpus_fits() {
        write(&memory(), &machine(254)).unwrap();
    }
}
