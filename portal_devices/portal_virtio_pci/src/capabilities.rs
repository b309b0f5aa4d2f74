//! Where a driver finds each structure: the vendor capabilities.
//!
//! Specification: virtio 1.2, 4.1.4 (`virtio_pci_cap`), 4.1.4.4.1 (notification),
//! 4.1.4.7 (shared memory), 4.1.4.9 (the window in configuration space).
//! Distrusted: the guest, as far as the window goes: its place and width are what
//! it wrote there.

use crate::MEMORY;
use crate::REGISTERS;
use portal_pci::ConfigSpace;

const VENDOR_CAPABILITY: u8 = 0x09;
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const ISR: u8 = 3;
const DEVICE: u8 = 4;
const WINDOW: u8 = 5;
const SHARED_MEMORY: u8 = 8;

/// Offsets of the structures in BAR0, and its length: a page each.
pub(crate) const COMMON_AT: u64 = 0x0000;
pub(crate) const ISR_AT: u64 = 0x1000;
pub(crate) const DEVICE_AT: u64 = 0x2000;
pub(crate) const NOTIFY_AT: u64 = 0x3000;
pub(crate) const REGISTERS_LEN: u64 = 0x4000;
/// Bytes from the place where one queue is notified to the next one's.
pub(crate) const NOTIFY_STEP: u32 = 4;

/// The window in configuration space through which BAR0 can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Offset of its capability.
    at: u16,
}

/// A capability behind its id and the next one's offset.
fn body(kind: u8, bar: u8, offset: u64, len: u64, more: &[u8]) -> Vec<u8> {
    let mut body = vec![(16 + more.len()) as u8, kind, bar, 0, 0, 0];
    body.extend_from_slice(&(offset as u32).to_le_bytes());
    body.extend_from_slice(&(len as u32).to_le_bytes());
    body.extend_from_slice(more);
    body
}

/// Adds every vendor capability. `config_len` and `memory` in bytes; no memory, no
/// capability for it.
pub(crate) fn add(space: &mut ConfigSpace, queues: u16, config_len: u64, memory: u64) -> Window {
    let mut fixed = |kind, at, len, more: &[u8]| {
        space.add_capability(
            VENDOR_CAPABILITY,
            &body(kind, REGISTERS, at, len, more),
            &[],
        );
    };
    fixed(COMMON, COMMON_AT, crate::common::LEN, &[]);
    let notify_len = u64::from(NOTIFY_STEP) * u64::from(queues);
    fixed(NOTIFY, NOTIFY_AT, notify_len, &NOTIFY_STEP.to_le_bytes());
    fixed(ISR, ISR_AT, 1, &[]);
    fixed(DEVICE, DEVICE_AT, config_len, &[]);
    if memory > 0 {
        // The upper halves of offset 0 and of the length.
        let mut high = vec![0; 4];
        high.extend_from_slice(&((memory >> 32) as u32).to_le_bytes());
        let body = body(SHARED_MEMORY, MEMORY, 0, memory, &high);
        space.add_capability(VENDOR_CAPABILITY, &body, &[]);
    }
    // BAR, offset, length and data are the driver's to write.
    let mut writable = vec![0, 0, 0xff, 0, 0, 0];
    writable.extend([0xff; 12]);
    let body = body(WINDOW, 0, 0, 0, &[0; 4]);
    let at = space.add_capability(VENDOR_CAPABILITY, &body, &writable);
    Window { at: at as u16 }
}

impl Window {
    /// Whether an access to configuration space is one to the window's data.
    pub(crate) fn holds(self, offset: u16) -> bool {
        (self.at + 16..self.at + 20).contains(&offset)
    }

    /// Offset and width in BAR0 that the window shows; `None` when it shows
    /// nothing.
    pub(crate) fn target(self, space: &ConfigSpace) -> Option<(u64, u8)> {
        let field = |at: u16, len: u8| space.read(self.at + at, len, false).unwrap_or(0);
        let (bar, offset, len) = (field(4, 1), field(8, 4), field(12, 4));
        let offset = u64::from(offset);
        let len = match len {
            1 | 2 | 4 => len as u8,
            _ => return None,
        };
        let inside = offset + u64::from(len) <= REGISTERS_LEN;
        let natural = offset.is_multiple_of(len.into());
        (bar == u32::from(REGISTERS) && inside && natural).then_some((offset, len))
    }
}
