//! From handles to devices: the resolvers that this VMM comes with.
//!
//! A device joins by one `register` line in a [`PciResolvers`]; nothing else in
//! this crate changes. Programs that bring devices of their own start from
//! [`standard`] (or from an empty registry) and register theirs.

use crate::Member;
use crate::RegionHost;
use crate::ResolvedDevice;
use crate::Storage;
use crate::binding::DeviceRegion;
use crate::region_host::Join;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use portal_ivshmem::DeniedWrite;
use portal_ivshmem::Model;
use portal_ivshmem::Place;
use portal_ivshmem::Writable;
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

const fn writable(access: GuestAccess) -> Writable {
    match access {
        GuestAccess::ReadWrite => Writable::Own,
        GuestAccess::ReadOnly => Writable::Nothing,
    }
}

/// A region behind BAR2: joins it and makes the function.
fn ivshmem_v1(
    handle: IvshmemV1Handle,
    context: &mut DeviceContext,
) -> Result<ResolvedDevice, ResolveError> {
    handle.check()?;
    let rights = match handle.mapping {
        Mapping::Sectioned | Mapping::Flat => Writable::All.rights(),
        Mapping::ReadOnly => Writable::Nothing.rights(),
    };
    let member = context.join(&handle.region, handle.peer, handle.vectors, rights)?;
    let place = Shown {
        model: Model::V1 {
            intx: handle.intx_with(true),
        },
        slot: handle.slot,
        writable: member.region().writable(handle.mapping),
        vectors: handle.vectors,
        denied_writes: handle.denied_writes,
    };
    place.device(member)
}

/// The same with sections, which the second stage enforces whatever the region
/// is stored in.
fn ivshmem_v2(
    handle: IvshmemV2Handle,
    context: &mut DeviceContext,
) -> Result<ResolvedDevice, ResolveError> {
    handle.check()?;
    let writable = writable(handle.access);
    let rights = writable.rights();
    let member = context.join(&handle.region, handle.peer, handle.vectors, rights)?;
    let place = Shown {
        model: Model::V2 {
            protocol: handle.protocol,
            one_shot: handle.one_shot,
        },
        slot: handle.slot,
        writable,
        vectors: handle.vectors,
        denied_writes: handle.denied_writes,
    };
    place.device(member)
}

/// How a member's place in its region is shown.
struct Shown {
    model: Model,
    slot: Option<u8>,
    writable: Writable,
    vectors: u16,
    denied_writes: DeniedWrites,
}

impl Shown {
    fn device(self, member: Member) -> Result<ResolvedDevice, ResolveError> {
        let (region, peer) = (member.region().clone(), member.peer());
        let place = Place {
            peer,
            len: region.size(),
            layout: region.plan(self.writable),
            writable: self.writable,
            vectors: self.vectors,
            denied_write: match self.denied_writes {
                DeniedWrites::Drop => DeniedWrite::Drop,
                DeniedWrites::Stop => DeniedWrite::Stop,
            },
        };
        let kind = match self.model {
            Model::V1 { .. } => "ivshmem",
            Model::V2 { .. } => "ivshmem2",
        };
        Ok(ResolvedDevice {
            name: format!("{kind}:{}", region.name()),
            device: place.function(self.model).map_err(failed)?,
            slot: self.slot,
            storage: None,
            fabric: Some(member.fabric()),
            region: Some(DeviceRegion {
                region,
                peer,
                writable: self.writable,
            }),
            member: Some(member),
        })
    }
}

/// A file, or a region whole, as persistent memory.
fn virtio_pmem(
    handle: VirtioPmemHandle,
    context: &mut DeviceContext,
) -> Result<ResolvedDevice, ResolveError> {
    let source = handle.check()?;
    let writable = writable(handle.access);
    let (access, rights) = (writable.access(), writable.rights());
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
