//! What firmware does before an operating system runs: gives each device's BARs
//! addresses and turns the device on.
//!
//! Done through configuration space alone, as a guest could, so that a device
//! needs no second way in (PCI Local Bus 3.0, 6.2.5.1).

use crate::FaultKind;
use crate::VmmError;
use crate::address_map::AddressMap;
use crate::address_map::Place;
use crate::binding::Binding;
use crate::hv::StopCause;
use crate::platform::Resources;
use crate::platform::intx_input;
use portal_boot_abi as abi;
use portal_device::BarKind;
use portal_device::Input;
use std::ops::Range;

/// Offset of the first BAR in configuration space.
const BARS: u16 = 0x10;
/// Offset of the command register.
const COMMAND: u16 = 0x04;
/// Offset of the interrupt line register: where the guest finds the input of the
/// I/O APIC that INTx goes to (6.2.4).
const INTERRUPT_LINE: u16 = 0x3C;
/// Memory decoding and bus mastering.
const ON: u32 = 0b110;
/// BARs get at least a page each, so that no page holds two devices.
const PAGE: u64 = 4096;

/// Gives one device its addresses, turns it on and attaches it. `plan` has
/// everything that is or will be somewhere, and gets this device's BARs too;
/// `window64` is where 64-bit BARs may lie.
///
/// # Errors
/// [`VmmError::Bar`] when there is no room for one; [`VmmError::Device`] when the
/// device or the host refuses.
pub(crate) fn enable(
    partition: &str,
    index: usize,
    binding: &mut Binding,
    plan: &mut AddressMap,
    window64: &Range<u64>,
    on: &Resources,
) -> Result<(), VmmError> {
    for info in binding.device().bars().to_vec() {
        let (window, wide) = match info.kind {
            BarKind::Memory32 => (abi::BAR32_GPA..abi::BAR32_END, false),
            BarKind::Memory64Prefetchable => (window64.clone(), true),
        };
        let (bar, len) = (info.bar, info.len.max(PAGE));
        let gap = plan.gap(window.clone(), len);
        let gpa = gap.ok_or_else(|| VmmError::Bar {
            partition: partition.to_owned(),
            device: binding.name().to_owned(),
            bar,
            len,
            room: room(plan, &window),
            start: window.start,
            end: window.end,
            remedy: match (wide, window.end < abi::WINDOW64_END) {
                (false, _) => "give the partition fewer devices",
                (true, false) => "make the region or file smaller, or give the partition fewer",
                (true, true) => {
                    "this host's processor has no more addresses: make the region or file \
                     smaller, or use another host"
                }
            },
        })?;
        plan.insert(gpa, len, Place::Registers { device: index, bar }, false)?;
        let at = BARS + 4 * u16::from(bar);
        config_write(binding, at, 4, gpa as u32, on)?;
        if wide {
            config_write(binding, at + 4, 4, (gpa >> 32) as u32, on)?;
        }
    }
    let input = intx_input(binding.slot());
    config_write(binding, INTERRUPT_LINE, 1, input, on)?;
    config_write(binding, COMMAND, 2, ON, on)?;
    step(binding, Input::Attach, on)
}

/// Bytes of the largest BAR that would still fit.
fn room(plan: &AddressMap, window: &Range<u64>) -> u64 {
    let sizes = (PAGE.ilog2()..u64::BITS).rev().map(|bits| 1 << bits);
    let mut fitting = sizes.filter(|len| plan.gap(window.clone(), *len).is_some());
    fitting.next().unwrap_or(0)
}

fn config_write(
    binding: &mut Binding,
    offset: u16,
    len: u8,
    value: u32,
    on: &Resources,
) -> Result<(), VmmError> {
    step(binding, Input::ConfigWrite { offset, len, value }, on)
}

/// One input, none of whose effects may fail: nothing here is a guest's doing.
fn step(binding: &mut Binding, input: Input, on: &Resources) -> Result<(), VmmError> {
    let stopped = binding.step(input, on).err();
    let reason = match stopped {
        Some(StopCause::Fault(FaultKind::Device { reason, .. })) => Some(reason),
        Some(_) => Some("stopped the partition".to_owned()),
        None => binding.take_refusal(),
    };
    match reason {
        Some(reason) => Err(VmmError::Device {
            device: binding.name().to_owned(),
            reason,
        }),
        None => Ok(()),
    }
}
