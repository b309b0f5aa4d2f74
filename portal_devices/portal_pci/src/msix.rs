//! The MSI-X table, its masks and its pending bits.
//!
//! Specification: PCI Local Bus 3.0, 6.8.2. Distrusted: the guest. Left out:
//! the message control word, which lives in configuration space.
//!
//! Entry, 16 bytes: +0 address (64 bits, the low two read 0), +8 data (32
//! bits), +12 vector control (bit 0 mask, set after reset, the rest reads 0).
//!
//! The specification has software use aligned 32- or 64-bit accesses only. Here
//! a narrower read gives the bytes, a narrower write changes nothing and is
//! counted by the caller. Pending bits are read-only.

use crate::guard::Guard;
use crate::merge;
use crate::part;
use portal_device::Msi;
use portal_device::RestoreError;
use portal_device::guard::stands;
use portal_device::saved::Reader;
use portal_device::saved::Writer;

/// The most vectors that the 11-bit size field of MSI-X can say.
pub const MAX_VECTORS: u16 = 2048;

/// Bytes of a table entry.
const ENTRY: u64 = 16;
/// Bytes of the smallest MSI-X BAR, and where its pending bits are at least.
const SMALLEST_BAR: u64 = 4096;
const EARLIEST_PENDING: u64 = 2048;

/// Where table and pending bits are in their BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixLayout {
    /// Number of vectors, 1 to [`MAX_VECTORS`].
    pub vectors: u16,
    /// Offset of the pending-bit array, bytes.
    pub pending: u64,
    /// Length of the BAR, bytes; a power of two.
    pub bar_len: u64,
}

impl MsixLayout {
    /// Table at 0, pending bits at the larger of 2048 and the table's end, BAR
    /// the next power of two from 4096 up.
    pub fn new(vectors: u16) -> Self {
        let vectors = vectors.clamp(1, MAX_VECTORS);
        let pending = EARLIEST_PENDING.max(ENTRY * u64::from(vectors));
        let end = pending + u64::from(vectors).div_ceil(64) * 8;
        MsixLayout {
            vectors,
            pending,
            bar_len: end.next_power_of_two().max(SMALLEST_BAR),
        }
    }

    /// The MSI-X capability behind id and next: message control, table, pending
    /// bits, both in `bar`. Of it a guest may write the top two bits of the first
    /// word.
    pub fn capability(&self, bar: u8) -> [u8; 10] {
        let mut body = [0; 10];
        let (control, places) = body.split_at_mut(2);
        let (table, pending) = places.split_at_mut(4);
        control.copy_from_slice(&self.vectors.wrapping_sub(1).to_le_bytes());
        table.copy_from_slice(&u32::from(bar).to_le_bytes());
        pending.copy_from_slice(&((self.pending as u32) | u32::from(bar)).to_le_bytes());
        body
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    address: u64,
    data: u32,
    masked: bool,
}

const AFTER_RESET: Entry = Entry {
    address: 0,
    data: 0,
    masked: true,
};

/// What a write to the MSI-X BAR did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableWrite {
    /// Table entry of this vector was written.
    Entry(u16),
    /// Reserved space or pending bits: nothing.
    Nothing,
    /// A width that the specification does not allow: nothing.
    Refused,
}

/// Table and pending bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Msix {
    layout: MsixLayout,
    entries: Vec<Entry>,
    pending: Vec<u64>,
}

impl Msix {
    /// All vectors masked, none pending.
    pub fn new(layout: MsixLayout) -> Self {
        let vectors = usize::from(layout.vectors);
        Msix {
            layout,
            entries: vec![AFTER_RESET; vectors],
            pending: vec![0; vectors.div_ceil(64)],
        }
    }

    /// Where things are.
    pub fn layout(&self) -> &MsixLayout {
        &self.layout
    }

    fn register(&self, offset: u64) -> u32 {
        if let Some(at) = offset.checked_sub(self.layout.pending) {
            let word = usize::try_from(at / 8)
                .ok()
                .and_then(|index| self.pending.get(index));
            let word = word.copied().unwrap_or(0);
            return if at & 4 == 0 {
                word as u32
            } else {
                (word >> 32) as u32
            };
        }
        let entry = usize::try_from(offset / ENTRY)
            .ok()
            .and_then(|index| self.entries.get(index));
        match (entry, offset % ENTRY / 4) {
            (None, _) => 0,
            (Some(entry), 0) => entry.address as u32,
            (Some(entry), 1) => (entry.address >> 32) as u32,
            (Some(entry), 2) => entry.data,
            (Some(entry), _) => entry.masked.into(),
        }
    }

    /// The guest reads `len` bytes (1, 2, 4, 8; a natural access).
    pub fn read(&self, offset: u64, len: u8) -> u64 {
        if len == 8 {
            let high = u64::from(self.register(offset | 4));
            return u64::from(self.register(offset)) | (high << 32);
        }
        part(self.register(offset & !3), offset, len)
    }

    /// The guest writes `len` bytes (1, 2, 4, 8; a natural access).
    pub fn write(&mut self, offset: u64, len: u8, value: u64) -> TableWrite {
        if len < 4 {
            return TableWrite::Refused;
        }
        if offset >= self.layout.pending {
            return TableWrite::Nothing;
        }
        let Ok(index) = u16::try_from(offset / ENTRY) else {
            return TableWrite::Nothing;
        };
        let Some(entry) = self.entries.get_mut(usize::from(index)) else {
            return TableWrite::Nothing;
        };
        let halves: &[u64] = if len == 8 { &[0, 4] } else { &[0] };
        for half in halves {
            let word = ((value >> (half * 8)) & u64::from(u32::MAX)) as u32;
            match (offset + half) % ENTRY / 4 {
                0 => entry.address = (entry.address & !0xffff_ffff) | u64::from(word & !3),
                1 => entry.address = (entry.address & 0xffff_ffff) | (u64::from(word) << 32),
                2 => entry.data = merge(entry.data, 0, 4, word.into()),
                _ => entry.masked = word & 1 != 0,
            }
        }
        TableWrite::Entry(index)
    }

    /// Whether a read there shows pending bits.
    pub fn shows_pending(&self, offset: u64) -> bool {
        offset >= self.layout.pending
    }

    /// The message of a vector that is not masked by its own mask bit.
    pub fn message(&self, vector: u16) -> Option<Msi> {
        let entry = self.entries.get(usize::from(vector))?;
        (!entry.masked).then_some(Msi {
            address: entry.address,
            data: entry.data,
        })
    }

    /// Whether the vector waits to be raised.
    pub fn pending(&self, vector: u16) -> bool {
        let word = self
            .pending
            .get(usize::from(vector / 64))
            .copied()
            .unwrap_or(0);
        word & (1 << (vector % 64)) != 0
    }

    /// The vector waits to be raised, or does not. Vectors that do not exist never do.
    pub fn set_pending(&mut self, vector: u16, pending: bool) {
        if vector >= self.layout.vectors {
            return;
        }
        if let Some(word) = self.pending.get_mut(usize::from(vector / 64)) {
            let bit = 1u64 << (vector % 64);
            *word = if pending { *word | bit } else { *word & !bit };
        }
    }

    /// All masked, none pending.
    pub fn reset(&mut self) {
        self.entries.fill(AFTER_RESET);
        self.pending.fill(0);
    }

    /// Appends table and pending bits.
    pub fn save(&self, to: &mut Writer) {
        for entry in &self.entries {
            to.u64(entry.address);
            to.u32(entry.data);
            to.flag(entry.masked);
        }
        for word in &self.pending {
            to.u64(*word);
        }
    }

    /// Reads table and pending bits of as many vectors as there are here.
    pub fn restore(&self, from: &mut Reader<'_>) -> Result<Self, RestoreError> {
        let mut restored = self.clone();
        for entry in &mut restored.entries {
            entry.address = from.u64("message address")?;
            if entry.address & 3 != 0 {
                return Err(RestoreError::OutOfRange {
                    field: "message address",
                    value: entry.address,
                    limit: !3,
                });
            }
            entry.data = from.u32("message data")?;
            entry.masked = from.flag("vector mask")?;
        }
        let mut left = u32::from(self.layout.vectors);
        for word in &mut restored.pending {
            *word = from.u64("pending bits")?;
            let limit = if left >= 64 {
                u64::MAX
            } else {
                (1u64 << left).wrapping_sub(1)
            };
            if *word & !limit != 0 && stands(Guard::SavedPendingBits) {
                return Err(RestoreError::OutOfRange {
                    field: "pending bits",
                    value: *word,
                    limit,
                });
            }
            left = left.saturating_sub(64);
        }
        Ok(restored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_follows_the_size_rule() {
        let of = |vectors| {
            let layout = MsixLayout::new(vectors);
            (layout.pending, layout.bar_len)
        };
        assert_eq!(of(1), (2048, 4096));
        assert_eq!(of(128), (2048, 4096));
        assert_eq!(of(129), (2064, 4096));
        assert_eq!(of(253), (4048, 4096));
        assert_eq!(of(254), (4064, 4096));
        assert_eq!(of(255), (4080, 8192));
        assert_eq!(of(2048), (32768, 65536));
    }

    #[test]
    fn quad_words_and_double_words_are_the_same_store() {
        let mut one = Msix::new(MsixLayout::new(3));
        let mut two = one.clone();
        assert_eq!(one.write(16, 8, 0x1_fee0_0003), TableWrite::Entry(1));
        assert_eq!(one.write(24, 8, 0x41), TableWrite::Entry(1));
        for (offset, value) in [(16, 0xfee0_0000), (20, 1), (24, 0x41), (28, 0xffff_fffe)] {
            assert_eq!(two.write(offset, 4, value), TableWrite::Entry(1));
        }
        assert_eq!(one, two);
        assert_eq!(
            one.message(1),
            Some(Msi {
                address: 0x1_fee0_0000,
                data: 0x41
            })
        );
        assert_eq!(one.read(16, 8), 0x1_fee0_0000, "the low two bits read 0");
        assert_eq!(one.read(24, 2), 0x41);
        assert_eq!(one.read(28, 4), 0);
        assert_eq!(one.read(12, 4), 1, "vector 0 is still masked");
    }

    #[test]
    fn narrow_writes_and_writes_beside_the_table_do_nothing() {
        let mut msix = Msix::new(MsixLayout::new(3));
        let before = msix.clone();
        assert_eq!(msix.write(0, 2, 0xffff), TableWrite::Refused);
        assert_eq!(msix.write(48, 4, 0xffff), TableWrite::Nothing);
        assert_eq!(msix.write(2048, 8, u64::MAX), TableWrite::Nothing);
        assert_eq!(msix.write(!7, 8, u64::MAX), TableWrite::Nothing);
        assert_eq!(msix, before);
        assert_eq!(msix.read(48, 8), 0);
        assert_eq!(msix.read(!7, 8), 0);
    }

    #[test]
    fn pending_bits_read_at_their_place() {
        let mut msix = Msix::new(MsixLayout::new(70));
        msix.set_pending(33, true);
        msix.set_pending(69, true);
        msix.set_pending(70, true);
        assert_eq!(msix.read(2048, 8), 1 << 33);
        assert_eq!(msix.read(2052, 4), 2);
        assert_eq!(msix.read(2056, 8), 1 << 5);
        msix.set_pending(33, false);
        assert_eq!(msix.read(2048, 8), 0);
    }
}
