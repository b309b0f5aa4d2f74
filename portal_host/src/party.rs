//! A party: one region, the host as its peer 0, and partitions with the built-in
//! guest, all in this process.

use crate::Controller;
use crate::HostError;
use crate::Seat;
use hv_shmem::layout::PeerId;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use portal_agent_abi::Command;
use portal_agent_abi::HOST;
use portal_agent_abi::RING_VECTOR;
use portal_resources::IvshmemV1Handle;
use portal_resources::RegionHandle;
use portal_resources::Resource;
use portal_vmm::Console;
use portal_vmm::Image;
use portal_vmm::Join;
use portal_vmm::Kvm;
use portal_vmm::Member;
use portal_vmm::Outcome;
use portal_vmm::Partition;
use portal_vmm::PartitionBuilder;
use portal_vmm::RegionHost;
use portal_vmm::Sandbox;
use portal_vmm::SharedRegion;
use portal_vmm::resolvers;
use portal_vmm::resolvers::DeviceContext;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Vectors that the host and each guest hear: rings, and doorbell commands.
const VECTORS: u16 = 2;
/// Longest time from a partition's start to its agent's first ring.
const JOIN_LIMIT: Duration = Duration::from_secs(20);
/// Longest time for an agent to end its partition when asked to.
const EXIT_LIMIT: Duration = Duration::from_secs(5);

/// One partition of a party.
#[derive(Debug)]
pub struct GuestSpec {
    /// Its name, also as a peer.
    pub name: String,
    /// Its RAM in bytes.
    pub ram: u64,
    /// Host CPU to stay on; `None` lets it float.
    pub cpu: Option<usize>,
    /// Where its console goes.
    pub console: Console,
    /// Longest run from its start.
    pub deadline: Duration,
    /// Whether its doorbells may take the kernel's path.
    pub kernel_doorbells: bool,
    /// The fences around its threads.
    pub sandbox: Sandbox,
}

impl GuestSpec {
    /// 16 MiB, floating, silent, ten minutes, kernel doorbells, every fence.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ram: 16 << 20,
            cpu: None,
            console: Console::Discard,
            deadline: Duration::from_secs(600),
            kernel_doorbells: true,
            sandbox: Sandbox::default(),
        }
    }

    /// On one host CPU.
    #[must_use]
    pub fn on(self, cpu: usize) -> Self {
        Self {
            cpu: Some(cpu),
            ..self
        }
    }
}

/// A running guest.
#[derive(Debug)]
pub struct Guest {
    /// Its id in the region.
    pub peer: PeerId,
    /// Its partition.
    pub partition: Rc<Partition>,
}

/// Partitions on one region, and the host that drives their agents. Dropping it
/// stops the partitions, then leaves the region.
#[derive(Debug)]
pub struct Party {
    /// The guests, in the order of their specifications.
    pub guests: Vec<Guest>,
    /// The host as peer 0.
    pub controller: Controller,
    /// The host's membership of the region.
    pub member: Member,
    /// The region.
    pub region: Arc<SharedRegion>,
    regions: RegionHost,
}

impl Party {
    /// Makes the region, joins it as the host, starts a partition for each
    /// specification, and waits until every agent has joined.
    ///
    /// # Errors
    /// [`HostError::Vmm`] with what the host could not give, [`HostError::TooSlow`]
    /// or [`HostError::Ended`] when an agent did not come up.
    pub fn start(
        kvm: &Kvm,
        region: &RegionHandle,
        guests: Vec<GuestSpec>,
    ) -> Result<Self, HostError> {
        let regions = RegionHost::new();
        let shared = regions.create(region)?;
        let member = regions.join(&region.name, &Join::host("host", Some(HOST.0), VECTORS))?;
        let attached = PortalRegion::attach(shared.mapping().mem(), AttachOptions::default())?;
        let controller = Controller::join(&attached, member.epoch(), member.bell(RING_VECTOR))?;
        member.ready()?;
        let mut party = Self {
            guests: Vec::new(),
            controller,
            member,
            region: shared,
            regions,
        };
        for spec in guests {
            party.add(kvm, spec)?;
        }
        for index in 0..party.guests.len() {
            party.await_guest(index)?;
        }
        Ok(party)
    }

    /// Starts one more partition; returns its index. [`Party::await_guest`] waits
    /// until its agent has joined.
    ///
    /// # Errors
    /// As [`Party::start`].
    pub fn add(&mut self, kvm: &Kvm, spec: GuestSpec) -> Result<usize, HostError> {
        let handle = IvshmemV1Handle {
            vectors: VECTORS,
            ..IvshmemV1Handle::new(self.region.name())
        };
        let mut context = DeviceContext {
            partition: spec.name.clone(),
            regions: self.regions.clone(),
        };
        let resource = Resource::new(&handle).map_err(|e| HostError::Device(e.to_string()))?;
        let device = resolvers::standard()
            .and_then(|resolvers| resolvers.resolve(&resource, &mut context))
            .map_err(|e| HostError::Device(e.to_string()))?;
        let peer = match &device.region {
            Some(region) => region.peer,
            None => return Err(HostError::Device("it has no region".to_owned())),
        };
        let image = Image::Flat(portal_guest::warp::image().into());
        let mut partition = PartitionBuilder::new(spec.name, image)
            .ram(spec.ram)
            .console(spec.console)
            .deadline(spec.deadline)
            .kernel_doorbells(spec.kernel_doorbells)
            .sandbox(spec.sandbox)
            .pin(spec.cpu.into_iter().collect::<Vec<_>>())
            .device(device)
            .build(kvm)?;
        partition.start()?;
        let partition = Rc::new(partition);
        let watched = Rc::downgrade(&partition);
        let seat = Seat {
            bell: self.member.doorbell(peer, RING_VECTOR),
            alive: Box::new(move || watched.upgrade().is_some_and(|p| !p.ended())),
        };
        self.controller.expect(peer, seat)?;
        self.guests.push(Guest { peer, partition });
        Ok(self.guests.len() - 1)
    }

    /// Waits until a guest's agent has joined.
    ///
    /// # Errors
    /// [`HostError::TooSlow`], [`HostError::Ended`]; [`HostError::Stopped`] with
    /// what happened when its partition ended.
    pub fn await_guest(&mut self, index: usize) -> Result<(), HostError> {
        let Some(guest) = self.guests.get(index) else {
            return Ok(());
        };
        let (peer, partition) = (guest.peer, guest.partition.clone());
        let joined = self.controller.await_agent(peer, JOIN_LIMIT);
        match (joined, partition.wait(Duration::ZERO)) {
            (Err(_), Some(outcome)) => Err(HostError::Stopped {
                partition: partition.name().to_owned(),
                outcome: Box::new(outcome),
            }),
            (joined, _) => joined,
        }
    }

    /// What became of guests that have ended, by name.
    pub fn ended(&self) -> Vec<(String, Outcome)> {
        let ended = |guest: &Guest| {
            let outcome = guest.partition.wait(Duration::ZERO)?;
            Some((guest.partition.name().to_owned(), outcome))
        };
        self.guests.iter().filter_map(ended).collect()
    }

    /// Asks every agent to end its partition, and stops those that do not.
    /// Returns how each ended, in the guests' order.
    ///
    /// # Errors
    /// [`HostError::Vmm`] when a partition cannot be stopped.
    pub fn finish(mut self) -> Result<Vec<Outcome>, HostError> {
        let mut outcomes = Vec::new();
        for guest in &self.guests {
            let exit = Command::Exit { code: 0 };
            // A guest that cannot be asked is stopped below.
            let _ = self.controller.send(guest.peer, &exit, EXIT_LIMIT);
        }
        for guest in &self.guests {
            outcomes.push(match guest.partition.wait(EXIT_LIMIT) {
                Some(outcome) => outcome,
                None => guest.partition.stop()?,
            });
        }
        Ok(outcomes)
    }
}
