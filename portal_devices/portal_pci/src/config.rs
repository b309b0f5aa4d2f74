//! Type-0 configuration space as a byte array and a mask of what the guest may
//! write.
//!
//! Specification: PCI Local Bus 3.0, 6.1 (layout), 6.2.5 (BARs and sizing), 6.7
//! (capability list). Distrusted: the guest. Left out: extended configuration
//! space, which reads as all ones, as a conventional function's does.
//!
//! Every writable bit is 0 after reset, so a state is valid exactly when its
//! read-only bits are the ones that this function was made with: that is the
//! whole check of a saved configuration space.
//!
//! | offset | bytes | what | writable bits |
//! |---|---|---|---|
//! | 00h | 2+2 | vendor, device | - |
//! | 04h | 2 | command | 1 memory, 2 bus master, 10 INTx disable |
//! | 06h | 2 | status: bit 3 INTx state, bit 4 capability list | - |
//! | 08h | 1+3 | revision, class | - |
//! | 0Ch | 1 | cache line size | all |
//! | 10h | 24 | BARs | address bits from the BAR's size up |
//! | 2Ch | 2+2 | subsystem vendor, subsystem | - |
//! | 34h | 1 | first capability | - |
//! | 3Ch | 1 | interrupt line | all |
//! | 3Dh | 1 | interrupt pin: 1 with INTx, else 0 | - |
//! | 40h | | capabilities | as each says |

use crate::guard::Guard;
use crate::natural;
use crate::ones;
use portal_device::BarInfo;
use portal_device::BarKind;
use portal_device::RestoreError;
use portal_device::guard::stands;
use portal_device::saved::Reader;
use portal_device::saved::Writer;

/// Bytes of a conventional function's configuration space.
const LEN: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BARS: usize = 0x10;
const CAPABILITY_POINTER: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
const FIRST_CAPABILITY: usize = 0x40;

const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
const STATUS_INTX: u16 = 1 << 3;
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// The read-only identity of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class, subclass, interface: 24 bits, class highest.
    pub class: u32,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
    /// Whether the function has an INTx pin (INTA#).
    pub intx: bool,
}

/// An access that no bus carries (width not 1, 2 or 4, or not a multiple of its
/// width) or that is outside configuration space: reads all ones, writes
/// nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// Configuration space of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    bytes: [u8; LEN],
    writable: [u8; LEN],
    bars: [Option<BarInfo>; 6],
    /// Where the next capability goes, and where its address is to be written.
    next: (usize, usize),
}

impl ConfigSpace {
    /// A function after power-on: all BARs 0, memory decoding off.
    pub fn new(identity: &Identity, bars: &[BarInfo]) -> Self {
        let mut space = ConfigSpace {
            bytes: [0; LEN],
            writable: [0; LEN],
            bars: [None; 6],
            next: (FIRST_CAPABILITY, CAPABILITY_POINTER),
        };
        space.fix(0x00, &identity.vendor.to_le_bytes());
        space.fix(0x02, &identity.device.to_le_bytes());
        space.fix(
            0x08,
            &((identity.class << 8) | u32::from(identity.revision)).to_le_bytes(),
        );
        space.fix(0x2c, &identity.subsystem_vendor.to_le_bytes());
        space.fix(0x2e, &identity.subsystem.to_le_bytes());
        space.fix(INTERRUPT_PIN, &[identity.intx.into()]);
        let command = COMMAND_MEMORY
            | COMMAND_BUS_MASTER
            | if identity.intx {
                COMMAND_INTX_DISABLE
            } else {
                0
            };
        space.allow(COMMAND, &command.to_le_bytes());
        space.allow(0x0c, &[0xff]);
        space.allow(INTERRUPT_LINE, &[0xff]);
        for info in bars {
            let Some(slot) = space.bars.get_mut(usize::from(info.bar)) else {
                continue;
            };
            *slot = Some(*info);
            let at = BARS + usize::from(info.bar) * 4;
            let mask = !info.len.wrapping_sub(1);
            match info.kind {
                BarKind::Memory32 => space.allow(at, &(mask as u32).to_le_bytes()),
                BarKind::Memory64Prefetchable => {
                    space.fix(at, &[0b1100]);
                    space.allow(at, &mask.to_le_bytes());
                }
            }
        }
        space
    }

    /// Appends a capability: `body` is everything behind the two bytes id and
    /// next, `writable` has a bit set for each bit of it that the guest may
    /// write. Returns the offset of the capability's id.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let (at, link) = self.next;
        self.fix(link, &[at as u8]);
        self.fix(at, &[id, 0]);
        self.fix(at + 2, body);
        self.allow(at + 2, writable);
        self.fix(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        let end = at + 2 + body.len();
        self.next = (end.next_multiple_of(4), at + 1);
        at
    }

    fn fix(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        for (to, from) in self.writable.iter_mut().skip(at).zip(mask) {
            *to = *from;
        }
    }

    fn window(offset: u16, len: u8) -> Result<std::ops::Range<usize>, Refused> {
        let start = usize::from(offset);
        let end = start + usize::from(len);
        if !natural(offset.into(), len) || len > 4 || end > LEN {
            return Err(Refused);
        }
        Ok(start..end)
    }

    /// The guest reads. `intx` is the state of the INTx condition, which shows
    /// in the status register whether or not the pin is disabled.
    pub fn read(&self, offset: u16, len: u8, intx: bool) -> Result<u32, Refused> {
        let bytes = self.bytes.get(Self::window(offset, len)?).ok_or(Refused)?;
        let mut value = 0u32;
        for (index, byte) in bytes.iter().enumerate() {
            let mut byte = *byte;
            if intx && usize::from(offset) + index == STATUS {
                byte |= STATUS_INTX as u8;
            }
            value |= u32::from(byte) << (index * 8);
        }
        Ok(value)
    }

    /// The guest writes. True when a bit changed.
    pub fn write(&mut self, offset: u16, len: u8, value: u32) -> Result<bool, Refused> {
        let window = Self::window(offset, len)?;
        let mut changed = false;
        let bytes = self.bytes.get_mut(window.clone()).ok_or(Refused)?;
        let masks = self.writable.get(window).ok_or(Refused)?;
        for ((byte, mask), new) in bytes.iter_mut().zip(masks).zip(value.to_le_bytes()) {
            let mask = if stands(Guard::ReadOnlyBits) {
                *mask
            } else {
                0xff
            };
            let written = (*byte & !mask) | (new & mask);
            changed |= written != *byte;
            *byte = written;
        }
        Ok(changed)
    }

    fn word(&self, at: usize) -> u16 {
        let byte = |at: usize| self.bytes.get(at).copied().unwrap_or(0);
        u16::from_le_bytes([byte(at), byte(at + 1)])
    }

    fn dword(&self, at: usize) -> u32 {
        u32::from(self.word(at)) | (u32::from(self.word(at + 2)) << 16)
    }

    /// A 16-bit register inside a capability.
    pub fn capability_word(&self, at: usize) -> u16 {
        self.word(at)
    }

    /// Command bit 2: the function may send messages.
    pub fn bus_master(&self) -> bool {
        self.word(COMMAND) & COMMAND_BUS_MASTER != 0
    }

    /// Command bit 10: the INTx pin is kept low.
    pub fn intx_disabled(&self) -> bool {
        self.word(COMMAND) & COMMAND_INTX_DISABLE != 0
    }

    /// Where the BAR answers, or `None` while it does not: memory decoding is
    /// off, the address is 0, or it is the top of the address width, which is
    /// what a guest writes to find the size.
    pub fn decoded(&self, bar: u8) -> Option<u64> {
        if self.word(COMMAND) & COMMAND_MEMORY == 0 {
            return None;
        }
        let info = (*self.bars.get(usize::from(bar))?)?;
        let at = BARS + usize::from(bar) * 4;
        let low = u64::from(self.dword(at) & !0xf);
        let (address, top) = match info.kind {
            BarKind::Memory32 => (low, u64::from(u32::MAX)),
            BarKind::Memory64Prefetchable => {
                (low | (u64::from(self.dword(at + 4)) << 32), u64::MAX)
            }
        };
        let last = address.checked_add(info.len.wrapping_sub(1))?;
        (address != 0 && last < top).then_some(address)
    }

    /// The BAR's description.
    pub fn bar(&self, bar: u8) -> Option<&BarInfo> {
        self.bars.get(usize::from(bar))?.as_ref()
    }

    /// Every writable bit goes to 0.
    pub fn reset(&mut self) {
        for (byte, mask) in self.bytes.iter_mut().zip(self.writable) {
            *byte &= !mask;
        }
    }

    /// Appends the 256 bytes.
    pub fn save(&self, to: &mut Writer) {
        for byte in self.bytes {
            to.u8(byte);
        }
    }

    /// Reads 256 bytes; each read-only bit has to be what it is here.
    pub fn restore(&self, from: &mut Reader<'_>) -> Result<Self, RestoreError> {
        const FIELD: &str = "configuration space";
        let mut restored = self.clone();
        for (byte, mask) in restored.bytes.iter_mut().zip(self.writable) {
            let value = from.u8(FIELD)?;
            if (value ^ *byte) & !mask != 0 && stands(Guard::SavedReadOnlyBits) {
                return Err(RestoreError::Mismatch {
                    field: FIELD,
                    value: value.into(),
                    expected: (*byte & !mask).into(),
                });
            }
            *byte = value;
        }
        Ok(restored)
    }
}

/// All ones in the width of a refused read.
impl Refused {
    /// What the guest sees.
    pub fn answer(len: u8) -> u64 {
        ones(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portal_device::BarBacking;

    fn space() -> ConfigSpace {
        let identity = Identity {
            vendor: 0x1af4,
            device: 0x1110,
            revision: 1,
            class: 0x05_00_00,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
            intx: true,
        };
        let bar = |bar, len, kind| BarInfo {
            bar,
            len,
            kind,
            backing: BarBacking::Registers,
        };
        let mut space = ConfigSpace::new(
            &identity,
            &[
                bar(0, 256, BarKind::Memory32),
                bar(2, 1 << 33, BarKind::Memory64Prefetchable),
            ],
        );
        space.add_capability(0x09, &[6, 1, 2, 3], &[0, 0, 0xf0, 0]);
        space.add_capability(0x11, &[0; 10], &[0, 0xc0]);
        space
    }

    fn read(space: &ConfigSpace, offset: u16, len: u8) -> u32 {
        space.read(offset, len, false).expect("a natural access")
    }

    #[test]
    fn sizing_answers_with_the_size() {
        let mut space = space();
        for bar in [0x10, 0x18, 0x1c, 0x14] {
            space.write(bar, 4, u32::MAX).expect("natural");
        }
        assert_eq!(read(&space, 0x10, 4), 0xffff_ff00);
        assert_eq!(read(&space, 0x14, 4), 0, "no BAR1 here");
        assert_eq!(read(&space, 0x18, 4), 0xc, "64-bit prefetchable, 8 GiB");
        assert_eq!(read(&space, 0x1c, 4), 0xffff_fffe);
    }

    #[test]
    fn capabilities_are_a_list_that_ends() {
        let space = space();
        assert_eq!(read(&space, 0x06, 2), 0x10);
        assert_eq!(read(&space, 0x34, 1), 0x40);
        assert_eq!(read(&space, 0x40, 2), 0x4809);
        assert_eq!(read(&space, 0x48, 2), 0x0011);
    }

    #[test]
    fn decoding_needs_the_bit_and_an_address() {
        let mut space = space();
        space.write(0x10, 4, 0xc000_0000).expect("natural");
        assert_eq!(space.decoded(0), None);
        space.write(0x04, 2, 0x2).expect("natural");
        assert_eq!(space.decoded(0), Some(0xc000_0000));
        assert_eq!(space.decoded(2), None, "address 0");
        space.write(0x10, 4, u32::MAX).expect("natural");
        assert_eq!(space.decoded(0), None, "sizing");
        space.write(0x1c, 4, 0x10).expect("natural");
        assert_eq!(space.decoded(2), Some(0x10_0000_0000));
        space.write(0x1c, 4, u32::MAX).expect("natural");
        assert_eq!(space.decoded(2), None, "sizing");
    }

    #[test]
    fn bytes_and_words_are_enabled_alone() {
        let mut space = space();
        space.write(0x12, 2, 0xc0de).expect("natural");
        space.write(0x11, 1, 0x77).expect("natural");
        assert_eq!(read(&space, 0x10, 4), 0xc0de_7700);
        assert_eq!(space.read(0x11, 2, false), Err(Refused));
        assert_eq!(space.read(0xfe, 4, false), Err(Refused));
        assert_eq!(space.read(0x100, 4, false), Err(Refused));
        assert_eq!(space.read(0, 8, false), Err(Refused));
        assert_eq!(space.write(0, 3, 0), Err(Refused));
    }

    #[test]
    fn the_interrupt_state_shows_in_status_only() {
        let space = space();
        assert_eq!(space.read(0x04, 4, true), Ok(0x0018_0000));
        assert_eq!(space.read(0x06, 1, true), Ok(0x18));
        assert_eq!(space.read(0x07, 1, true), Ok(0));
    }

    #[test]
    fn reset_is_power_on() {
        let mut changed = space();
        for offset in (0..256).step_by(4) {
            changed.write(offset, 4, 0xa5a5_a5a5).expect("natural");
        }
        assert_ne!(changed, space());
        changed.reset();
        assert_eq!(changed, space());
    }
}
