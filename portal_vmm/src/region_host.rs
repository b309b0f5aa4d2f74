//! The regions of this process and who is in them: [`RegionHost`] joins backings,
//! host pages and the switchboard, and tells partitions' devices about peers.
//!
//! ```text
//!   RegionHandle ─ create ─▶ region ─ join ─▶ Member ─ ready ─ drop ─▶ gone
//!                                               │
//!             other members' devices and fabrics are told of each step
//! ```
//!
//! A [`Member`] is one life of one peer, be it a partition (its device holds the
//! member) or host code in this process. Dropping it, by will or because its
//! partition ended, retires the peer: its epoch moves and the others are told
//! before the drop returns.
//!
//! A region that another process serves ([`RegionHost::serve`]) has members too: they
//! sit at that process's switchboard, and look the same from here.
//!
//! Trusted: this process. What partitions may do is in the rights of their
//! admission and in how the region is mapped for them. Lock order: delivery,
//! then a device, then switchboard or listeners.

use crate::DeviceHandle;
use crate::SharedRegion;
use crate::VmmError;
use crate::fabric::Fabric;
use crate::served;
use crate::served::Remote;
use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::MappedMem;
use hv_shmem::backing::OpenAs;
use hv_shmem::backing::Storage;
use hv_shmem::backing::fault_guard;
use hv_shmem::doorbell::Doorbell;
use hv_shmem::doorbell::EventFd;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::Layout;
use hv_shmem::layout::PeerId;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use portal_device::inspect::Node;
use portal_resources::BackingHandle;
use portal_resources::HugePages;
use portal_resources::RegionHandle;
use portal_switchboard::Admission;
use portal_switchboard::Event;
use portal_switchboard::Limits;
use portal_switchboard::PeerKey;
use portal_switchboard::Policy;
use portal_switchboard::Switchboard;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::Weak;

type Board = Switchboard<MappedMem, Arc<EventFd>>;

/// Regions by name, and their members. Clones are the same host.
#[derive(Clone, Debug)]
pub struct RegionHost {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    board: Mutex<Board>,
    regions: RwLock<BTreeMap<Name, Arc<SharedRegion>>>,
    /// Regions of another process, and the Portal sockets by which they are joined.
    served: RwLock<BTreeMap<Name, PathBuf>>,
    listeners: Mutex<BTreeMap<(Name, PeerId), Listener>>,
    /// Held while events are taken and handed over, so that each pair of peers
    /// sees them in order.
    delivery: Mutex<()>,
}

#[derive(Clone, Debug)]
struct Listener {
    fabric: Arc<MemberFabric>,
    device: Option<DeviceHandle>,
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How to join a region.
#[derive(Clone, Debug)]
pub struct Join {
    /// Name of the peer; no two live peers of a region have the same.
    pub name: String,
    /// Partition or host process.
    pub kind: PeerKind,
    /// What it wants to do.
    pub rights: Rights,
    /// The peer id it has to have, or any.
    pub peer: Option<u16>,
    /// Vectors that it hears.
    pub vectors: u16,
}

impl Join {
    /// A host-side peer of this process with every right.
    pub fn host(name: impl Into<String>, peer: Option<u16>, vectors: u16) -> Self {
        Self {
            name: name.into(),
            kind: PeerKind::HostProcess,
            rights: Rights::ALL,
            peer,
            vectors,
        }
    }

    /// A partition with every right.
    pub fn partition(name: impl Into<String>, peer: Option<u16>, vectors: u16) -> Self {
        Self {
            kind: PeerKind::Partition,
            ..Self::host(name, peer, vectors)
        }
    }
}

impl Default for RegionHost {
    fn default() -> Self {
        Self::new()
    }
}

impl RegionHost {
    /// No regions.
    pub fn new() -> Self {
        let limits = Limits {
            // As many as MSI-X has and handles allow.
            vectors_per_peer: 2048,
            ..Limits::default()
        };
        Self {
            inner: Arc::new(Inner {
                board: Mutex::new(Switchboard::new(limits)),
                regions: RwLock::default(),
                served: RwLock::default(),
                listeners: Mutex::default(),
                delivery: Mutex::new(()),
            }),
        }
    }

    /// Makes a region as its handle says and owns it. A file that exists is taken
    /// over with what is in it (its peers are retired, its generation moves).
    ///
    /// # Errors
    /// [`VmmError::Region`] with what is wrong and, where there is one, the limit.
    pub fn create(&self, handle: &RegionHandle) -> Result<Arc<SharedRegion>, VmmError> {
        let fail = |reason: String| region_error(&handle.name, reason);
        let spec = handle
            .check()
            .map_err(|invalid| fail(invalid.to_string()))?;
        let existing = match &handle.backing {
            BackingHandle::File { path } => path.exists().then_some(path),
            BackingHandle::Memfd | BackingHandle::HugePages { .. } => None,
        };
        let backing = match existing {
            Some(path) => Backing::open_file(path, OpenAs::Host),
            None => Backing::create(&spec, &config(handle).map_err(fail)?),
        };
        let backing = backing.map_err(|error| fail(error.to_string()))?;
        let region = SharedRegion::of_backing(handle.name.clone(), backing)?;
        let mem = region.mapping().mem();
        let pages = match existing {
            Some(_) => HostPages::take_over(mem),
            None => HostPages::format(mem, &spec, fresh_uuid()),
        };
        let pages = pages.map_err(|error| fail(error.to_string()))?;
        let layout = Layout::compute(&spec).map_err(|error| fail(error.to_string()))?;
        if pages.header().name != spec.name || *pages.layout() != layout {
            return Err(fail(format!(
                "the file holds region {:?} of {:#x} bytes",
                pages.header().name.as_str(),
                pages.layout().size
            )));
        }
        protect(&region, handle).map_err(fail)?;
        let name = locked(&self.inner.board)
            .add_region(pages, Policy::default())
            .map_err(|error| fail(error.to_string()))?;
        let regions = self.inner.regions.write();
        let mut regions = regions.unwrap_or_else(PoisonError::into_inner);
        regions.insert(name, region.clone());
        Ok(region)
    }

    /// Knows a region that `portal serve` serves at the Portal socket `switchboard`:
    /// [`Self::join`] joins it there. What this gives is a view of it.
    ///
    /// # Errors
    /// [`VmmError::Region`]: nobody listens there, or serves no such region.
    pub fn serve(&self, name: &str, switchboard: &Path) -> Result<Arc<SharedRegion>, VmmError> {
        let fail = |reason: String| region_error(name, reason);
        let region = Name::new(name).map_err(|error| fail(error.to_string()))?;
        let view = served::look(&region, switchboard)?;
        let regions = self.inner.regions.write();
        let mut regions = regions.unwrap_or_else(PoisonError::into_inner);
        if regions.contains_key(&region) {
            return Err(fail("this process has a region of that name".to_owned()));
        }
        regions.insert(region, view.clone());
        let served = self.inner.served.write();
        let mut served = served.unwrap_or_else(PoisonError::into_inner);
        served.insert(region, switchboard.to_owned());
        Ok(view)
    }

    /// A region by name.
    ///
    /// # Errors
    /// [`VmmError::Region`] when there is none of this name.
    pub fn region(&self, name: &str) -> Result<Arc<SharedRegion>, VmmError> {
        let regions = self.inner.regions.read();
        let regions = regions.unwrap_or_else(PoisonError::into_inner);
        let found = Name::new(name).ok().and_then(|name| regions.get(&name));
        found.cloned().ok_or_else(|| {
            let known: Vec<_> = regions.keys().map(Name::as_str).collect();
            region_error(
                name,
                format!("no such region; there are: {}", known.join(", ")),
            )
        })
    }

    /// Every region, in the order of their names.
    pub fn regions(&self) -> Vec<Arc<SharedRegion>> {
        let regions = self.inner.regions.read();
        let regions = regions.unwrap_or_else(PoisonError::into_inner);
        regions.values().cloned().collect()
    }

    /// Lets a peer in and tells the others.
    ///
    /// # Errors
    /// [`VmmError::Region`] with the switchboard's reason (id taken, region full,
    /// quota).
    pub fn join(&self, region: &str, join: &Join) -> Result<Member, VmmError> {
        let shared = self.region(region)?;
        let fail = |reason: String| region_error(region, reason);
        let name = Name::new(region).map_err(|error| fail(error.to_string()))?;
        let who = Name::new(&join.name)
            .map_err(|error| fail(format!("peer name {:?}: {error}", join.name)))?;
        let served = self.inner.served.read();
        let served = served.unwrap_or_else(PoisonError::into_inner);
        if let Some(switchboard) = served.get(&name).cloned() {
            drop(served);
            return Member::of_served(Remote::join(name, who, join, &switchboard)?);
        }
        drop(served);
        let mut bells = Vec::new();
        for _ in 0..join.vectors {
            let bell = EventFd::new().map_err(|error| fail(error.to_string()))?;
            bells.push(Arc::new(bell));
        }
        let admission = Admission {
            name: who,
            kind: join.kind,
            rights: join.rights,
            id: join.peer.map(PeerId),
            bells: bells.clone(),
        };
        // No event of this peer is delivered before its listener is there.
        let order = locked(&self.inner.delivery);
        let key = locked(&self.inner.board)
            .admit(&name, admission)
            .map_err(|error| fail(error.to_string()))?;
        let fabric = Arc::new(MemberFabric {
            key,
            host: Arc::downgrade(&self.inner),
            own: bells,
            others: RwLock::default(),
        });
        let listener = Listener {
            fabric: fabric.clone(),
            device: None,
        };
        locked(&self.inner.listeners).insert((name, key.peer), listener);
        drop(order);
        self.deliver(&name);
        Ok(Member {
            at: At::Here(self.clone(), fabric),
            key,
            region: shared,
        })
    }

    /// The tree that `portal top` and `portal inspect` show. Of regions that another
    /// process serves it says where.
    pub fn inspect(&self) -> Node {
        let tree = locked(&self.inner.board).inspect();
        let served = self.inner.served.read();
        let served = served.unwrap_or_else(PoisonError::into_inner);
        let mut at = Node::new();
        for (name, path) in served.iter() {
            at.push(name.as_str().to_owned(), path.display().to_string());
        }
        tree.with("switchboards", at)
    }

    /// Hands every waiting event of a region to whom it is for.
    fn deliver(&self, region: &Name) {
        let _order = locked(&self.inner.delivery);
        let mut events = Vec::new();
        locked(&self.inner.board).tell_all(region, |to, event| events.push((to, event)));
        for (to, event) in events {
            let listener = locked(&self.inner.listeners).get(&(*region, to)).cloned();
            if let Some(listener) = listener {
                listener.fabric.learn(&event);
                if let Some(device) = &listener.device {
                    device.tell(event.input());
                }
                listener.fabric.forget(&event);
            }
        }
    }

    /// From now on `device` is told what the member is told; first what there is
    /// already.
    fn listen(&self, key: &PeerKey, device: DeviceHandle) {
        let _order = locked(&self.inner.delivery);
        let listener = locked(&self.inner.listeners)
            .get(&(key.region, key.peer))
            .cloned();
        let Some(listener) = listener else {
            return;
        };
        for (peer, vectors, phase) in listener.fabric.known() {
            device.peer_joined(peer, vectors);
            match phase {
                Phase::Joined => {}
                Phase::Ready => device.peer_ready(peer),
                Phase::Quiescing => device.peer_quiescing(peer),
            }
        }
        let listener = Listener {
            device: Some(device),
            ..listener
        };
        locked(&self.inner.listeners).insert((key.region, key.peer), listener);
    }

    fn leave(&self, key: &PeerKey) {
        if let Err(error) = locked(&self.inner.board).gone(key) {
            tracing::warn!(%error, "a peer could not be retired");
        }
        locked(&self.inner.listeners).remove(&(key.region, key.peer));
        self.deliver(&key.region);
    }
}

/// Where a member sits.
#[derive(Debug)]
enum At {
    /// At this process's switchboard.
    Here(RegionHost, Arc<MemberFabric>),
    /// At that of another process.
    There(Arc<Remote>),
}

/// One life of one peer of a region. Dropping it is leaving.
#[derive(Debug)]
pub struct Member {
    at: At,
    key: PeerKey,
    region: Arc<SharedRegion>,
}

impl Member {
    fn of_served(remote: Arc<Remote>) -> Result<Self, VmmError> {
        Ok(Self {
            key: remote.key(),
            region: remote.region().clone(),
            at: At::There(remote),
        })
    }

    /// Its peer id.
    pub fn peer(&self) -> PeerId {
        self.key.peer
    }

    /// The epoch that it lives under.
    pub fn epoch(&self) -> u32 {
        self.key.epoch
    }

    /// The region.
    pub fn region(&self) -> &Arc<SharedRegion> {
        &self.region
    }

    /// Where its doorbells go and come from.
    pub fn fabric(&self) -> Arc<dyn Fabric> {
        match &self.at {
            At::Here(_, fabric) => fabric.clone(),
            At::There(remote) => remote.clone(),
        }
    }

    /// The event that it hears `vector` on; `None` past its last vector.
    pub fn bell(&self, vector: u16) -> Option<Arc<EventFd>> {
        self.fabric().bell(self.key.peer.0, vector)
    }

    /// The doorbell of another peer, for ringing from this process; `None` while
    /// there is no such peer or vector.
    pub fn doorbell(&self, peer: PeerId, vector: u16) -> Option<Arc<EventFd>> {
        self.fabric().bell(peer.0, vector)
    }

    /// Rings another peer. `false` when there is none to ring.
    pub fn ring(&self, peer: PeerId, vector: u16) -> bool {
        self.doorbell(peer, vector)
            .is_some_and(|bell| bell.ring().is_ok())
    }

    /// Says that its section is formatted.
    ///
    /// # Errors
    /// [`VmmError::Region`] when it is not joining or quiescing.
    pub fn ready(&self) -> Result<(), VmmError> {
        let host = match &self.at {
            At::Here(host, _) => host,
            At::There(remote) => return remote.ready(),
        };
        let done = locked(&host.inner.board).ready(&self.key);
        done.map_err(|error| region_error(self.key.region.as_str(), error.to_string()))?;
        host.deliver(&self.key.region);
        Ok(())
    }

    /// Says that it takes no new work.
    ///
    /// # Errors
    /// [`VmmError::Region`] when it is not joining or ready.
    pub fn quiesce(&self) -> Result<(), VmmError> {
        let host = match &self.at {
            At::Here(host, _) => host,
            At::There(remote) => return remote.quiesce(),
        };
        let done = locked(&host.inner.board).quiesce(&self.key);
        done.map_err(|error| region_error(self.key.region.as_str(), error.to_string()))?;
        host.deliver(&self.key.region);
        Ok(())
    }

    /// Says what an ivshmem v2 state register of this member would hold, and rings
    /// vector 0 of every neighbour. For members without such a device.
    ///
    /// # Errors
    /// [`VmmError::Region`].
    pub fn publish(&self, state: u32) -> Result<(), VmmError> {
        self.fabric().publish(state)?;
        let others = match &self.at {
            At::Here(_, fabric) => fabric.known().into_iter().map(|known| known.0).collect(),
            At::There(remote) => remote.others(),
        };
        for peer in others {
            self.ring(PeerId(peer), 0);
        }
        Ok(())
    }

    /// Lets a device be told of this member's neighbours.
    pub fn listen(&self, device: DeviceHandle) {
        match &self.at {
            At::Here(host, _) => host.listen(&self.key, device),
            At::There(remote) => remote.listen(device),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        match &self.at {
            At::Here(host, _) => host.leave(&self.key),
            At::There(remote) => remote.leave(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Joined,
    Ready,
    Quiescing,
}

#[derive(Debug)]
struct Neighbour {
    bells: Vec<Arc<EventFd>>,
    phase: Phase,
}

/// The events of one member and of those it knows.
#[derive(Debug)]
struct MemberFabric {
    key: PeerKey,
    host: Weak<Inner>,
    own: Vec<Arc<EventFd>>,
    others: RwLock<BTreeMap<u16, Neighbour>>,
}

impl MemberFabric {
    /// Before the device hears of it: what it will need.
    fn learn(&self, event: &Event<Arc<EventFd>>) {
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        let mut enter = |peer: &PeerId, phase| {
            if let Some(neighbour) = others.get_mut(&peer.0) {
                neighbour.phase = phase;
            }
        };
        match event {
            Event::Joined { peer, bells, .. } => {
                let neighbour = Neighbour {
                    bells: bells.clone(),
                    phase: Phase::Joined,
                };
                others.insert(peer.0, neighbour);
            }
            Event::Ready { peer } => enter(peer, Phase::Ready),
            Event::Quiescing { peer } => enter(peer, Phase::Quiescing),
            Event::Gone { .. } => {}
        }
    }

    /// After the device has let go of it.
    fn forget(&self, event: &Event<Arc<EventFd>>) {
        if let Event::Gone { peer, .. } = event {
            let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
            others.remove(&peer.0);
        }
    }

    fn known(&self) -> Vec<(u16, u16, Phase)> {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        let one = |(peer, neighbour): (&u16, &Neighbour)| {
            let vectors = u16::try_from(neighbour.bells.len()).unwrap_or(u16::MAX);
            (*peer, vectors, neighbour.phase)
        };
        others.iter().map(one).collect()
    }
}

impl Fabric for MemberFabric {
    fn bell(&self, peer: u16, vector: u16) -> Option<Arc<EventFd>> {
        if peer == self.key.peer.0 {
            return self.own.get(usize::from(vector)).cloned();
        }
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        others.get(&peer)?.bells.get(usize::from(vector)).cloned()
    }

    fn publish(&self, state: u32) -> Result<(), VmmError> {
        let host = self.host.upgrade();
        let done = host.map(|host| locked(&host.board).publish(&self.key, state));
        done.unwrap_or(Ok(()))
            .map_err(|error| region_error(self.key.region.as_str(), error.to_string()))
    }
}

pub(crate) fn region_error(region: &str, reason: String) -> VmmError {
    VmmError::Region {
        region: region.to_owned(),
        reason,
    }
}

/// What keeps holders of the region's fds from harming its users, now that this
/// process has made the one writable mapping that there will be. Memory is
/// sealed; a file cannot be, so that its truncation is made to cost this region
/// only.
fn protect(region: &SharedRegion, handle: &RegionHandle) -> Result<(), String> {
    if let BackingHandle::File { .. } = handle.backing {
        return fault_guard::install().map_err(|error| format!("SIGBUS guard: {error}"));
    }
    match region.backing() {
        Some(backing) => backing.seal_writers().map_err(|error| error.to_string()),
        None => Ok(()),
    }
}

/// A handle's backing in the words of `hv_shmem`.
fn config(handle: &RegionHandle) -> Result<BackingConfig, String> {
    let (storage, numa_node) = match &handle.backing {
        BackingHandle::Memfd => (Storage::Memfd, None),
        BackingHandle::HugePages { page, node } => match page {
            HugePages::Mib2 => (Storage::HugePages, *node),
            HugePages::Gib1 => return Err("1 GiB huge pages are not supported".to_owned()),
        },
        BackingHandle::File { path } => (Storage::File(path.clone()), None),
    };
    Ok(BackingConfig {
        storage,
        numa_node,
        populate: false,
    })
}

/// A version-4 UUID (RFC 9562, 5.4).
fn fresh_uuid() -> uuid::Uuid {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            // A kernel without the call: what is there is told apart by time.
            Err(_) => {
                let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
                bytes = now.map_or(0, |time| time.as_nanos()).to_le_bytes();
                break;
            }
        }
    }
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}
