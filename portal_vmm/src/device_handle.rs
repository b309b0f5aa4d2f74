//! A hold on one device of a partition, for whoever tells it about peers (a
//! switchboard) or looks at it (an operator).

use crate::partition::Shared;
use portal_device::Input;
use portal_device::inspect::Node;
use std::sync::Weak;

/// One device. Does not keep the partition alive; when that is gone, nothing
/// happens any more.
#[derive(Clone)]
pub struct DeviceHandle {
    shared: Weak<Shared>,
    index: usize,
    name: String,
}

impl DeviceHandle {
    pub(crate) fn new(shared: Weak<Shared>, index: usize, name: String) -> Self {
        Self {
            shared,
            index,
            name,
        }
    }

    /// Name of the device.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A peer has come and hears `vectors` vectors; its events are in the fabric.
    pub fn peer_joined(&self, peer: u16, vectors: u16) {
        self.tell(Input::PeerJoined { peer, vectors });
    }

    /// A peer has formatted its section and answers.
    pub fn peer_ready(&self, peer: u16) {
        self.tell(Input::PeerReady { peer });
    }

    /// A peer will leave and starts nothing new.
    pub fn peer_quiescing(&self, peer: u16) {
        self.tell(Input::PeerQuiescing { peer });
    }

    /// A peer is gone. Its doorbells are unrouted before this returns.
    pub fn peer_gone(&self, peer: u16) {
        self.tell(Input::PeerGone { peer });
    }

    /// What an operator may want to see; `None` when the partition is gone.
    pub fn inspect(&self) -> Option<Node> {
        let shared = self.shared.upgrade()?;
        let binding = shared.platform.device(self.index)?;
        Some(binding.device().inspect())
    }

    pub(crate) fn tell(&self, input: Input) {
        if let Some(shared) = self.shared.upgrade()
            && let Err(cause) = shared.platform.tell(self.index, input)
        {
            // The device stops its partition; no vCPU was at fault.
            shared.stopped_by(None, None, cause);
        }
    }
}

impl std::fmt::Debug for DeviceHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceHandle({})", self.name)
    }
}
