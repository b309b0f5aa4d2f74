//! The ring directory of a section: 64 bytes an entry, written by the section's
//! peer.
//!
//! | offset | width | producer entry | consumer entry |
//! |---|---|---|---|
//! | 0x00 | 4 | sequence: odd while being rewritten | the same |
//! | 0x04 | 1 | role: 1 | role: 2 (0: free, 3: closed) |
//! | 0x05 | 1 | kind ([`RingKind`]) | the same |
//! | 0x06 | 1 | layout ([`RingLayout`]) | the same |
//! | 0x07 | 1 | flags: bit 0, slots lie in the common section | the same |
//! | 0x08 | 4 | ring id | the same |
//! | 0x0c | 2 | receiving peer | sending peer |
//! | 0x0e | 2 | zero | zero |
//! | 0x10 | 4 | slot size in bytes | zero |
//! | 0x14 | 4 | slots | zero |
//! | 0x18 | 8 | offset of the producer's line | offset of the cursor line |
//! | 0x20 | 8 | offset of the slots | zero |
//! | 0x28 | 4 | epoch of the entry's writer | the same |
//! | 0x2c | 4 | epoch of the receiver it is for | epoch of the sender it is for |
//! | 0x30 | 4 | instance: counts up with every renewal of the ring | the instance it consumes |
//! | 0x34 | 12 | zero | zero |
//!
//! Offsets count from the section's start (of slots in the common section: from
//! the common section's start). The two halves of a ring belong together when
//! (sender, receiver, ring id, both epochs, instance) agree. An entry from
//! before its writer's or its reader's current epoch matches nothing.
//!
//! Distrusted: the writer of the section. An entry is copied once
//! (between two looks at its sequence), then checked: the shape by [`RingLayout::storage_bytes`], the
//! places against the ring storage of *that* section, in-place slots against
//! *that* peer's slice of the common section, so that a hostile sender cannot
//! lead an honest receiver's writes into other peers' rings.

use crate::claim::BadClaim;
use crate::claim::Fields;
use crate::claim::put;
use crate::guard::Guard;
use crate::guard::stands;
use crate::layout::Layout;
use crate::layout::PeerId;
use crate::mem::SharedMem;
use crate::ring::CURSOR_BYTES;
use crate::ring::PRODUCED_BYTES;
use crate::ring::PlaceError;
use crate::ring::RingKind;
use crate::ring::RingLayout;
use crate::section::DIRECTORY_ENTRY_BYTES;
use crate::section::RING_ALIGN;
use crate::section::SectionHeader;
use crate::sequenced;
use crate::sequenced::HalfWritten;
use crate::sequenced::RECORD;
use core::ops::Range;

mod at {
    pub(super) const ROLE: u64 = 0x04;
    pub(super) const KIND: u64 = 0x05;
    pub(super) const LAYOUT: u64 = 0x06;
    pub(super) const FLAGS: u64 = 0x07;
    pub(super) const ID: u64 = 0x08;
    pub(super) const PEER: u64 = 0x0c;
    pub(super) const SLOT_SIZE: u64 = 0x10;
    pub(super) const SLOTS: u64 = 0x14;
    pub(super) const LINE: u64 = 0x18;
    pub(super) const STORAGE: u64 = 0x20;
    pub(super) const EPOCH: u64 = 0x28;
    pub(super) const PEER_EPOCH: u64 = 0x2c;
    pub(super) const INSTANCE: u64 = 0x30;
}

/// Flag: the slots lie in the common section.
const IN_COMMON: u8 = 1 << 0;

/// What an entry stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Nothing, never used.
    Free = 0,
    /// A ring that the section's peer sends on.
    Producer = 1,
    /// A ring that the section's peer receives on.
    Consumer = 2,
    /// A ring that was; its storage may be used again.
    Closed = 3,
}

impl Role {
    const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Free),
            1 => Some(Self::Producer),
            2 => Some(Self::Consumer),
            3 => Some(Self::Closed),
            _ => None,
        }
    }
}

/// Which ring an entry is about, from its writer's point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingKey {
    /// The other peer: receiver of a producer entry, sender of a consumer entry.
    pub peer: PeerId,
    /// Ring id, chosen by the two peers.
    pub id: u32,
    /// Epoch of the entry's writer.
    pub epoch: u32,
    /// Epoch of the other peer.
    pub peer_epoch: u32,
}

/// The half of a ring that its sender describes. Checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerEntry {
    /// Which ring.
    pub key: RingKey,
    /// Counts up with every renewal.
    pub instance: u32,
    /// What the ring carries.
    pub kind: RingKind,
    /// How its slots are laid out.
    pub layout: RingLayout,
    /// Bytes a slot.
    pub slot_size: u32,
    /// Number of slots.
    pub slots: u32,
    /// Offset of the producer's line in the section.
    pub line: u64,
    /// Whether the slots lie in the common section.
    pub in_common: bool,
    /// The slots, from the start of the section or of the common section.
    pub storage: u64,
}

/// The half of a ring that its receiver describes. Checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerEntry {
    /// Which ring.
    pub key: RingKey,
    /// The instance that it consumes.
    pub instance: u32,
    /// Offset of the cursor line in the section.
    pub line: u64,
}

/// A checked entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Nothing there.
    Free,
    /// A ring that the section's peer sends on.
    Producer(ProducerEntry),
    /// A ring that the section's peer receives on.
    Consumer(ConsumerEntry),
    /// What is left of a producer entry.
    Closed(ProducerEntry),
    /// What is left of a consumer entry.
    ClosedConsumer(ConsumerEntry),
}

/// The 64 bytes of an entry as they stood at one moment.
#[derive(Clone, Copy)]
pub(crate) struct ClaimedEntry {
    bytes: [u8; RECORD],
    /// Offset in the section, for messages.
    at: u64,
}

impl ClaimedEntry {
    /// Copies entry `index` (below `header.entries`) of a section.
    pub(crate) fn copy<M: SharedMem>(
        section: &M,
        header: &SectionHeader,
        index: u32,
    ) -> Result<Self, BadClaim> {
        let at = entry_at(header, index);
        match sequenced::copy(section, at) {
            Ok(bytes) => Ok(Self { bytes, at }),
            Err(HalfWritten(sequence)) => Err(BadClaim {
                what: "sequence of a half-written directory entry",
                at,
                value: sequence.into(),
                limit: u64::from(sequence & !1),
            }),
        }
    }

    /// Role and key, unchecked but for being what they are: enough to see
    /// whether the entry is the one looked for.
    pub(crate) fn claims(&self) -> (Option<Role>, RingKey) {
        let f = Fields(&self.bytes);
        let key = RingKey {
            peer: PeerId(f.u16(at::PEER)),
            id: f.u32(at::ID),
            epoch: f.u32(at::EPOCH),
            peer_epoch: f.u32(at::PEER_EPOCH),
        };
        (Role::from_u8(f.u8(at::ROLE)), key)
    }

    /// Checks every field against the section and the region.
    pub(crate) fn check(&self, header: &SectionHeader, layout: &Layout) -> Result<Entry, BadClaim> {
        let f = Fields(&self.bytes);
        let (role, key) = self.claims();
        let role = role.ok_or_else(|| {
            let value = f.u8(at::ROLE).into();
            self.bad(
                "directory entry's role",
                at::ROLE,
                value,
                Role::Closed as u64,
            )
        })?;
        if role == Role::Free {
            return Ok(Entry::Free);
        }
        if !layout.has(key.peer) {
            let value = key.peer.0.into();
            let limit = u64::from(layout.max_peers) - 1;
            return Err(self.bad("ring's other peer", at::PEER, value, limit));
        }
        let line = f.u64(at::LINE);
        let instance = f.u32(at::INSTANCE);
        // Closed entries keep the fields of what they were: slots say which.
        let closed_consumer = role == Role::Closed && f.u32(at::SLOTS) == 0;
        if role == Role::Consumer || closed_consumer {
            self.inside(
                "cursor line",
                at::LINE,
                line,
                CURSOR_BYTES,
                ring_storage(header),
            )?;
            let entry = ConsumerEntry {
                key,
                instance,
                line,
            };
            return Ok(if role == Role::Consumer {
                Entry::Consumer(entry)
            } else {
                Entry::ClosedConsumer(entry)
            });
        }
        let entry = self.check_producer(key, header, layout)?;
        Ok(if role == Role::Producer {
            Entry::Producer(entry)
        } else {
            Entry::Closed(entry)
        })
    }

    fn check_producer(
        &self,
        key: RingKey,
        header: &SectionHeader,
        layout: &Layout,
    ) -> Result<ProducerEntry, BadClaim> {
        let f = Fields(&self.bytes);
        let value = f.u8(at::KIND);
        let kind = RingKind::from_u8(value).ok_or_else(|| {
            self.bad("ring kind", at::KIND, value.into(), RingKind::Return as u64)
        })?;
        let value = f.u8(at::LAYOUT);
        let shape = RingLayout::from_u8(value).ok_or_else(|| {
            let limit = RingLayout::InPlace as u64;
            self.bad("ring layout", at::LAYOUT, value.into(), limit)
        })?;
        let in_common = shape == RingLayout::InPlace;
        let flags = if in_common { IN_COMMON } else { 0 };
        let found = f.u8(at::FLAGS);
        if found != flags {
            return Err(self.bad("ring flags", at::FLAGS, found.into(), flags.into()));
        }
        let (slot_size, slots) = (f.u32(at::SLOT_SIZE), f.u32(at::SLOTS));
        let bytes = shape.storage_bytes(slot_size, slots).map_err(|e| match e {
            PlaceError::Slots { .. } => {
                let limit = crate::ring::MAX_SLOTS.into();
                self.bad("number of slots", at::SLOTS, slots.into(), limit)
            }
            _ => {
                let limit = crate::ring::MAX_SLOT_SIZE.into();
                self.bad("slot size", at::SLOT_SIZE, slot_size.into(), limit)
            }
        })?;
        let line = f.u64(at::LINE);
        self.inside(
            "producer's line",
            at::LINE,
            line,
            PRODUCED_BYTES,
            ring_storage(header),
        )?;
        let storage = f.u64(at::STORAGE);
        let place = if in_common {
            common_slice(layout, header.peer)
        } else {
            ring_storage(header)
        };
        self.inside("ring's slots", at::STORAGE, storage, bytes, place)?;
        let overlap = !in_common && storage < line + PRODUCED_BYTES && line < storage + bytes;
        if overlap {
            return Err(self.bad("slots over the producer's line", at::STORAGE, storage, line));
        }
        Ok(ProducerEntry {
            key,
            instance: f.u32(at::INSTANCE),
            kind,
            layout: shape,
            slot_size,
            slots,
            line,
            in_common,
            storage,
        })
    }

    /// `len` bytes at `start`, aligned, inside `place`.
    fn inside(
        &self,
        what: &'static str,
        field: u64,
        start: u64,
        len: u64,
        place: Range<u64>,
    ) -> Result<(), BadClaim> {
        let fits = !stands(Guard::Directory)
            || (start.is_multiple_of(RING_ALIGN)
                && start >= place.start
                && start.checked_add(len).is_some_and(|end| end <= place.end));
        if fits {
            return Ok(());
        }
        Err(self.bad(what, field, start, place.end.saturating_sub(len)))
    }

    fn bad(&self, what: &'static str, field: u64, value: u64, limit: u64) -> BadClaim {
        BadClaim {
            what,
            at: self.at + field,
            value,
            limit,
        }
    }
}

/// Writes an entry into one's own section.
pub(crate) fn write<M: SharedMem>(section: &M, header: &SectionHeader, index: u32, entry: &Entry) {
    let mut bytes = [0; RECORD];
    let (role, key, instance) = match entry {
        Entry::Free => (Role::Free, None, 0),
        Entry::Producer(e) | Entry::Closed(e) => {
            put(&mut bytes, at::KIND, &[e.kind as u8]);
            put(&mut bytes, at::LAYOUT, &[e.layout as u8]);
            put(
                &mut bytes,
                at::FLAGS,
                &[if e.in_common { IN_COMMON } else { 0 }],
            );
            put(&mut bytes, at::SLOT_SIZE, &e.slot_size.to_le_bytes());
            put(&mut bytes, at::SLOTS, &e.slots.to_le_bytes());
            put(&mut bytes, at::LINE, &e.line.to_le_bytes());
            put(&mut bytes, at::STORAGE, &e.storage.to_le_bytes());
            let role = if matches!(entry, Entry::Producer(_)) {
                Role::Producer
            } else {
                Role::Closed
            };
            (role, Some(e.key), e.instance)
        }
        Entry::Consumer(e) | Entry::ClosedConsumer(e) => {
            put(&mut bytes, at::LINE, &e.line.to_le_bytes());
            let role = if matches!(entry, Entry::Consumer(_)) {
                Role::Consumer
            } else {
                Role::Closed
            };
            (role, Some(e.key), e.instance)
        }
    };
    put(&mut bytes, at::ROLE, &[role as u8]);
    put(&mut bytes, at::INSTANCE, &instance.to_le_bytes());
    if let Some(key) = key {
        put(&mut bytes, at::ID, &key.id.to_le_bytes());
        put(&mut bytes, at::PEER, &key.peer.0.to_le_bytes());
        put(&mut bytes, at::EPOCH, &key.epoch.to_le_bytes());
        put(&mut bytes, at::PEER_EPOCH, &key.peer_epoch.to_le_bytes());
    }
    sequenced::rewrite(section, entry_at(header, index), &bytes);
}

/// Offset of entry `index` in the section.
pub(crate) fn entry_at(header: &SectionHeader, index: u32) -> u64 {
    header.directory + DIRECTORY_ENTRY_BYTES * u64::from(index)
}

/// Ring storage of a section.
pub(crate) fn ring_storage(header: &SectionHeader) -> Range<u64> {
    header.rings..header.rings + header.ring_bytes
}

/// The part of the common section in which `peer` places in-place rings, from
/// the common section's start: an equal share each, so that nobody has to agree
/// with anybody about who allocates there.
pub(crate) fn common_slice(layout: &Layout, peer: PeerId) -> Range<u64> {
    let common = layout.common.end - layout.common.start;
    let share = common / u64::from(layout.max_peers) / RING_ALIGN * RING_ALIGN;
    let start = share * u64::from(peer.0);
    start..start + share
}
