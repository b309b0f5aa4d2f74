//! ACPI tables by `acpi_tables` (ACPI 6.5, 5.2): RSDP, XSDT, FADT, MADT, MCFG and
//! DSDT, one behind the other in the BIOS area; DMAR where there is an IOMMU.
//!
//! Hardware-reduced ACPI: there is no PIC, PIT, real-time clock, keyboard
//! controller or ACPI timer, and the kernel is told not to look for them. Time
//! comes from the hypervisor's clock.

use super::dsdt;
use super::iommu;
use super::power;
use acpi_tables::Aml;
use acpi_tables::fadt::FADTBuilder;
use acpi_tables::fadt::Flags;
use acpi_tables::gas::AccessSize;
use acpi_tables::gas::AddressSpace;
use acpi_tables::gas::GAS;
use acpi_tables::madt::EnabledStatus;
use acpi_tables::madt::IoApic;
use acpi_tables::madt::LocalInterruptController;
use acpi_tables::madt::MADT;
use acpi_tables::madt::ProcessorLocalApic;
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use portal_boot_abi as abi;

/// Where the root pointer lies: where the kernel would search for it, too.
pub(super) const RSDP_GPA: u64 = 0xE_0000;
/// Alignment of tables.
const ALIGN: u64 = 64;
const OEM: [u8; 6] = *b"PORTAL";
const TABLE: [u8; 8] = *b"PORTALVM";
const REVISION: u32 = 1;
/// Bytes of a table's header.
const HEADER: u32 = 36;
/// Boot architecture flags of the FADT: no VGA, no real-time clock. (A keyboard
/// controller and legacy devices would be flags that are not set.)
const NO_VGA_NO_CMOS: u16 = 1 << 2 | 1 << 5;

/// Each table's address and bytes.
pub(super) fn tables(vcpus: u32, iommu: bool) -> Vec<(u64, Vec<u8>)> {
    let mut at = RSDP_GPA + Rsdp::len() as u64;
    let mut placed = Vec::new();
    let mut place = |bytes: Vec<u8>| {
        let gpa = at.next_multiple_of(ALIGN);
        at = gpa + bytes.len() as u64;
        placed.push((gpa, bytes));
        gpa
    };
    let mut description = Sdt::new(*b"DSDT", HEADER, 2, OEM, TABLE, REVISION);
    description.append_slice(&dsdt::body());
    description.update_checksum();
    let description = place(description.as_slice().to_vec());
    let mut root = XSDT::new(OEM, TABLE, REVISION);
    root.add_entry(place(encoded(&fixed(description))));
    root.add_entry(place(encoded(&interrupts(vcpus))));
    let mut config = MCFG::new(OEM, TABLE, REVISION);
    config.add_ecam(abi::ECAM_GPA, 0, 0, 0);
    root.add_entry(place(encoded(&config)));
    if iommu {
        let mut remapping = Sdt::new(*b"DMAR", HEADER, 1, OEM, TABLE, REVISION);
        remapping.append_slice(&iommu::dmar_body());
        remapping.update_checksum();
        root.add_entry(place(remapping.as_slice().to_vec()));
    }
    let root = place(encoded(&root));
    placed.push((RSDP_GPA, encoded(&Rsdp::new(OEM, root))));
    placed
}

fn encoded(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn port(port: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        port.into(),
    )
}

fn fixed(description: u64) -> acpi_tables::fadt::FADT {
    let mut table = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(description)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::HwReducedAcpi);
    table.iapc_boot_arch = NO_VGA_NO_CMOS.into();
    table.reset_reg = port(power::RESET);
    table.reset_value = power::RESET_VALUE;
    table.sleep_control_reg = port(power::SLEEP_CONTROL);
    table.sleep_status_reg = port(power::SLEEP_STATUS);
    table.finalize()
}

fn interrupts(vcpus: u32) -> MADT {
    let local = LocalInterruptController::Address(abi::LAPIC_GPA as u32);
    let mut table = MADT::new(OEM, TABLE, REVISION, local);
    // A partition has at most 64 vCPUs.
    for id in (0u8..).take(vcpus as usize) {
        table.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    table.add_structure(IoApic::new(0, abi::IOAPIC_GPA as u32, 0));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_add_up_to_zero_and_stay_in_the_bios_area() {
        let mut end = RSDP_GPA;
        let mut tables = tables(abi::MAX_VCPUS, true);
        tables.sort_unstable();
        for (gpa, bytes) in tables {
            assert!(gpa >= end, "{gpa:#x}");
            end = gpa + bytes.len() as u64;
            let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum, 0, "{gpa:#x}");
            if gpa != RSDP_GPA {
                let len = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
                assert_eq!(len as usize, bytes.len());
            }
        }
        assert!(end <= power::RESET_VECTOR_GPA, "{end:#x}");
    }
}
