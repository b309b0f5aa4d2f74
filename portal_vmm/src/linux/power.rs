//! How a guest ends its run: the sleep registers of hardware-reduced ACPI and the
//! reset register (ACPI 6.5, 4.8.3.6 and 4.8.3.7), and the port on which a kernel
//! tells that it panicked (QEMU's `pvpanic` specification).
//!
//! | port | width | what |
//! |---|---|---|
//! | 600h | 8 | sleep control: bits 2 to 4 the type, bit 5 go |
//! | 601h | 8 | sleep status: reads 0 |
//! | 602h | 8 | reset: 1 resets |
//! | 505h | 8 | panic: bit 0 tells of one; reads which bits are known |
//!
//! Left out of `pvpanic`: bit 1, a crash kernel that takes over.
//!
//! Under hardware-reduced ACPI without EFI, Linux does not use the reset register:
//! it goes to real mode and jumps to the BIOS, F000:FFF0. What stands there is
//! [`RESET_VECTOR`], which uses it.

use crate::FaultKind;
use crate::hv::StopCause;

pub(crate) const SLEEP_CONTROL: u16 = 0x600;
pub(crate) const SLEEP_STATUS: u16 = 0x601;
pub(crate) const RESET: u16 = 0x602;
pub(crate) const PANIC: u16 = 0x505;
/// The bit that tells of a panic.
const PANICKED: u8 = 1;
/// Value for the reset register.
pub(super) const RESET_VALUE: u8 = 1;
/// The type of sleep that is "off", as the DSDT's `_S5_` says.
pub(super) const SOFT_OFF: u8 = 5;
/// Bit and width of the type in the control register, and the bit that acts.
const TYPE_SHIFT: u8 = 2;
const TYPE_MASK: u8 = 0b111;
const GO: u8 = 1 << 5;

/// Where a processor begins after a reset, and a kernel that asks the BIOS for one.
pub(super) const RESET_VECTOR_GPA: u64 = 0xF_FFF0;
/// `mov dx, 602h; mov al, 1; out dx, al`, then `hlt` for ever.
pub(super) const RESET_VECTOR: [u8; 9] = [
    0xBA,
    RESET.to_le_bytes()[0],
    RESET.to_le_bytes()[1],
    0xB0,
    RESET_VALUE,
    0xEE,
    0xF4,
    0xEB,
    0xFD,
];

/// Whether a port is one of these.
pub(crate) fn claims(port: u16) -> bool {
    (SLEEP_CONTROL..=RESET).contains(&port) || port == PANIC
}

/// A load from one of these ports.
pub(crate) fn read(port: u16) -> u8 {
    if port == PANIC { PANICKED } else { 0 }
}

/// A store to one of these ports.
///
/// # Errors
/// [`StopCause::PowerOff`] and [`StopCause::Reset`], when that was asked for; a
/// fault for a panic.
pub(crate) fn write(port: u16, value: u8) -> Result<(), StopCause> {
    let off = value & GO != 0 && value >> TYPE_SHIFT & TYPE_MASK == SOFT_OFF;
    match port {
        SLEEP_CONTROL if off => Err(StopCause::PowerOff),
        RESET if value == RESET_VALUE => Err(StopCause::Reset),
        PANIC if value & PANICKED != 0 => Err(StopCause::Fault(FaultKind::Panic)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_values_act() {
        let mut acts = Vec::new();
        for port in SLEEP_CONTROL..=RESET {
            acts.extend((0..=u8::MAX).filter_map(|value| write(port, value).err()));
        }
        // Bits 0, 1, 6 and 7 of the sleep control are not looked at.
        let offs = acts.iter().filter(|cause| **cause == StopCause::PowerOff);
        assert_eq!(offs.count(), 16);
        assert_eq!(acts.iter().filter(|c| **c == StopCause::Reset).count(), 1);
        assert_eq!(acts.len(), 17);
        assert_eq!(
            write(SLEEP_CONTROL, SOFT_OFF << 2 | GO),
            Err(StopCause::PowerOff)
        );
    }
}
