//! Partitions on one region with the host as peer 0: what the goals about
//! partitions measure with.
//!
//! Agents halt between commands, so that a calibration measures a quiet machine.

use crate::BenchError;
use hv_shmem::layout::PeerId;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use portal_agent_abi::Command;
use portal_guest::warp;
use portal_host::Answer;
use portal_host::Controller;
use portal_host::Seat;
use portal_resources::IvshmemV1Handle;
use portal_resources::PciDevice;
use portal_resources::RegionHandle;
use portal_resources::Resource;
use portal_vmm::Image;
use portal_vmm::Join;
use portal_vmm::Kvm;
use portal_vmm::Member;
use portal_vmm::Partition;
use portal_vmm::PartitionBuilder;
use portal_vmm::PartitionStats;
use portal_vmm::RamBacking;
use portal_vmm::RegionHost;
use portal_vmm::resolvers;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

/// Name of the region.
const REGION: &str = "bench";
/// RAM of a partition: the image, its stack and tables, with room to spare.
pub(super) const RAM: u64 = 32 << 20;
/// Longest that an agent may take to come up, and longest that a job may take.
pub(super) const LIMIT: Duration = Duration::from_secs(20);
/// Longest life of a partition here; a goal takes a fraction of it.
const DEADLINE: Duration = Duration::from_secs(120);
/// Vectors of an agent: 0 says "look at your rings", 1 is for doorbell commands.
const VECTORS: u16 = 2;

/// What a rig is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Number of partitions.
    pub(super) partitions: u16,
    /// Size of the region in bytes.
    pub(super) region: u64,
    /// Size of its common section in bytes.
    pub(super) common: u64,
}

/// Partitions 1 to n, running, each with an agent that has answered.
pub(super) struct Rig {
    controller: Controller,
    partitions: Vec<Arc<Mutex<Partition>>>,
    // Last: partitions leave the region before the host does.
    _member: Member,
}

impl std::fmt::Debug for Rig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rig")
            .field("controller", &self.controller)
            .finish_non_exhaustive()
    }
}

/// Opens KVM, or says why not.
pub(super) fn kvm() -> Result<Kvm, BenchError> {
    Kvm::open().map_err(|e| BenchError::Unavailable(format!("needs KVM: {e}")))
}

/// Wraps an error of VMM or controller.
pub(super) fn failed(error: impl std::fmt::Display) -> BenchError {
    BenchError::broken("partitions", error)
}

/// The region, its host and the host's place in it.
pub(super) fn region(shape: &Shape) -> Result<(RegionHost, Member), BenchError> {
    let regions = RegionHost::new();
    let mut handle = RegionHandle::new(REGION, shape.region);
    handle.max_peers = shape.partitions + 1;
    handle.common = shape.common;
    regions.create(&handle).map_err(failed)?;
    let host = Join::host("controller", Some(0), 1);
    let member = regions.join(REGION, &host).map_err(failed)?;
    Ok((regions, member))
}

/// A partition with the built-in agents, as peer `number` of the region; its one
/// vCPU on `core` when one is given.
pub(super) fn builder(
    regions: &RegionHost,
    number: u16,
    core: Option<usize>,
) -> Result<PartitionBuilder, BenchError> {
    let mut handle = IvshmemV1Handle::new(REGION);
    handle.vectors = VECTORS;
    handle.peer = Some(number);
    let resource = Resource::<PciDevice>::new(&handle).map_err(failed)?;
    let resolvers = resolvers::standard().map_err(failed)?;
    PartitionBuilder::new(format!("bench{number}"), Image::Flat(warp::image().into()))
        .ram(RAM)
        // As a file, so that guest memory is told apart from the VMM's own.
        .ram_backing(RamBacking::Memfd)
        .deadline(DEADLINE)
        .pin(Vec::from_iter(core))
        .resource(&resource, &resolvers, regions)
        .map_err(failed)
}

impl Rig {
    /// Starts the partitions, on the given cores in turn (anywhere when there
    /// are none), and waits until every agent is up.
    pub(super) fn start(kvm: &Kvm, shape: &Shape, cores: &[usize]) -> Result<Self, BenchError> {
        Self::start_with(kvm, shape, cores, |it| it)
    }

    /// The same, with a last word on how each partition is built.
    pub(super) fn start_with(
        kvm: &Kvm,
        shape: &Shape,
        cores: &[usize],
        adjust: impl Fn(PartitionBuilder) -> PartitionBuilder,
    ) -> Result<Self, BenchError> {
        let (regions, member) = region(shape)?;
        let mem = member.region().mapping().mem();
        let attached = PortalRegion::attach(mem, AttachOptions::default()).map_err(failed)?;
        let controller =
            Controller::join(&attached, member.epoch(), member.bell(0)).map_err(failed)?;
        member.ready().map_err(failed)?;
        let mut rig = Self {
            controller,
            partitions: Vec::new(),
            _member: member,
        };
        for number in 1..=shape.partitions {
            let core = cores.iter().cycle().nth(usize::from(number) - 1);
            let built = adjust(builder(&regions, number, core.copied())?).build(kvm);
            rig.add(built.map_err(failed)?, PeerId(number))?;
        }
        for number in 1..=shape.partitions {
            rig.controller
                .await_agent(PeerId(number), LIMIT)
                .map_err(failed)?;
        }
        Ok(rig)
    }

    fn add(&mut self, mut partition: Partition, peer: PeerId) -> Result<(), BenchError> {
        let bell = self._member.doorbell(peer, Controller::VECTOR);
        partition.start().map_err(failed)?;
        let partition = Arc::new(Mutex::new(partition));
        let watched = partition.clone();
        let seat = Seat {
            bell,
            alive: Box::new(move || !locked(&watched).ended()),
        };
        self.controller.expect(peer, seat).map_err(failed)?;
        self.partitions.push(partition);
        Ok(())
    }

    /// Has two agents do a job together; the first one's answer comes first.
    pub(super) fn pair(
        &mut self,
        first: (u16, Command),
        second: (u16, Command),
    ) -> Result<(Answer, Answer), BenchError> {
        let of = |(peer, command)| (PeerId(peer), command);
        self.controller
            .pair(of(first), of(second), LIMIT)
            .map_err(failed)
    }

    /// What each partition has cost so far, in the order of their peer numbers.
    pub(super) fn stats(&self) -> Vec<PartitionStats> {
        let partitions = self.partitions.iter();
        partitions.map(|it| locked(it).stats()).collect()
    }
}

/// A panic elsewhere leaves a partition as usable as it was.
fn locked(partition: &Mutex<Partition>) -> MutexGuard<'_, Partition> {
    partition.lock().unwrap_or_else(PoisonError::into_inner)
}
