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
use hv_shmem::backing;
use hv_shmem::backing::Backing;
use hv_shmem::backing::View;
use hv_shmem::layout::Layout;
use hv_shmem::layout::PeerId;
use portal_device::Access;
use portal_ivshmem::Window;
use portal_ivshmem::Writable;
use portal_resources::DeniedWrites;
use portal_resources::Mapping;
use std::sync::Arc;

/// A region in this process, to be mapped into any number of partitions.
#[derive(Debug)]
pub struct SharedRegion {
    name: String,
    mapping: backing::Mapping,
    memory: HostRange,
    layout: Layout,
    enforced: bool,
    /// Whether this process has memory to write for one peer only.
    one_writer: bool,
    /// Kept for its locks and descriptors.
    backing: Option<Arc<Backing>>,
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
        mapping: backing::Mapping,
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
    pub fn mapping(&self) -> &backing::Mapping {
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
    pub fn parts(&self, peer: PeerId, writable: Writable) -> Vec<Window> {
        match self.plan(writable) {
            Some(layout) => Window::of(layout, peer, writable),
            None => Window::flat(self.size(), writable.access()),
        }
    }

    /// The layout, as far as it binds a peer that may write this; `None`: all is one.
    pub(crate) fn plan(&self, writable: Writable) -> Option<&Layout> {
        let bound = self.enforced || writable != Writable::All;
        bound.then_some(&self.layout)
    }

    /// What a handle asks for, as far as the region is made for it: in a flat
    /// region checks alone keep peers apart, so only reading can be enforced.
    pub fn writable(&self, mapping: Mapping) -> Writable {
        match mapping {
            Mapping::ReadOnly => Writable::Nothing,
            Mapping::Sectioned if self.enforced => Writable::Own,
            Mapping::Flat if self.one_writer => Writable::Own,
            Mapping::Sectioned | Mapping::Flat => Writable::All,
        }
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
    pub denied_write: DeniedWrites,
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
    fn a_flat_region_is_one_part_whatever_a_handle_asks() {
        let region = region(0, false);
        for (mapping, access) in [
            (Mapping::Sectioned, Access::ReadWrite),
            (Mapping::Flat, Access::ReadWrite),
            (Mapping::ReadOnly, Access::ReadOnly),
        ] {
            let parts = region.parts(PeerId(1), region.writable(mapping));
            assert_eq!(parts.len(), 1);
            assert_eq!((parts[0].len, parts[0].access), (1 << 20, access));
        }
    }
}
