//! What lies where in a partition's guest physical addresses: RAM, fixed
//! regions, ECAM, and whatever devices have mapped or trapped at the moment.
//!
//! Overlaps are refused, whoever asks: a guest that moves a BAR over RAM gets
//! nothing mapped there. Memory slots of the hypervisor are handed out here too.

use crate::VmmError;
use crate::guard::Guard;
use crate::guard::stands;
use portal_device::Access;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// Most memory slots of one partition: 16 devices with eight windows each, eight
/// fixed regions of five parts, RAM, and room to spare.
pub(crate) const MAX_SLOTS: u32 = 256;

/// What an address belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The partition's RAM.
    Ram,
    /// Configuration space of bus 0.
    Ecam,
    /// The IOMMU's registers.
    Iommu,
    /// The interrupt controllers.
    Apic,
    /// Part of a region at a fixed address; index of the attachment.
    Region {
        attachment: usize,
        access: Access,
        /// Offset of the place's first byte in the region.
        offset: u64,
    },
    /// Part of a region behind a device's BAR.
    DeviceMemory {
        device: usize,
        bar: u8,
        access: Access,
        /// Offset of the place's first byte in the region.
        offset: u64,
    },
    /// Registers of a device.
    Registers { device: usize, bar: u8 },
}

#[derive(Clone, Debug)]
struct Entry {
    len: u64,
    place: Place,
    slot: Option<u32>,
}

/// An address found: what is there, and how far into it the address lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) place: Place,
    pub(crate) offset: u64,
    /// Bytes from the address to the end of the place.
    pub(crate) left: u64,
}

/// The map of one partition.
#[derive(Clone, Debug)]
pub(crate) struct AddressMap {
    partition: String,
    entries: BTreeMap<u64, Entry>,
    free_slots: BTreeSet<u32>,
}

impl AddressMap {
    pub(crate) fn new(partition: &str, slots: u32) -> Self {
        Self {
            partition: partition.to_owned(),
            entries: BTreeMap::new(),
            free_slots: (0..slots.min(MAX_SLOTS)).collect(),
        }
    }

    fn name(&self, place: &Place) -> String {
        match place {
            Place::Ram => "RAM".to_owned(),
            Place::Ecam => "the PCI configuration space".to_owned(),
            Place::Iommu => "the IOMMU".to_owned(),
            Place::Apic => "the interrupt controllers".to_owned(),
            Place::Region { attachment, .. } => format!("region {attachment}"),
            Place::DeviceMemory { device, bar, .. } | Place::Registers { device, bar } => {
                format!("BAR {bar} of device {device}")
            }
        }
    }

    /// What `[gpa, gpa + len)` would overlap.
    pub(crate) fn overlap(&self, gpa: u64, len: u64) -> Option<(u64, u64, &Place)> {
        let end = gpa.saturating_add(len);
        // The last place that begins before the end is the only candidate that
        // can reach into the range from below; all others begin inside it.
        self.entries
            .range(..end)
            .next_back()
            .filter(|(start, entry)| start.saturating_add(entry.len) > gpa)
            .map(|(start, entry)| (*start, entry.len, &entry.place))
    }

    /// Puts a place on the map. With `memory` it also gets a slot.
    ///
    /// # Errors
    /// [`VmmError::Overlap`]; [`VmmError::Exhausted`] when no slot is left.
    pub(crate) fn insert(
        &mut self,
        gpa: u64,
        len: u64,
        place: Place,
        memory: bool,
    ) -> Result<Option<u32>, VmmError> {
        let wraps = len == 0 || gpa.checked_add(len).is_none();
        let taken = self.overlap(gpa, len).filter(|_| stands(Guard::Overlap));
        let other = taken.map(|found| self.name(found.2));
        let other = other.or_else(|| wraps.then(|| "the end of the address space".to_owned()));
        if let Some(other) = other {
            return Err(VmmError::Overlap {
                partition: self.partition.clone(),
                what: self.name(&place),
                gpa,
                len,
                other,
            });
        }
        let slot = if memory {
            let slot = self.free_slots.pop_first();
            Some(slot.ok_or_else(|| VmmError::Exhausted {
                partition: self.partition.clone(),
                what: "memory slots".to_owned(),
                limit: u64::from(MAX_SLOTS),
            })?)
        } else {
            None
        };
        self.entries.insert(gpa, Entry { len, place, slot });
        Ok(slot)
    }

    /// Takes the place at `gpa` off the map, if `is` says that it is the right
    /// one, and gives its slot back. `None` when there is none such.
    pub(crate) fn remove(&mut self, gpa: u64, is: impl Fn(&Place) -> bool) -> Option<Option<u32>> {
        self.entries.get(&gpa).filter(|entry| is(&entry.place))?;
        let entry = self.entries.remove(&gpa)?;
        self.free_slots.extend(entry.slot);
        Some(entry.slot)
    }

    pub(crate) fn find(&self, gpa: u64) -> Option<Found> {
        let (start, entry) = self.entries.range(..=gpa).next_back()?;
        let offset = gpa - start;
        (offset < entry.len).then(|| Found {
            place: entry.place.clone(),
            offset,
            left: entry.len - offset,
        })
    }

    /// The lowest free, naturally aligned `len` bytes (a power of two) in the window.
    pub(crate) fn gap(&self, window: std::ops::Range<u64>, len: u64) -> Option<u64> {
        let mut at = window.start.checked_next_multiple_of(len)?;
        loop {
            let end = at.checked_add(len)?;
            if end > window.end {
                return None;
            }
            match self.overlap(at, len) {
                None => return Some(at),
                Some((start, taken, _)) => {
                    at = start.checked_add(taken)?.checked_next_multiple_of(len)?;
                }
            }
        }
    }

    /// Every place outside RAM that lies in the window: (start, length).
    pub(crate) fn within(&self, window: std::ops::Range<u64>) -> Vec<(u64, u64)> {
        self.entries
            .range(window)
            .map(|(start, entry)| (*start, entry.len))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTERS: Place = Place::Registers { device: 0, bar: 0 };

    #[test]
    fn overlaps_are_refused_from_every_side() {
        let mut map = AddressMap::new("p", 8);
        map.insert(0x1000, 0x1000, Place::Ram, true).unwrap();
        for (gpa, len) in [
            (0x1000, 0x1000),
            (0xFFF, 2),
            (0x1FFF, 1),
            (0, 0x10000),
            (0x1800, 8),
        ] {
            assert!(map.insert(gpa, len, REGISTERS, false).is_err(), "{gpa:#x}");
        }
        assert!(map.insert(0xFFF, 1, REGISTERS, false).is_ok());
        assert!(map.insert(0x2000, 1, REGISTERS, false).is_ok());
        assert!(map.insert(u64::MAX - 1, 4, REGISTERS, false).is_err());
        assert!(map.insert(0x9000, 0, REGISTERS, false).is_err());
    }

    #[test]
    fn slots_come_back_and_run_out() {
        let mut map = AddressMap::new("p", 2);
        assert_eq!(
            map.insert(0x1000, 0x1000, Place::Ram, true).unwrap(),
            Some(0)
        );
        assert_eq!(
            map.insert(0x2000, 0x1000, Place::Ram, true).unwrap(),
            Some(1)
        );
        let error = map.insert(0x3000, 0x1000, Place::Ram, true).unwrap_err();
        assert!(error.to_string().contains("memory slots"), "{error}");
        assert_eq!(map.remove(0x1000, |_| false), None);
        assert_eq!(
            map.remove(0x1000, |place| *place == Place::Ram),
            Some(Some(0))
        );
        assert_eq!(
            map.insert(0x3000, 0x1000, Place::Ram, true).unwrap(),
            Some(0)
        );
    }

    #[test]
    fn addresses_are_found_with_their_offset() {
        let mut map = AddressMap::new("p", 8);
        map.insert(0x1000, 0x100, REGISTERS, false).unwrap();
        let found = map.find(0x10FF).unwrap();
        assert_eq!(
            (found.place, found.offset, found.left),
            (REGISTERS, 0xFF, 1)
        );
        assert_eq!(map.find(0x1100), None);
        assert_eq!(map.find(0xFFF), None);
    }

    #[test]
    fn gaps_are_aligned_and_free() {
        let mut map = AddressMap::new("p", 8);
        map.insert(0x1000, 0x100, REGISTERS, false).unwrap();
        assert_eq!(map.gap(0x1000..0x4000, 0x100), Some(0x1100));
        assert_eq!(map.gap(0x1000..0x4000, 0x1000), Some(0x2000));
        assert_eq!(map.gap(0x1000..0x4000, 0x2000), Some(0x2000));
        assert_eq!(map.gap(0x1000..0x4000, 0x4000), None);
    }
}
