//! From handles to devices: the resolvers that this VMM comes with.
//!
//! A device joins by one `register` line in a [`PciResolvers`]; nothing else in
//! this crate changes. Programs that bring devices of their own start from
//! [`standard`] (or from an empty registry) and register theirs.

use crate::Member;
use crate::RegionHost;
use crate::ResolvedDevice;
use crate::Storage;
use crate::Writable;
use crate::binding::DeviceRegion;
use crate::region_host::Join;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use portal_device::Access;
use portal_device::Device;
use portal_ivshmem::IvshmemV1;
use portal_ivshmem::IvshmemV1Config;
use portal_ivshmem::IvshmemV2;
use portal_ivshmem::IvshmemV2Config;
use portal_ivshmem::Window;
use portal_pmem::VirtioPmem;
use portal_pmem::VirtioPmemConfig;
use portal_resources::DeniedWrites;
use portal_resources::GuestAccess;
use portal_resources::IvshmemV1Handle;
use portal_resources::IvshmemV2Handle;
use portal_resources::Mapping;
use portal_resources::PciDevice;
use portal_resources::PmemSource;
use portal_resources::Registry;
use portal_resources::ResolveError;
use portal_resources::VirtioPmemHandle;
use portal_virtio_pci::About;
use portal_virtio_pci::VirtioPci;

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
    resolvers.register(ivshmem_v2)?;
    resolvers.register(virtio_pmem)?;
    Ok(resolvers)
}

fn failed<E: std::error::Error + Send + Sync + 'static>(error: E) -> ResolveError {
    ResolveError::Failed(Box::new(error))
}

/// PCI class of virtio-pmem: a memory controller of no kind that PCI names.
const PMEM_CLASS: u32 = 0x05_80_00;
/// Entries of its queue: more flushes than a guest has vCPUs to wait for them.
const PMEM_QUEUE: u16 = 256;

/// What a partition that only reads asks for.
const READER: Rights = Rights::READ.and(Rights::RING);

impl DeviceContext {
    fn join(
        &self,
        region: &str,
        peer: Option<u16>,
        vectors: u16,
        rights: Rights,
    ) -> Result<Member, ResolveError> {
        let join = Join {
            name: self.partition.clone(),
            kind: PeerKind::Partition,
            rights,
            peer,
            vectors,
        };
        self.regions.join(region, &join).map_err(failed)
    }
}

const fn denied(policy: DeniedWrites) -> portal_ivshmem::DeniedWrite {
    match policy {
        DeniedWrites::Drop => portal_ivshmem::DeniedWrite::Drop,
        DeniedWrites::Stop => portal_ivshmem::DeniedWrite::Stop,
    }
}

/// A region behind BAR2: joins it and makes the function.
fn ivshmem_v1(
    handle: IvshmemV1Handle,
    context: &mut DeviceContext,
) -> Result<ResolvedDevice, ResolveError> {
    handle.check()?;
    let rights = match handle.mapping {
        Mapping::Sectioned | Mapping::Flat => Rights::ALL,
        Mapping::ReadOnly => READER,
    };
    let member = context.join(&handle.region, handle.peer, handle.vectors, rights)?;
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
        denied_write: denied(handle.denied_writes),
        vectors: handle.vectors,
        intx: handle.intx_with(true),
    });
    let device = Box::new(device.map_err(failed)?);
    let name = format!("ivshmem:{}", handle.region);
    Ok(in_region(name, device, handle.slot, writable, member))
}

/// The same with sections, which the second stage enforces whatever the region
/// is stored in.
fn ivshmem_v2(
    handle: IvshmemV2Handle,
    context: &mut DeviceContext,
) -> Result<ResolvedDevice, ResolveError> {
    handle.check()?;
    let (access, writable, rights) = match handle.access {
        GuestAccess::ReadWrite => (Access::ReadWrite, Writable::Own, Rights::ALL),
        GuestAccess::ReadOnly => (Access::ReadOnly, Writable::Nothing, READER),
    };
    let member = context.join(&handle.region, handle.peer, handle.vectors, rights)?;
    let device = IvshmemV2::new(IvshmemV2Config {
        peer: member.peer(),
        layout: member.region().layout().clone(),
        vectors: handle.vectors,
        protocol: handle.protocol,
        base: None,
        access,
        one_shot: handle.one_shot,
        denied_write: denied(handle.denied_writes),
    });
    let device = Box::new(device.map_err(failed)?);
    let name = format!("ivshmem2:{}", handle.region);
    Ok(in_region(name, device, handle.slot, writable, member))
}

/// A file, or a region whole, as persistent memory.
fn virtio_pmem(
    handle: VirtioPmemHandle,
    context: &mut DeviceContext,
) -> Result<ResolvedDevice, ResolveError> {
    let source = handle.check()?;
    let (access, rights) = match handle.access {
        GuestAccess::ReadWrite => (Access::ReadWrite, Rights::ALL),
        GuestAccess::ReadOnly => (Access::ReadOnly, READER),
    };
    let (storage, member) = match source {
        PmemSource::File(path) => (Storage::open(&path, access).map_err(failed)?, None),
        PmemSource::Region(region) => {
            let member = context.join(region.as_str(), handle.peer, 0, rights)?;
            let storage = Storage::of_region(member.region(), access).map_err(failed)?;
            (storage, Some(member))
        }
    };
    let size = storage.size();
    let pmem = VirtioPmem::new(VirtioPmemConfig { size, access }).map_err(failed)?;
    let about = About {
        id: portal_pmem::DEVICE_ID,
        class: PMEM_CLASS,
        features: pmem.features(),
        queues: vec![PMEM_QUEUE],
        config_len: portal_pmem::CONFIG_LEN,
        memory: size,
    };
    Ok(ResolvedDevice {
        name: format!("pmem:{}", storage.name()),
        device: Box::new(VirtioPci::new(pmem, about).map_err(failed)?),
        slot: handle.slot,
        region: None,
        storage: Some(storage),
        fabric: None,
        member,
    })
}

/// A device that is a member of a region.
fn in_region(
    name: String,
    device: Box<dyn Device>,
    slot: Option<u8>,
    writable: Writable,
    member: Member,
) -> ResolvedDevice {
    ResolvedDevice {
        name,
        device,
        slot,
        region: Some(DeviceRegion {
            region: member.region().clone(),
            peer: member.peer(),
            writable,
        }),
        storage: None,
        fabric: Some(member.fabric()),
        member: Some(member),
    }
}
