//! A member of a region that `portal serve` serves: [`Remote`].
//!
//! One connection and one thread a member. The thread takes in what the switchboard
//! says of the others and tells the member's device; when the switchboard is gone it
//! goes back to it, and the partition notices nothing: its memory and its doorbell
//! routes are its own. The device hears of changes that happened meanwhile.
//!
//! Which events a member hears on: where stock QEMU may join, those that the
//! switchboard keeps for the id, because QEMU knows no others; else its own. KVM takes
//! either as irqfd, so a doorbell between partitions never leaves the kernel.
//!
//! Trusted: the switchboard. The thread runs without the fences of partitions'
//! threads: it has to connect to a socket, and no guest's bytes reach it.

use crate::DeviceHandle;
use crate::SharedRegion;
use crate::VmmError;
use crate::region_host::Join;
use crate::region_host::MemberFabric;
use crate::region_host::Neighbour;
use crate::region_host::Phase;
use crate::region_host::Way;
use crate::region_host::locked;
use crate::region_host::region_error;
use hv_shmem::backing::View;
use hv_shmem::backing::fault_guard;
use hv_shmem::doorbell::Doorbell as _;
use hv_shmem::doorbell::EventFd;
use hv_shmem::layout::PeerId;
use hv_shmem::name::Name;
use portal_client::Bells;
use portal_client::ClientError;
use portal_client::Connection;
use portal_client::Event;
use portal_client::JoinOptions;
use portal_client::Peer;
use portal_client::session::Event as PeerEvent;
use portal_device::Input;
use portal_switchboard::PeerKey;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::Weak;
use std::time::Duration;

/// Bytes of the thread's stack.
const STACK: usize = 128 << 10;
/// How often a switchboard that is gone is looked for.
const LOOK: Duration = Duration::from_millis(25);

/// A region's shape and memory as an observer sees it.
///
/// # Errors
/// [`VmmError::Region`].
pub(crate) fn look(region: &Name, switchboard: &Path) -> Result<Arc<SharedRegion>, VmmError> {
    let failed = failed(region);
    let mut connection = Connection::open(switchboard).map_err(&failed)?;
    let backing = connection.watch(region).map_err(&failed)?;
    guard(region)?;
    SharedRegion::of_peer(region.to_string(), Arc::new(backing), View::OBSERVER)
}

/// Memory of a switchboard that keeps it in files has no seals: who truncates it is
/// to spoil the region, not this process.
fn guard(region: &Name) -> Result<(), VmmError> {
    let installed = fault_guard::install();
    installed.map_err(|error| region_error(region.as_str(), format!("SIGBUS guard: {error}")))
}

fn failed(region: &Name) -> impl Fn(ClientError) -> VmmError + use<> {
    let region = *region;
    move |error| region_error(region.as_str(), error.to_string())
}

/// A member that sits at another process's switchboard.
pub(crate) struct Remote {
    key: PeerKey,
    fabric: Arc<MemberFabric>,
    region: Arc<SharedRegion>,
    /// `None` when it has left.
    peer: Mutex<Option<Peer>>,
    /// Held while the device is told, so that it hears everything once and in order.
    device: Mutex<Option<DeviceHandle>>,
    /// Rung when there is something to tell that did not come by the socket.
    wake: EventFd,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Remote {
    /// Joins, and starts the thread.
    ///
    /// # Errors
    /// [`VmmError::Region`] with the switchboard's reason.
    pub(crate) fn join(
        region: Name,
        who: Name,
        join: &Join,
        switchboard: &Path,
    ) -> Result<Arc<Self>, VmmError> {
        let failed = failed(&region);
        let no_event = |error: &dyn std::fmt::Display| {
            region_error(region.as_str(), format!("cannot make an event: {error}"))
        };
        let mut connection = Connection::open(switchboard).map_err(&failed)?;
        let regions = connection.regions().map_err(&failed)?;
        let compatible = regions.iter().any(|r| r.name == region && r.compatible);
        let bells = if compatible {
            Bells::Served(join.vectors)
        } else {
            let make = |_| EventFd::new().map(Arc::new).map_err(|e| no_event(&e));
            Bells::Own((0..join.vectors).map(make).collect::<Result<_, _>>()?)
        };
        let options = JoinOptions {
            region,
            name: who,
            kind: join.kind,
            rights: join.rights,
            id: join.peer.map(PeerId),
            bells,
        };
        let peer = connection.join(&options).map_err(&failed)?;
        guard(&region)?;
        let memory =
            SharedRegion::of_peer(region.to_string(), peer.backing().clone(), peer.view())?;
        let key = PeerKey {
            region,
            peer: peer.id(),
            epoch: peer.epoch(),
        };
        let wake = EventFd::new().map_err(|e| no_event(&e))?;
        let this = Arc::new_cyclic(|me| Self {
            key,
            fabric: Arc::new(MemberFabric {
                key,
                way: Way::There(Weak::clone(me)),
                own: peer.bells().to_vec(),
                others: RwLock::default(),
            }),
            region: memory,
            peer: Mutex::new(Some(peer)),
            device: Mutex::default(),
            wake,
        });
        // Who is there already is known when this returns.
        this.take_in();
        let thread = this.clone();
        std::thread::Builder::new()
            .name("portal-peer".to_owned())
            .stack_size(STACK)
            .spawn(move || thread.run())
            .map_err(|error| region_error(region.as_str(), error.to_string()))?;
        Ok(this)
    }

    pub(crate) fn key(&self) -> PeerKey {
        self.key
    }

    pub(crate) fn fabric(&self) -> &Arc<MemberFabric> {
        &self.fabric
    }

    pub(crate) fn region(&self) -> &Arc<SharedRegion> {
        &self.region
    }

    pub(crate) fn ready(&self) -> Result<(), VmmError> {
        self.ask(Peer::ready)
    }

    pub(crate) fn quiesce(&self) -> Result<(), VmmError> {
        self.ask(Peer::quiesce)
    }

    /// While the switchboard is gone, it is told when it is back.
    pub(crate) fn publish(&self, state: u32) -> Result<(), VmmError> {
        self.ask(|peer| match peer.publish(state) {
            Err(error) if error.is_passing() => Ok(()),
            other => other,
        })
    }

    fn ask(
        &self,
        request: impl FnOnce(&mut Peer) -> Result<(), ClientError>,
    ) -> Result<(), VmmError> {
        let done = match locked(&self.peer).as_mut() {
            Some(peer) => request(peer),
            None => Err(ClientError::Lost),
        };
        // Others may have been heard of before the answer.
        let _ = self.wake.ring();
        done.map_err(failed(&self.key.region))
    }

    /// Leaves; the thread ends.
    pub(crate) fn leave(&self) {
        let peer = locked(&self.peer).take();
        let _ = self.wake.ring();
        if let Some(peer) = peer
            && let Err(error) = peer.leave()
            && !error.is_passing()
        {
            tracing::warn!(%error, "a peer could not leave");
        }
    }

    /// From now on `device` is told what this member is told; first what there is
    /// already.
    pub(crate) fn listen(&self, device: DeviceHandle) {
        let mut place = locked(&self.device);
        for (peer, vectors, phase) in self.fabric.known() {
            device.peer_joined(peer, vectors);
            match phase {
                Phase::Joined => {}
                Phase::Ready => device.peer_ready(peer),
                Phase::Quiescing => device.peer_quiescing(peer),
            }
        }
        *place = Some(device);
    }

    fn run(&self) {
        loop {
            let fd = match locked(&self.peer).as_ref() {
                Some(peer) => peer.fd().and_then(|fd| fd.try_clone_to_owned().ok()),
                None => return,
            };
            let timeout = fd.is_none().then_some(Timespec {
                tv_sec: 0,
                tv_nsec: LOOK.subsec_nanos().into(),
            });
            let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN)];
            if let Some(fd) = &fd {
                fds.push(PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN));
            }
            // An interrupted wait is a look too many.
            let _ = rustix::event::poll(&mut fds, timeout.as_ref());
            let _ = self.wake.take();
            if !self.take_in() {
                return;
            }
        }
    }

    /// Takes in what there is, and tells it. `false` when this life is over.
    fn take_in(&self) -> bool {
        let device = locked(&self.device);
        loop {
            let mut place = locked(&self.peer);
            let Some(peer) = place.as_mut() else {
                return false;
            };
            let event = match peer.wait(Some(Duration::ZERO)) {
                Ok(Some(event)) => event,
                Ok(None) => return true,
                Err(error) => {
                    let region = self.key.region.as_str();
                    tracing::error!(region, %error, "the switchboard has no place for this peer any more");
                    *place = None;
                    drop(place);
                    self.all_gone(device.as_ref());
                    return false;
                }
            };
            let neighbour = |id: PeerId| {
                let found = peer.neighbours().get(&id)?;
                Some(Neighbour {
                    bells: found.bells.clone(),
                    phase: match found.phase {
                        portal_client::Phase::Joined => Phase::Joined,
                        portal_client::Phase::Ready => Phase::Ready,
                        portal_client::Phase::Quiescing => Phase::Quiescing,
                    },
                })
            };
            match event {
                Event::Detached | Event::Attached => {
                    let region = self.key.region.as_str();
                    tracing::info!(region, ?event, "switchboard");
                }
                Event::Peer(PeerEvent::Joined(id) | PeerEvent::Bells(id)) => {
                    let neighbour = neighbour(id);
                    drop(place);
                    if let Some(neighbour) = neighbour {
                        self.joined(id, neighbour, device.as_ref());
                    }
                }
                Event::Peer(PeerEvent::Ready(id)) => {
                    drop(place);
                    self.enter(id, Phase::Ready, device.as_ref());
                }
                Event::Peer(PeerEvent::Quiescing(id)) => {
                    drop(place);
                    self.enter(id, Phase::Quiescing, device.as_ref());
                }
                Event::Peer(PeerEvent::Gone(id, _)) => {
                    drop(place);
                    self.gone(id.0, device.as_ref());
                }
            }
        }
    }

    /// A peer is there; or it has come back, and nothing has changed but whether it
    /// can be rung.
    fn joined(&self, id: PeerId, neighbour: Neighbour, device: Option<&DeviceHandle>) {
        let vectors = neighbour.bells.len();
        let phase = neighbour.phase;
        let before = self.others().get(&id.0).map(|known| known.bells.clone());
        if let Some(before) = &before {
            if same_events(before, &neighbour.bells) {
                // Routes that stand go on: the events are the same, by other numbers.
                self.others().insert(id.0, neighbour);
                return;
            }
            self.gone(id.0, device);
        }
        self.others().insert(id.0, neighbour);
        if let Some(device) = device {
            device.peer_joined(id.0, u16::try_from(vectors).unwrap_or(u16::MAX));
        }
        if before.is_some() {
            self.tell_phase(id, phase, device);
        }
    }

    fn enter(&self, id: PeerId, phase: Phase, device: Option<&DeviceHandle>) {
        if let Some(known) = self.others().get_mut(&id.0) {
            known.phase = phase;
        }
        self.tell_phase(id, phase, device);
    }

    fn tell_phase(&self, id: PeerId, phase: Phase, device: Option<&DeviceHandle>) {
        match (device, phase) {
            (Some(device), Phase::Ready) => device.tell(Input::PeerReady { peer: id.0 }),
            (Some(device), Phase::Quiescing) => device.tell(Input::PeerQuiescing { peer: id.0 }),
            _ => {}
        }
    }

    /// First the device lets go of it, then its events are forgotten.
    fn gone(&self, id: u16, device: Option<&DeviceHandle>) {
        let known = self.others().contains_key(&id);
        if let Some(device) = device
            && known
        {
            device.peer_gone(id);
        }
        self.others().remove(&id);
    }

    fn all_gone(&self, device: Option<&DeviceHandle>) {
        for (id, _, _) in self.fabric.known() {
            self.gone(id, device);
        }
    }

    fn others(
        &self,
    ) -> std::sync::RwLockWriteGuard<'_, std::collections::BTreeMap<u16, Neighbour>> {
        let others = self.fabric.others.write();
        others.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether these are the same events, vector by vector, whatever their numbers.
fn same_events(these: &[Arc<EventFd>], those: &[Arc<EventFd>]) -> bool {
    let same = |(a, b): (&Arc<EventFd>, &Arc<EventFd>)| matches!((event_id(a), event_id(b)), (Some(a), Some(b)) if a == b);
    these.len() == those.len() && these.iter().zip(those).all(same)
}

/// The kernel's name for an event (`proc_pid_fdinfo(5)`), where it has one.
fn event_id(event: &EventFd) -> Option<u64> {
    let number = event.as_fd().as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
    let id = info.lines().find_map(|l| l.strip_prefix("eventfd-id:"))?;
    id.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_known_again_by_other_numbers() {
        let [a, b] = [(); 2].map(|()| Arc::new(EventFd::new().expect("an event")));
        let again = Arc::new(a.try_clone().expect("a number"));
        assert!(same_events(&[a.clone(), b.clone()], &[again, b.clone()]));
        let [ab, ba] = [[a.clone(), b.clone()], [b, a]];
        assert!(!same_events(&ab, &ba) && !same_events(&ab, &ab[..1]));
        assert!(same_events(&[], &[]));
    }
}
