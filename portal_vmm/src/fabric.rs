//! The doorbell fabric as a device's binding sees it: one event for each vector
//! that a peer receives on.
//!
//! A sender's ioeventfd and the receiver's irqfd name the same event, so that a
//! doorbell goes from guest to guest inside the kernel. Who makes the events
//! (a switchboard, or [`Bells`] for partitions of one process) is not the VMM's
//! business. Events are made by trusted code; which of them a guest can ring is
//! decided by which peers its device was told about.

use crate::VmmError;
use hv_shmem::doorbell::EventFd;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;

/// Finds events.
pub trait Fabric: Send + Sync {
    /// The event on which `peer` hears `vector`; `None` when there is no such
    /// peer or vector.
    fn bell(&self, peer: u16, vector: u16) -> Option<Arc<EventFd>>;

    /// Writes the own word of the region's state table (ivshmem v2).
    ///
    /// # Errors
    /// [`VmmError::Region`] when the one who owns the table refuses.
    fn publish(&self, state: u32) -> Result<(), VmmError>;
}

/// A fabric for peers of one process.
#[derive(Debug, Default)]
pub struct Bells {
    peers: RwLock<BTreeMap<u16, Vec<Arc<EventFd>>>>,
}

impl Bells {
    /// No peers.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Makes `vectors` new events for `peer`, in place of any that it had.
    ///
    /// # Errors
    /// [`VmmError::Hypervisor`] when the process has no descriptors left.
    pub fn add(&self, peer: u16, vectors: u16) -> Result<(), VmmError> {
        let mut events = Vec::new();
        for _ in 0..vectors {
            let event = EventFd::new().map_err(|_| VmmError::Hypervisor {
                call: "eventfd",
                source: std::io::Error::last_os_error(),
            })?;
            events.push(Arc::new(event));
        }
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.insert(peer, events);
        Ok(())
    }

    /// Forgets a peer.
    pub fn remove(&self, peer: u16) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.remove(&peer);
    }
}

impl Fabric for Bells {
    fn bell(&self, peer: u16, vector: u16) -> Option<Arc<EventFd>> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.get(&peer)?.get(usize::from(vector)).cloned()
    }

    fn publish(&self, _: u32) -> Result<(), VmmError> {
        Err(VmmError::Region {
            region: String::new(),
            reason: "these bells belong to no region with a state table".to_owned(),
        })
    }
}
