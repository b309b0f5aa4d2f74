//! What ACPI says about devices (ACPI 6.5, 5.2.11.1 and 6.2; PCI Firmware 3.3,
//! 4.6): the PCI host bridge with its windows and interrupt routing, the serial
//! port, the power ports, and the type of sleep that is "off".

use super::power;
use crate::pci;
use crate::platform::intx_input;
use acpi_tables::Aml;
use acpi_tables::aml;
use portal_boot_abi as abi;

/// COM1's input of the interrupt controller.
pub(crate) const COM1_INPUT: u32 = 4;
/// Pins of a PCI device, INTA to INTD.
const PINS: u8 = 4;

/// The body of the DSDT.
pub(super) fn body() -> Vec<u8> {
    let mut bytes = Vec::new();
    let com1 = com1();
    let bridge = bridge();
    let board = board();
    let panic = panic();
    let children: Vec<&dyn Aml> = vec![&com1, &panic, &board, &bridge];
    aml::Scope::new("_SB_".into(), children).to_aml_bytes(&mut bytes);
    let off = aml::Package::new(vec![&power::SOFT_OFF]);
    aml::Name::new("_S5_".into(), &off).to_aml_bytes(&mut bytes);
    bytes
}

/// A device that has been turned into bytes already.
struct Encoded(Vec<u8>);

impl Aml for Encoded {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

fn device(name: &str, id: &dyn Aml, unit: u8, rest: &[&dyn Aml]) -> Encoded {
    let mut bytes = Vec::new();
    let id = aml::Name::new("_HID".into(), id);
    let unit = aml::Name::new("_UID".into(), &unit);
    let mut children: Vec<&dyn Aml> = vec![&id, &unit];
    children.extend(rest);
    aml::Device::new(name.into(), children).to_aml_bytes(&mut bytes);
    Encoded(bytes)
}

fn com1() -> Encoded {
    let ports = aml::IO::new(abi::CONSOLE_PORT, abi::CONSOLE_PORT, 0, 8);
    let interrupt = aml::Interrupt::new(true, true, false, false, COM1_INPUT);
    let resources = aml::ResourceTemplate::new(vec![&ports, &interrupt]);
    device(
        "COM1",
        &aml::EISAName::new("PNP0501"),
        0,
        &[&aml::Name::new("_CRS".into(), &resources)],
    )
}

fn panic() -> Encoded {
    let port = aml::IO::new(power::PANIC, power::PANIC, 0, 1);
    let resources = aml::ResourceTemplate::new(vec![&port]);
    let resources = aml::Name::new("_CRS".into(), &resources);
    device("PEVT", &"QEMU0001", 0, &[&resources])
}

/// Addresses that are taken by no device that the guest would find otherwise.
fn board() -> Encoded {
    let count = (power::RESET - power::SLEEP_CONTROL + 1) as u8;
    let power = aml::IO::new(power::SLEEP_CONTROL, power::SLEEP_CONTROL, 0, count);
    let exit = aml::IO::new(abi::EXIT_PORT, abi::EXIT_PORT, 0, 4);
    let ecam = aml::Memory32Fixed::new(true, abi::ECAM_GPA as u32, abi::ECAM_BYTES as u32);
    let resources = aml::ResourceTemplate::new(vec![&power, &exit, &ecam]);
    device(
        "MBRD",
        &aml::EISAName::new("PNP0C02"),
        0,
        &[&aml::Name::new("_CRS".into(), &resources)],
    )
}

fn bridge() -> Encoded {
    let buses = aml::AddressSpace::<u16>::new_bus_number(0, 0);
    let config = aml::IO::new(0xCF8, 0xCF8, 1, 8);
    let low = aml::AddressSpace::<u32>::new_memory(
        aml::AddressSpaceCacheable::NotCacheable,
        true,
        abi::BAR32_GPA as u32,
        (abi::BAR32_END - 1) as u32,
        None,
    );
    let high = aml::AddressSpace::<u64>::new_memory(
        aml::AddressSpaceCacheable::NotCacheable,
        true,
        abi::WINDOW64_GPA,
        abi::WINDOW64_END - 1,
        None,
    );
    let resources = aml::ResourceTemplate::new(vec![&buses, &config, &low, &high]);
    device(
        "PCI0",
        &aml::EISAName::new("PNP0A08"),
        0,
        &[
            &aml::Name::new("_CID".into(), &aml::EISAName::new("PNP0A03")),
            &aml::Name::new("_ADR".into(), &aml::ZERO),
            &aml::Name::new("_SEG".into(), &aml::ZERO),
            &aml::Name::new("_BBN".into(), &aml::ZERO),
            &aml::Name::new("_CRS".into(), &resources),
            &aml::Name::new("_PRT".into(), &routes()),
        ],
    )
}

/// Which input of the interrupt controller each pin of each slot goes to.
fn routes() -> aml::PackageBuilder {
    let mut table = aml::PackageBuilder::new();
    for slot in 1..pci::SLOTS {
        for pin in 0..PINS {
            // Any function of the slot.
            let address = (slot as u32) << 16 | 0xFFFF;
            let input = intx_input(slot);
            table.add_element(&aml::Package::new(vec![&address, &pin, &aml::ZERO, &input]));
        }
    }
    table
}
