//! The regions that this partition was given: at fixed addresses (boot info) or
//! behind the BAR of an ivshmem function.
//!
//! Trust: where a region lies is the VMM's word; what is in it is checked by
//! `hv_shmem`. Left out: joining (the agent decides how to divide its section).
#![expect(unsafe_code, reason = "a region's address becomes shared memory")]

use crate::Machine;
use crate::ivshmem::Ivshmem;
use core::ptr;
use hv_shmem::layout::MIN_REGION;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::RawMem;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::region::RegionError;
use portal_boot_abi::WINDOW64_END;
use portal_boot_abi::WINDOW64_GPA;

/// Why there is no region to work with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The VMM gave fewer regions.
    #[error("no region {index}; the partition has {count} at fixed addresses")]
    NoRegion {
        /// Number asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// An address outside the window that regions lie in.
    #[error("a region of {size:#x} bytes at {gpa:#x}, outside the region window")]
    Outside {
        /// Guest physical address.
        gpa: u64,
        /// Length in bytes.
        size: u64,
    },
    /// What lies there is no region that this build can use.
    #[error(transparent)]
    Region(#[from] RegionError),
}

/// A region, and who this partition is in it.
#[derive(Debug, Clone)]
pub struct Attached {
    /// The region.
    pub region: PortalRegion<RawMem>,
    /// This partition's peer id.
    pub me: PeerId,
    /// The epoch that the host admitted it under.
    pub epoch: u32,
}

impl Attached {
    /// The `index`th region at a fixed address.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn fixed(machine: &Machine, index: usize) -> Result<Self, AttachError> {
        let count = machine.boot().region_count as usize;
        let info = machine.boot().regions.get(..count).unwrap_or_default();
        let info = info
            .get(index)
            .ok_or(AttachError::NoRegion { index, count })?;
        let region = PortalRegion::attach(memory(info.gpa, info.size)?, AttachOptions::default())?;
        Ok(Self {
            region,
            me: PeerId(info.peer),
            epoch: u32::try_from(info.epoch).unwrap_or(0),
        })
    }

    /// The region behind an ivshmem function. Its length is the host's word in
    /// the header; the epoch is the peer table's.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn behind(function: &Ivshmem<'_>) -> Result<Self, AttachError> {
        let gpa = function.region_gpa();
        let first = memory(gpa, MIN_REGION)?;
        let region = match PortalRegion::attach(first, AttachOptions::default()) {
            Err(RegionError::TooSmall { need, .. }) => {
                PortalRegion::attach(memory(gpa, need)?, AttachOptions::default())?
            }
            other => other?,
        };
        let me = function.peer();
        let epoch = region.peer(me).map_err(RegionError::from)?.epoch;
        Ok(Self { region, me, epoch })
    }

    /// The region behind `function`, so that peer id and doorbells are of one
    /// kind; without a function, the first one at a fixed address.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn first(machine: &Machine, function: Option<&Ivshmem<'_>>) -> Result<Self, AttachError> {
        match function {
            Some(function) => Self::behind(function),
            None => Self::fixed(machine, 0),
        }
    }
}

/// The bytes at a guest physical address inside the region window.
fn memory(gpa: u64, size: u64) -> Result<RawMem, AttachError> {
    let inside = gpa >= WINDOW64_GPA
        && gpa.is_multiple_of(4096)
        && gpa.checked_add(size).is_some_and(|end| end <= WINDOW64_END);
    if !inside {
        return Err(AttachError::Outside { gpa, size });
    }
    let base = ptr::with_exposed_provenance_mut::<u8>(gpa as usize);
    // SAFETY: the window holds nothing but regions, which the page tables map
    // for good; no reference is made to it. Where the VMM mapped less than it
    // said, an access stops the partition with a message.
    Ok(unsafe { RawMem::new(base, size) })
}
