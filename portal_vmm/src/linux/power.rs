//! Power-off and reset as ACPI names them: the sleep registers of hardware-reduced
//! ACPI and the reset register (ACPI 6.5, 4.8.3.6 and 4.8.3.7).
//!
//! | port | width | what |
//! |---|---|---|
//! | 600h | 8 | sleep control: bits 2 to 4 the type, bit 5 go |
//! | 601h | 8 | sleep status: reads 0 |
//! | 602h | 8 | reset: 1 resets |

use crate::hv::StopCause;

pub(crate) const SLEEP_CONTROL: u16 = 0x600;
pub(crate) const SLEEP_STATUS: u16 = 0x601;
pub(crate) const RESET: u16 = 0x602;
/// Value for the reset register.
pub(super) const RESET_VALUE: u8 = 1;
/// The type of sleep that is "off", as the DSDT's `_S5_` says.
pub(super) const SOFT_OFF: u8 = 5;
/// Bit and width of the type in the control register, and the bit that acts.
const TYPE_SHIFT: u8 = 2;
const TYPE_MASK: u8 = 0b111;
const GO: u8 = 1 << 5;

/// Whether a port is one of these.
pub(crate) fn claims(port: u16) -> bool {
    (SLEEP_CONTROL..=RESET).contains(&port)
}

/// A store to one of these ports.
///
/// # Errors
/// [`StopCause::PowerOff`] and [`StopCause::Reset`], when that was asked for.
pub(crate) fn write(port: u16, value: u8) -> Result<(), StopCause> {
    let off = value & GO != 0 && value >> TYPE_SHIFT & TYPE_MASK == SOFT_OFF;
    match port {
        SLEEP_CONTROL if off => Err(StopCause::PowerOff),
        RESET if value == RESET_VALUE => Err(StopCause::Reset),
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
