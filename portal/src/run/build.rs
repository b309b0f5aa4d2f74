//! From a configuration to regions, partitions and the controllers of their
//! agents. Nothing runs yet when this is done.

use super::observed::Watched;
use super::signals::Stop;
use crate::config;
use crate::config::Backing;
use crate::config::Config;
use crate::config::Guest;
use crate::config::Located;
use crate::config::OnReset;
use crate::config::Output;
use crate::config::Place;
use crate::exit::Failure;
use crate::exit::Kind;
use crate::print;
use hv_shmem::layout::PeerId;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use portal_agent_abi::HOST;
use portal_agent_abi::RING_VECTOR;
use portal_host::Controller;
use portal_host::HostError;
use portal_host::Seat;
use portal_resources::BackingHandle;
use portal_resources::DeniedWrites;
use portal_resources::HandleOf;
use portal_resources::IvshmemV1Handle;
use portal_resources::IvshmemV2Handle;
use portal_resources::Mapping;
use portal_resources::PciDevice;
use portal_resources::RegionHandle;
use portal_resources::ResolveError;
use portal_resources::Resource;
use portal_resources::VirtioPmemHandle;
use portal_vmm::Console;
use portal_vmm::Image;
use portal_vmm::Join;
use portal_vmm::Kvm;
use portal_vmm::LinuxImage;
use portal_vmm::Member;
use portal_vmm::Outcome as Ended;
use portal_vmm::Partition;
use portal_vmm::PartitionBuilder;
use portal_vmm::RegionAttachment;
use portal_vmm::RegionHost;
use portal_vmm::Sandbox;
use portal_vmm::VmmError;
use portal_vmm::resolvers;
use portal_vmm::resolvers::DeviceContext;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// Vectors that the host hears: agents ring the first.
const HOST_VECTORS: u16 = 1;

/// A partition and, with the built-in guest, its agent's place.
pub(super) struct Running {
    pub(super) name: String,
    pub(super) partition: Rc<Partition>,
    /// The region that its agent joins, and as whom.
    pub(super) agent: Option<(String, PeerId)>,
    /// Who it is in the region of each of its devices, in their order.
    peers: Vec<Option<PeerId>>,
    /// Its places in regions at fixed addresses; leaving is dropping.
    _members: Vec<Member>,
}

/// The host in a region whose agents it drives.
pub(super) struct Seated {
    pub(super) controller: Controller,
    pub(super) member: Member,
}

/// What partitions are made from, at first and when one starts again.
pub(super) struct Plan<'c> {
    pub(super) kvm: &'c Kvm,
    pub(super) config: &'c Config,
    pub(super) folder: &'c Path,
    pub(super) sandbox: Sandbox,
}

/// Everything that was built. Partitions are dropped, and so stopped, before the
/// host leaves its regions.
pub(super) struct Built<'c> {
    pub(super) partitions: Vec<Running>,
    pub(super) hosts: BTreeMap<String, Seated>,
    /// What operators see of it.
    pub(super) watched: Watched,
    /// Why partitions that reset themselves are gone.
    pub(super) lost: Vec<Failure>,
    /// The host in regions without agents.
    _idle: Vec<Member>,
    regions: RegionHost,
    plan: Plan<'c>,
}

/// Makes the regions and starts the partitions.
pub(super) fn build<'c>(plan: Plan<'c>, stop: &Stop) -> Result<Built<'c>, Failure> {
    let config = plan.config;
    let regions = RegionHost::new();
    let mut built = Built {
        partitions: Vec::new(),
        hosts: BTreeMap::new(),
        _idle: Vec::new(),
        watched: Watched::new(regions.clone()),
        lost: Vec::new(),
        regions,
        plan,
    };
    for region in &config.regions {
        let folder = built.plan.folder;
        let there = match &region.backing {
            Backing::Served(path) => {
                let switchboard = folder.join(&path.value);
                built.regions.serve(&region.name.value, &switchboard)
            }
            backing => built
                .regions
                .create(&region_handle(region, backing, folder)),
        };
        there.map_err(|e| vmm(&e))?;
    }
    // The host first: it is peer 0, and its doorbells are there for the others.
    for partition in &config.partitions {
        if let (Guest::Warp { .. }, Some(region)) = (&partition.guest, partition.agent_region())
            && !built.hosts.contains_key(region)
        {
            let seated = seat(&built.regions, region)?;
            built.hosts.insert(region.to_owned(), seated);
        }
    }
    // Slot 0 is the host's in every region, also where it has nothing to do; in those
    // of another process it is whoever's comes first.
    for region in &config.regions {
        let name = region.name.value.as_str();
        let ours = !matches!(region.backing, Backing::Served(_));
        if ours && !built.hosts.contains_key(name) {
            let join = Join::host("host", Some(HOST.0), HOST_VECTORS);
            let member = built.regions.join(name, &join).map_err(|e| vmm(&e))?;
            built._idle.push(member);
        }
    }
    let mut starting = Vec::new();
    for partition in &config.partitions {
        starting.push(assemble(&built.plan, partition, &built.regions, &[])?);
    }
    for assembled in starting {
        built.watched.add(assembled.partition.observer());
        let running = assembled.start()?;
        if let Some((region, peer)) = &running.agent
            && let Some(host) = built.hosts.get_mut(region)
        {
            let watched = Rc::downgrade(&running.partition);
            let stop = stop.clone();
            let seat = Seat {
                bell: host.member.doorbell(*peer, RING_VECTOR),
                alive: Box::new(move || {
                    !stop.asked() && watched.upgrade().is_some_and(|p| !p.ended())
                }),
            };
            host.controller
                .expect(*peer, seat)
                .map_err(|e| host_side(&e))?;
        }
        built.partitions.push(running);
    }
    Ok(built)
}

impl Built<'_> {
    /// Starts partitions that have reset themselves again: from their files, as
    /// the same peers in their next life. Returns their names. One that cannot start
    /// is gone, which [`Self::lost`] keeps; the others go on.
    pub(super) fn restart(&mut self) -> Vec<String> {
        let mut restarted = Vec::new();
        let all: &Config = self.plan.config;
        let wanted = |config: &&config::Partition| config.on_reset == OnReset::Restart;
        for config in all.partitions.iter().filter(wanted) {
            let name = config.name.value.as_str();
            let reset = |running: &Running| {
                running.name == name && running.partition.wait(Duration::ZERO) == Some(Ended::Reset)
            };
            let Some(at) = self.partitions.iter().position(reset) else {
                continue;
            };
            let peers = {
                // Gone, with its memory and its places, before it comes again.
                let ended = self.partitions.remove(at);
                ended.peers
            };
            let again = assemble(&self.plan, config, &self.regions, &peers);
            let again = again.and_then(|assembled| {
                self.watched.add(assembled.partition.observer());
                assembled.start()
            });
            match again {
                Ok(running) => {
                    self.partitions.insert(at, running);
                    restarted.push(name.to_owned());
                }
                Err(mut failure) => {
                    failure.what = format!(
                        "partition {name:?} reset itself and cannot start again: {}",
                        failure.what
                    );
                    print::line(&failure.what);
                    self.lost.push(failure);
                }
            }
        }
        restarted
    }
}

/// The host as peer 0 of a region.
fn seat(regions: &RegionHost, region: &str) -> Result<Seated, Failure> {
    let member = regions
        .join(region, &Join::host("host", Some(HOST.0), HOST_VECTORS))
        .map_err(|e| vmm(&e))?;
    let mem = member.region().mapping().mem();
    let attached = PortalRegion::attach(mem, AttachOptions::default())
        .map_err(|e| Failure::new(Kind::Region, format!("region {region:?}: {e}")))?;
    let controller = Controller::join(&attached, member.epoch(), member.bell(RING_VECTOR))
        .map_err(|e| host_side(&e))?;
    member.ready().map_err(|e| vmm(&e))?;
    Ok(Seated { controller, member })
}

struct Assembled {
    name: String,
    partition: Partition,
    agent: Option<(String, PeerId)>,
    peers: Vec<Option<PeerId>>,
    members: Vec<Member>,
}

impl Assembled {
    fn start(mut self) -> Result<Running, Failure> {
        self.partition.start().map_err(|e| vmm(&e))?;
        Ok(Running {
            name: self.name,
            partition: Rc::new(self.partition),
            agent: self.agent,
            peers: self.peers,
            _members: self.members,
        })
    }
}

/// Builds one partition. `seats` are the peers that it has to be, in the order of
/// its devices; for those beyond its end any will do.
fn assemble(
    plan: &Plan<'_>,
    config: &config::Partition,
    regions: &RegionHost,
    seats: &[Option<PeerId>],
) -> Result<Assembled, Failure> {
    let (kvm, folder, sandbox) = (plan.kvm, plan.folder, plan.sandbox);
    let name = &config.name.value;
    let (image, cmdline) = image(&config.guest, folder)?;
    let mut builder = PartitionBuilder::new(name.clone(), image)
        // The configuration allows no more than 64.
        .vcpus(config.vcpus.value as u32)
        .ram(config.ram.value)
        .cmdline(cmdline)
        .sandbox(sandbox)
        .console(console(config, folder)?)
        .deadline(Duration::MAX);
    builder.iommu = config.iommu;
    builder.interrupt_budget = config
        .interrupt_budget
        .as_ref()
        .and_then(|most| NonZeroU32::new(most.value as u32));
    let agent_region = match &config.guest {
        Guest::Warp { .. } => config.agent_region(),
        Guest::Image { .. } | Guest::Linux { .. } => None,
    };
    let mut agent = None;
    let mut members = Vec::new();
    let mut peers = Vec::new();
    for (index, device) in config.devices.iter().enumerate() {
        let region = device.region.as_ref().map_or("", |it| it.value.as_str());
        let seat = seats.get(index).copied().flatten().map(|peer| peer.0);
        let peer = match &device.place {
            Place::Ivshmem {
                vectors,
                mapping,
                denied_writes,
            } => {
                let handle = IvshmemV1Handle {
                    vectors: vectors.value as u16,
                    mapping: *mapping,
                    denied_writes: *denied_writes,
                    peer: seat,
                    ..IvshmemV1Handle::new(region)
                };
                let resolved = resolve(&handle, region, name, regions)?;
                let peer = resolved.region.as_ref().map(|r| r.peer);
                builder = builder.device(resolved);
                peer
            }
            Place::Ivshmem2 {
                vectors,
                access,
                one_shot,
                denied_writes,
            } => {
                let handle = IvshmemV2Handle {
                    vectors: vectors.value as u16,
                    access: *access,
                    one_shot: *one_shot,
                    denied_writes: *denied_writes,
                    peer: seat,
                    ..IvshmemV2Handle::new(region)
                };
                let resolved = resolve(&handle, region, name, regions)?;
                let peer = resolved.region.as_ref().map(|r| r.peer);
                builder = builder.device(resolved);
                peer
            }
            Place::Pmem { path, access } => {
                let handle = VirtioPmemHandle {
                    path: path.as_ref().map(|path| folder.join(&path.value)),
                    region: device.region.as_ref().map(|it| it.value.clone()),
                    access: *access,
                    ..VirtioPmemHandle::default()
                };
                builder = builder.device(resolve(&handle, region, name, regions)?);
                None
            }
            Place::Fixed {
                gpa,
                mapping,
                denied_writes,
            } => {
                let (member, attachment) = attach(
                    name,
                    region,
                    gpa.value,
                    seat,
                    (*mapping, *denied_writes),
                    regions,
                )?;
                let peer = member.peer();
                builder = builder.region(attachment);
                members.push(member);
                Some(peer)
            }
        };
        peers.push(peer);
        // The agent knows no ivshmem v2.
        let knows = !matches!(device.place, Place::Ivshmem2 { .. });
        if agent.is_none() && knows && agent_region == Some(region) {
            agent = peer.map(|peer| (region.to_owned(), peer));
        }
    }
    Ok(Assembled {
        name: name.clone(),
        partition: builder.build(kvm).map_err(|e| vmm(&e))?,
        agent,
        peers,
        members,
    })
}

/// What a partition boots, and its command line.
fn image<'c>(guest: &'c Guest, folder: &Path) -> Result<(Image, &'c str), Failure> {
    let line = |cmdline: &'c Option<Located<String>>| cmdline.as_ref().map_or("", |c| &c.value);
    Ok(match guest {
        Guest::Warp { .. } => (Image::Flat(portal_guest::warp::image().into()), ""),
        Guest::Image { path, cmdline } => {
            let path = folder.join(&path.value);
            let bytes = std::fs::read(&path).map_err(|e| {
                Failure::new(Kind::Input, format!("cannot read {}: {e}", path.display()))
            })?;
            (Image::Flat(bytes.into()), line(cmdline))
        }
        Guest::Linux {
            kernel,
            initrd,
            cmdline,
        } => {
            let image = LinuxImage {
                kernel: folder.join(&kernel.value),
                initrd: initrd.as_ref().map(|path| folder.join(&path.value)),
            };
            (Image::Linux(image), line(cmdline))
        }
    })
}

fn console(config: &config::Partition, folder: &Path) -> Result<Console, Failure> {
    match &config.console {
        Output::Prefix => Ok(Console::stdout(format!("{}| ", config.name.value))),
        Output::Terminal => Ok(Console::Raw(Box::new(std::io::stdout()))),
        Output::File(path) => {
            let full = folder.join(&path.value);
            let file = std::fs::File::create(&full).map_err(|e| {
                let what = format!("cannot write the console to {}: {e}", full.display());
                Failure::new(Kind::Input, what)
            })?;
            Ok(Console::file(file))
        }
    }
}

fn resolve<H: HandleOf<PciDevice>>(
    handle: &H,
    region: &str,
    partition: &str,
    regions: &RegionHost,
) -> Result<portal_vmm::ResolvedDevice, Failure> {
    let mut context = DeviceContext {
        partition: partition.to_owned(),
        regions: regions.clone(),
    };
    let fail = |error: ResolveError| match &error {
        ResolveError::Failed(source) if let Some(source) = source.downcast_ref() => {
            let mut failure = vmm(source);
            failure.what = format!("partition {partition:?}: {}", failure.what);
            failure
        }
        error => Failure::new(
            Kind::Failed,
            format!("partition {partition:?}, region {region:?}: {error}"),
        ),
    };
    let resource =
        Resource::new(handle).map_err(|error| fail(ResolveError::Failed(error.into())))?;
    resolvers::standard()
        .and_then(|known| known.resolve(&resource, &mut context))
        .map_err(fail)
}

fn attach(
    partition: &str,
    region: &str,
    gpa: u64,
    seat: Option<u16>,
    (mapping, denied_writes): (Mapping, DeniedWrites),
    regions: &RegionHost,
) -> Result<(Member, RegionAttachment), Failure> {
    let join = Join::partition(partition, seat, HOST_VECTORS);
    let member = regions.join(region, &join).map_err(|e| vmm(&e))?;
    let region = member.region().clone();
    let attachment = RegionAttachment {
        gpa,
        peer: member.peer(),
        epoch: member.epoch().into(),
        writable: region.writable(mapping),
        denied_write: denied_writes,
        region,
    };
    Ok((member, attachment))
}

fn region_handle(region: &config::Region, backing: &Backing, folder: &Path) -> RegionHandle {
    let backing = match backing {
        // One that is served is joined, not made.
        Backing::Memfd | Backing::Served(_) => BackingHandle::Memfd,
        Backing::HugePages(_) => BackingHandle::HugePages {
            page: portal_resources::HugePages::Mib2,
            node: None,
        },
        Backing::File(path) => BackingHandle::File {
            path: folder.join(&path.value),
        },
    };
    RegionHandle {
        // One file is one fd.
        sectioned: !matches!(region.backing, Backing::File(_)),
        backing,
        // The configuration allows no more than 1024.
        max_peers: region.peers.value as u16,
        common: region.common.value,
        ..RegionHandle::new(region.name.value.clone(), region.size.value)
    }
}

/// What kind of failure the VMM's is.
pub(super) fn vmm(error: &VmmError) -> Failure {
    let kind = match error {
        VmmError::Config { .. } | VmmError::Overlap { .. } | VmmError::Region { .. } => Kind::Input,
        _ => Kind::Host,
    };
    Failure::new(kind, error)
}

/// What kind of failure the host's side had.
pub(super) fn host_side(error: &HostError) -> Failure {
    let kind = match error {
        HostError::Vmm(_) => Kind::Host,
        HostError::TooSlow { .. } => Kind::Deadline,
        HostError::Ended { .. } | HostError::Stopped { .. } => Kind::Guest,
        _ => Kind::Failed,
    };
    Failure::new(kind, error)
}
