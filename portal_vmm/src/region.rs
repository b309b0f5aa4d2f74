//! A region as partitions see it: one host mapping, cut into the parts that a
//! peer may write and those that it may only read.
//!
//! In a sectioned region a guest writes its own section and the common one; the
//! rest is read-only in the second stage, so that a store there never reaches
//! memory. In a flat region everything is writable and checks alone keep peers
//! apart. The layout is the host's own ([`hv_shmem::layout`]); nothing is read
//! from the region's memory here.

use crate::VmmError;
use crate::memory::HostRange;
use hv_shmem::backing::Backing;
use hv_shmem::backing::Mapping;
use hv_shmem::backing::View;
use hv_shmem::layout::Layout;
use hv_shmem::layout::PeerId;
use portal_device::Access;
use std::sync::Arc;

/// A region in this process, to be mapped into any number of partitions.
#[derive(Debug)]
pub struct SharedRegion {
    name: String,
    mapping: Mapping,
    memory: HostRange,
    layout: Layout,
    enforced: bool,
    /// Whether this process has memory to write for one peer only.
    one_writer: bool,
    /// Kept for its locks and descriptors.
    backing: Option<Arc<Backing>>,
}

/// A part of a region with one kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionPart {
    /// Offset in the region, bytes.
    pub offset: u64,
    /// Length, bytes.
    pub len: u64,
    /// What the guest may do there.
    pub access: Access,
}

/// What of a region a partition may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writable {
    /// Its own section and the common one.
    Own,
    /// Everything.
    All,
    /// Nothing.
    Nothing,
}

impl Writable {
    /// What a handle asks for, as far as the region is made for it: in a flat
    /// region checks alone keep peers apart, so only reading can be enforced.
    pub fn of(mapping: portal_resources::Mapping, region: &SharedRegion) -> Self {
        match mapping {
            portal_resources::Mapping::ReadOnly => Self::Nothing,
            portal_resources::Mapping::Sectioned if region.enforced => Self::Own,
            portal_resources::Mapping::Flat if region.one_writer => Self::Own,
            portal_resources::Mapping::Sectioned | portal_resources::Mapping::Flat => Self::All,
        }
    }
}

/// What a guest's store to a part that is read-only to it comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeniedWrite {
    /// The partition stops with [`crate::FaultKind::ReadOnly`].
    #[default]
    Stop,
    /// The store has no effect and is counted.
    Drop,
}

impl SharedRegion {
    /// Maps a backing as its owner. Sections are enforced when the backing has
    /// one fd a section.
    ///
    /// # Errors
    /// [`VmmError::Region`] with what the backing says.
    pub fn of_backing(
        name: impl Into<String>,
        backing: impl Into<Arc<Backing>>,
    ) -> Result<Arc<Self>, VmmError> {
        let (name, backing) = (name.into(), backing.into());
        let mapping = backing.map(View::OWNER).map_err(|error| VmmError::Region {
            region: name.clone(),
            reason: error.to_string(),
        })?;
        let (layout, enforced) = (backing.layout().clone(), backing.is_sectioned());
        Ok(Arc::new(Self {
            name,
            memory: HostRange::of_mapping(&mapping),
            mapping,
            layout,
            enforced,
            one_writer: false,
            backing: Some(backing),
        }))
    }

    /// Maps a served region as one peer of it. Sections are enforced in the second
    /// stage, whatever the backing: of a flat one this process has everything, and
    /// gives a partition its own section.
    ///
    /// # Errors
    /// [`VmmError::Region`] with what the backing says.
    pub(crate) fn of_peer(
        name: String,
        backing: Arc<Backing>,
        view: View,
    ) -> Result<Arc<Self>, VmmError> {
        let one_writer = backing.is_sectioned();
        let view = if one_writer || view == View::OBSERVER {
            view
        } else {
            View::OWNER
        };
        let mapping = backing.map(view).map_err(|error| VmmError::Region {
            region: name.clone(),
            reason: error.to_string(),
        })?;
        Ok(Arc::new(Self {
            name,
            memory: HostRange::of_mapping(&mapping),
            mapping,
            layout: backing.layout().clone(),
            enforced: true,
            one_writer,
            backing: Some(backing),
        }))
    }

    /// Takes a mapping that is writable wherever a partition is to write.
    /// `enforced`: others' sections are to be read-only in the second stage.
    pub fn new(
        name: impl Into<String>,
        mapping: Mapping,
        layout: Layout,
        enforced: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            memory: HostRange::of_mapping(&mapping),
            mapping,
            layout,
            enforced,
            one_writer: false,
            backing: None,
        })
    }

    /// The storage, when the region was made from it.
    pub fn backing(&self) -> Option<&Arc<Backing>> {
        self.backing.as_ref()
    }

    /// Name, for messages and for handles that refer to it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Length in bytes, a power of two.
    pub fn size(&self) -> u64 {
        self.layout.size
    }

    /// Where its parts lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether others' sections are read-only in the second stage, unless a
    /// partition is configured otherwise.
    pub fn enforced(&self) -> bool {
        self.enforced
    }

    /// The owner's mapping, for host-side peers in this process.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    pub(crate) fn memory(&self) -> &HostRange {
        &self.memory
    }

    /// Whether `peer` may write all of these bytes.
    pub(crate) fn may_write(
        &self,
        peer: PeerId,
        writable: Writable,
        bytes: &std::ops::Range<u64>,
    ) -> bool {
        self.parts(peer, writable).iter().any(|part| {
            part.access == Access::ReadWrite
                && part.offset <= bytes.start
                && bytes.end <= part.offset + part.len
        })
    }

    /// What `peer` may do where: gapless, in order, neighbours with different
    /// access.
    pub fn parts(&self, peer: PeerId, writable: Writable) -> Vec<RegionPart> {
        let size = self.layout.size;
        let whole = |access| {
            vec![RegionPart {
                offset: 0,
                len: size,
                access,
            }]
        };
        match writable {
            Writable::All if !self.enforced => return whole(Access::ReadWrite),
            Writable::Nothing => return whole(Access::ReadOnly),
            Writable::All | Writable::Own => {}
        }
        let mut parts: Vec<RegionPart> = Vec::new();
        let own = self.layout.section(peer);
        let common = &self.layout.common;
        let own_edges = [
            (common.start, Access::ReadOnly),
            (common.end, Access::ReadWrite),
            (own.start, Access::ReadOnly),
            (own.end, Access::ReadWrite),
            (size, Access::ReadOnly),
        ];
        // What alignment leaves over behind the last section is nobody's, and
        // has no writable memory behind it.
        let sections = u64::from(self.layout.max_peers) * self.layout.section_size;
        let all_edges = [
            (self.layout.sections_at() + sections, Access::ReadWrite),
            (size, Access::ReadOnly),
        ];
        let edges = match writable {
            Writable::All => &all_edges[..],
            Writable::Own | Writable::Nothing => &own_edges[..],
        };
        let mut offset = 0;
        for &(end, access) in edges {
            let Some(len) = end.checked_sub(offset).filter(|len| *len > 0) else {
                continue;
            };
            match parts.last_mut() {
                Some(last) if last.access == access => last.len += len,
                _ => parts.push(RegionPart {
                    offset,
                    len,
                    access,
                }),
            }
            offset = end;
        }
        parts
    }
}

/// A region at a fixed guest physical address of one partition.
#[derive(Clone, Debug)]
pub struct RegionAttachment {
    /// The region.
    pub region: Arc<SharedRegion>,
    /// Where it begins in the guest; a multiple of 4096.
    pub gpa: u64,
    /// The peer id that the partition has in it.
    pub peer: PeerId,
    /// Epoch under which the host admitted it.
    pub epoch: u64,
    /// What it may write.
    pub writable: Writable,
    /// What a store to someone else's part comes to.
    pub denied_write: DeniedWrite,
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_shmem::backing::BackingConfig;
    use hv_shmem::layout::RegionSpec;
    use hv_shmem::name::Name;

    fn region(common: u64, enforced: bool) -> Arc<SharedRegion> {
        let name = Name::new("r").unwrap();
        let spec = RegionSpec::new(name, 1 << 20, 4)
            .common(common)
            .sectioned(enforced);
        let backing = Backing::create(&spec, &BackingConfig::default()).unwrap();
        SharedRegion::of_backing("r", backing).unwrap()
    }

    #[test]
    fn parts_are_writable_exactly_where_the_peer_writes() {
        for common in [0, 64 << 10] {
            let region = region(common, true);
            let layout = region.layout().clone();
            for peer in layout.peers() {
                let parts = region.parts(peer, Writable::Own);
                assert!(parts.len() <= 5);
                let mut next = 0;
                for part in &parts {
                    assert_eq!(part.offset, next);
                    next += part.len;
                    for at in (part.offset..next).step_by(4096) {
                        let own = layout.section(peer).contains(&at);
                        let writable = own || layout.common.contains(&at);
                        assert_eq!(part.access == Access::ReadWrite, writable, "{at:#x}");
                    }
                }
                assert_eq!(next, layout.size);
            }
        }
    }

    #[test]
    fn everything_of_a_sectioned_region_ends_with_its_last_section() {
        let region = region(0, true);
        let end = region.layout().section(PeerId(3)).end;
        let parts = region.parts(PeerId(0), Writable::All);
        assert_eq!((parts[0].len, parts[0].access), (end, Access::ReadWrite));
        let behind: u64 = parts.iter().skip(1).map(|part| part.len).sum();
        assert_eq!(behind, region.size() - end);
    }

    #[test]
    fn a_stranger_writes_nothing_but_the_common_section() {
        let parts = region(0, true).parts(PeerId(77), Writable::Own);
        assert_eq!(parts.len(), 1);
        assert_eq!(parts[0].access, Access::ReadOnly);
    }

    #[test]
    fn a_flat_region_is_one_part_whatever_a_handle_asks() {
        let region = region(0, false);
        for (mapping, access) in [
            (portal_resources::Mapping::Sectioned, Access::ReadWrite),
            (portal_resources::Mapping::Flat, Access::ReadWrite),
            (portal_resources::Mapping::ReadOnly, Access::ReadOnly),
        ] {
            let parts = region.parts(PeerId(1), Writable::of(mapping, &region));
            assert_eq!(parts.len(), 1);
            assert_eq!((parts[0].len, parts[0].access), (1 << 20, access));
        }
    }
}
