//! A region with the host as peer 0 and agents as peers 1 and up, for the tests.

use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::MappedMem;
use hv_shmem::doorbell::EventFd;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use portal_boot_abi::WINDOW64_GPA;
use portal_host::Controller;
use portal_host::Seat;
use portal_ivshmem::DeniedWrite;
use portal_ivshmem::IvshmemV1;
use portal_ivshmem::IvshmemV1Config;
use portal_vmm::Bells;
use portal_vmm::Captured;
use portal_vmm::Console;
use portal_vmm::DeniedWrites;
use portal_vmm::DeviceRegion;
use portal_vmm::Fabric;
use portal_vmm::Image;
use portal_vmm::Kvm;
use portal_vmm::Outcome;
use portal_vmm::Partition;
use portal_vmm::PartitionBuilder;
use portal_vmm::RegionAttachment;
use portal_vmm::ResolvedDevice;
use portal_vmm::SharedRegion;
use portal_vmm::Writable;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

/// Longest wait of a test for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Vectors of each agent.
const VECTORS: u16 = 2;

/// Opens KVM, or says on one line why the test is skipped.
pub(crate) fn hypervisor() -> Option<Kvm> {
    match Kvm::open() {
        Ok(kvm) => Some(kvm),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// How the partitions get at the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// At a fixed address, with doorbells.
    Fixed,
    /// At a fixed address, without a PCI device.
    FixedSilent,
    /// Behind BAR2 of the ivshmem function only.
    Bar,
}

/// What a test wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) agents: u16,
    pub(crate) region: u64,
    pub(crate) common: u64,
    pub(crate) ram: u64,
    pub(crate) carrier: Carrier,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            agents: 2,
            region: 64 << 20,
            common: 2 << 20,
            ram: 32 << 20,
            carrier: Carrier::Fixed,
        }
    }
}

/// Host and agents, all up.
pub(crate) struct Pair {
    pub(crate) host: Controller,
    pub(crate) partitions: Vec<Arc<Mutex<Partition>>>,
    pub(crate) consoles: Vec<Captured>,
    pub(crate) region: Arc<SharedRegion>,
    pub(crate) pages: HostPages<MappedMem>,
}

impl Pair {
    /// Starts the agents and waits until each has joined.
    pub(crate) fn start(hypervisor: &Kvm, plan: Plan) -> Self {
        // The host, and room for one more.
        let peers = plan.agents + 2;
        let spec = RegionSpec::new(Name::new("test").unwrap(), plan.region, peers)
            .common(plan.common)
            .sectioned(true);
        let backing = Backing::create(&spec, &BackingConfig::default()).unwrap();
        let region = SharedRegion::of_backing("test", Arc::new(backing)).unwrap();
        let mem = region.mapping().mem();
        let uuid = uuid::Uuid::from_u128(0x1234_5678_9ABC_DEF0_1234_5678_9ABC_DEF0);
        let mut pages = HostPages::format(mem.clone(), &spec, uuid).unwrap();
        let mut admit = |peer: PeerId, kind| {
            let name = Name::new(&format!("peer-{}", peer.0)).unwrap();
            pages
                .admit(peer, name, kind, Rights::ALL, VECTORS.into())
                .unwrap()
        };
        let bells = Bells::new();
        for peer in 0..=plan.agents {
            bells.add(peer, VECTORS).unwrap();
        }
        let bell = |peer: PeerId| -> Option<Arc<EventFd>> {
            (plan.carrier != Carrier::FixedSilent)
                .then(|| bells.bell(peer.0, 0))
                .flatten()
        };
        let epoch = admit(PeerId(0), PeerKind::HostProcess);
        let attached = PortalRegion::attach(mem, AttachOptions::default()).unwrap();
        let mut host = Controller::join(&attached, epoch, bell(PeerId(0))).unwrap();
        let mut partitions = Vec::new();
        let mut consoles = Vec::new();
        for agent in 1..=plan.agents {
            let peer = PeerId(agent);
            let epoch = admit(peer, PeerKind::Partition);
            let (console, captured) = Console::capture();
            let mut builder = PartitionBuilder::new(
                format!("agent-{agent}"),
                Image::Flat(portal_guest::warp::image().into()),
            )
            .ram(plan.ram)
            .console(console)
            .deadline(Duration::from_secs(60))
            .pin(vec![usize::from(agent % 2)]);
            if plan.carrier != Carrier::Bar {
                builder = builder.region(RegionAttachment {
                    region: region.clone(),
                    gpa: WINDOW64_GPA,
                    peer,
                    epoch: epoch.into(),
                    writable: Writable::Own,
                    denied_write: DeniedWrites::Stop,
                });
            }
            if plan.carrier != Carrier::FixedSilent {
                builder = builder.device(ivshmem(&region, peer, &bells));
            }
            let partition = builder.build(hypervisor).unwrap();
            if let Some(device) = partition.device("ivshmem0") {
                for other in (0..=plan.agents).filter(|other| *other != agent) {
                    device.peer_joined(other, VECTORS);
                }
            }
            let partition = Arc::new(Mutex::new(partition));
            let watched = partition.clone();
            let seat = Seat {
                bell: bell(peer),
                alive: Box::new(move || !watched.lock().unwrap().ended()),
            };
            host.expect(peer, seat).unwrap();
            partition.lock().unwrap().start().unwrap();
            partitions.push(partition);
            consoles.push(captured);
        }
        let mut this = Self {
            host,
            partitions,
            consoles,
            region,
            pages,
        };
        for agent in 1..=plan.agents {
            if let Err(error) = this.host.await_agent(PeerId(agent), PATIENCE) {
                panic!("{error}\n{}", this.story());
            }
        }
        this
    }

    /// How each partition ended (if it did) and what it printed.
    pub(crate) fn story(&self) -> String {
        let mut story = String::new();
        for (partition, console) in self.partitions.iter().zip(&self.consoles) {
            let partition = partition.lock().unwrap();
            story.push_str(&format!(
                "{}: {:?}\n{}\n",
                partition.name(),
                partition.wait(Duration::ZERO),
                console.text()
            ));
        }
        story
    }

    /// How agent `agent` (from 1) ended, once it does.
    pub(crate) fn outcome(&self, agent: u16) -> Option<Outcome> {
        let partition = self.partitions.get(usize::from(agent) - 1)?;
        partition.lock().unwrap().wait(PATIENCE)
    }
}

fn ivshmem(region: &Arc<SharedRegion>, peer: PeerId, bells: &Arc<Bells>) -> ResolvedDevice {
    let device = IvshmemV1::new(IvshmemV1Config {
        peer: peer.0,
        region_len: region.size(),
        windows: region.parts(peer, Writable::Own),
        denied_write: DeniedWrite::Stop,
        vectors: VECTORS,
        intx: false,
    });
    ResolvedDevice {
        name: "ivshmem0".to_owned(),
        device: Box::new(device.unwrap()),
        slot: None,
        region: Some(DeviceRegion {
            region: region.clone(),
            peer,
            writable: Writable::Own,
        }),
        storage: None,
        fabric: Some(bells.clone()),
        member: None,
    }
}
