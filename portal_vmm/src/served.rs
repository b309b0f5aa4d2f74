//! A member of a region that `portal serve` serves: [`Remote`].
//!
//! Its seat ([`portal_client::seat`]) is a connection and a thread; what the thread
//! hears of the others goes to the member's device. When the switchboard is gone the
//! partition notices nothing: its memory and its doorbell routes are its own.
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
use crate::fabric::Fabric;
use crate::region_host::Join;
use crate::region_host::locked;
use crate::region_host::region_error;
use hv_shmem::backing::View;
use hv_shmem::backing::fault_guard;
use hv_shmem::doorbell::EventFd;
use hv_shmem::layout::PeerId;
use hv_shmem::name::Name;
use portal_client::Bells;
use portal_client::ClientError;
use portal_client::Connection;
use portal_client::JoinOptions;
use portal_client::seat::Seat;
use portal_client::seat::new_bells;
use portal_switchboard::PeerKey;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;

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
#[derive(Debug)]
pub(crate) struct Remote {
    key: PeerKey,
    region: Arc<SharedRegion>,
    seat: Seat,
    /// Held while the device is told, so that it hears everything once and in order.
    device: Mutex<Option<DeviceHandle>>,
}

impl Remote {
    /// Joins.
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
        let regions = Connection::open(switchboard).and_then(|mut c| c.regions());
        let mut regions = regions.map_err(&failed)?.into_iter();
        let bells = if regions.any(|r| r.name == region && r.compatible) {
            Bells::Served(join.vectors)
        } else {
            Bells::Own(new_bells(join.vectors).map_err(&failed)?)
        };
        let options = JoinOptions {
            region,
            name: who,
            kind: join.kind,
            rights: join.rights,
            id: join.peer.map(PeerId),
            bells,
        };
        let seat = Seat::join(switchboard, &options).map_err(&failed)?;
        guard(&region)?;
        let memory = seat.backing().ok_or(ClientError::Lost).map_err(&failed)?;
        let this = Arc::new(Self {
            key: PeerKey {
                region,
                peer: seat.id(),
                epoch: seat.epoch(),
            },
            region: SharedRegion::of_peer(region.to_string(), memory.clone(), seat.view())?,
            seat,
            device: Mutex::default(),
        });
        let weak = Arc::downgrade(&this);
        this.seat.listen(move || {
            if let Some(this) = weak.upgrade() {
                this.tell();
            }
        });
        Ok(this)
    }

    pub(crate) fn key(&self) -> PeerKey {
        self.key
    }

    pub(crate) fn region(&self) -> &Arc<SharedRegion> {
        &self.region
    }

    pub(crate) fn ready(&self) -> Result<(), VmmError> {
        self.seat.ready().map_err(failed(&self.key.region))
    }

    pub(crate) fn quiesce(&self) -> Result<(), VmmError> {
        self.seat.quiesce().map_err(failed(&self.key.region))
    }

    /// Who is there.
    pub(crate) fn others(&self) -> Vec<u16> {
        self.seat.neighbours().into_keys().map(|id| id.0).collect()
    }

    /// Leaves; the thread ends.
    pub(crate) fn leave(&self) {
        if let Err(error) = self.seat.leave() {
            tracing::warn!(%error, "a peer could not leave");
        }
    }

    /// From now on `device` is told what this member is told; first what there is
    /// already.
    pub(crate) fn listen(&self, device: DeviceHandle) {
        *locked(&self.device) = Some(device);
        self.tell();
    }

    /// Tells the device what is new, as soon as there is one.
    fn tell(&self) {
        let device = locked(&self.device);
        let Some(device) = &*device else {
            return;
        };
        for change in self.seat.changes() {
            if let Some(input) = change.input() {
                device.tell(input);
            } else {
                let region = self.key.region.as_str();
                tracing::info!(region, ?change, "switchboard");
            }
        }
    }
}

impl Fabric for Remote {
    fn bell(&self, peer: u16, vector: u16) -> Option<Arc<EventFd>> {
        self.seat.bell(PeerId(peer), vector)
    }

    fn publish(&self, state: u32) -> Result<(), VmmError> {
        self.seat.publish(state).map_err(failed(&self.key.region))
    }
}
