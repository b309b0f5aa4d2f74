//! From handles to devices: the resolvers that this VMM comes with.
//!
//! A device joins by one `register` line in a [`PciResolvers`]; nothing else in
//! this crate changes. Programs that bring devices of their own start from
//! [`standard`] (or from an empty registry) and register theirs.

use crate::RegionHost;
use crate::ResolvedDevice;
use crate::Writable;
use crate::binding::DeviceRegion;
use crate::region_host::Join;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use portal_ivshmem::IvshmemV1;
use portal_ivshmem::IvshmemV1Config;
use portal_ivshmem::Window;
use portal_resources::DeniedWrites;
use portal_resources::IvshmemV1Handle;
use portal_resources::Mapping;
use portal_resources::PciDevice;
use portal_resources::Registry;
use portal_resources::ResolveError;

/// What a resolver of a PCI device is given.
#[derive(Clone, Debug)]
pub struct DeviceContext {
    /// Name of the partition that the device is for.
    pub partition: String,
    /// The regions and their members.
    pub regions: RegionHost,
}

/// Resolvers of PCI devices.
pub type PciResolvers = Registry<PciDevice, DeviceContext, ResolvedDevice>;

/// The resolvers of every device that Portal has.
///
/// # Errors
/// [`ResolveError::Twice`], which would be a mistake in this function.
pub fn standard() -> Result<PciResolvers, ResolveError> {
    let mut resolvers = PciResolvers::new();
    resolvers.register(ivshmem_v1)?;
    Ok(resolvers)
}

/// A region behind BAR2: joins it and makes the function.
fn ivshmem_v1(
    handle: IvshmemV1Handle,
    context: &mut DeviceContext,
) -> Result<ResolvedDevice, ResolveError> {
    handle.check()?;
    let rights = match handle.mapping {
        Mapping::Sectioned | Mapping::Flat => Rights::ALL,
        Mapping::ReadOnly => Rights::READ.and(Rights::RING),
    };
    let join = Join {
        name: context.partition.clone(),
        kind: PeerKind::Partition,
        rights,
        peer: handle.peer,
        vectors: handle.vectors,
    };
    let failed = |error: crate::VmmError| ResolveError::Failed(Box::new(error));
    let member = context
        .regions
        .join(&handle.region, &join)
        .map_err(failed)?;
    let region = member.region().clone();
    let writable = Writable::of(handle.mapping, &region);
    let parts = region.parts(member.peer(), writable);
    let windows = parts.iter().map(|part| Window {
        offset: part.offset,
        len: part.len,
        access: part.access,
    });
    let device = IvshmemV1::new(IvshmemV1Config {
        peer: member.peer().0,
        region_len: region.size(),
        windows: windows.collect(),
        denied_write: match handle.denied_writes {
            DeniedWrites::Drop => portal_ivshmem::DeniedWrite::Drop,
            DeniedWrites::Stop => portal_ivshmem::DeniedWrite::Stop,
        },
        vectors: handle.vectors,
        intx: handle.intx_with(true),
    });
    let device = device.map_err(|error| ResolveError::Failed(Box::new(error)))?;
    Ok(ResolvedDevice {
        name: format!("ivshmem:{}", handle.region),
        device: Box::new(device),
        slot: handle.slot,
        region: Some(DeviceRegion {
            region,
            peer: member.peer(),
            writable,
        }),
        fabric: Some(member.fabric()),
        member: Some(member),
    })
}
