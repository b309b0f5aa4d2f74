// Copyright (c) Microsoft Corporation.
// Licensed under the MIT License.

//! Saving and restoring.
//!
//! The function's own state is bytes with a version; what they mean is the
//! core's. The region's contents and its other peers are not part of it.

use crate::PortalPciDevice;
use crate::line::Line;
use hv_shmem::layout::PeerId;
use portal_client::seat::Identity;
use portal_device::Saved;
use uuid::Uuid;
use vmcore::save_restore::RestoreError;
use vmcore::save_restore::SaveError;
use vmcore::save_restore::SaveRestore;

mod state {
    use mesh::payload::Protobuf;
    use vmcore::save_restore::SavedStateRoot;

    /// The function, and whose place in which region it had.
    #[derive(Protobuf, SavedStateRoot)]
    #[mesh(package = "portal.pci")]
    pub struct SavedState {
        /// The kind of function: a tag of the core.
        #[mesh(1)]
        pub device: u32,
        /// Version of the layout of `bytes`.
        #[mesh(2)]
        pub version: u32,
        /// The function's state.
        #[mesh(3)]
        pub bytes: Vec<u8>,
        /// Identity of the region; zeros for a file.
        #[mesh(4)]
        pub region: [u8; 16],
        /// Which of its peers this was.
        #[mesh(5)]
        pub peer: u16,
    }
}

impl SaveRestore for PortalPciDevice {
    type SavedState = state::SavedState;

    fn save(&mut self) -> Result<Self::SavedState, SaveError> {
        self.collect_pending();
        let identity = self.seat.identity();
        match self.function.save() {
            Saved::State(saved) => Ok(state::SavedState {
                device: saved.device,
                version: saved.version,
                bytes: saved.bytes,
                region: identity.region.into_bytes(),
                peer: identity.peer.0,
            }),
            Saved::Busy => Err(SaveError::Other(anyhow::anyhow!(
                "the device has work under way"
            ))),
            Saved::Never(why) => Err(SaveError::Other(anyhow::anyhow!(why))),
        }
    }

    fn restore(&mut self, state: Self::SavedState) -> Result<(), RestoreError> {
        let state::SavedState {
            device,
            version,
            bytes,
            region,
            peer,
        } = state;
        // What the other peers know of this one is of another time.
        let identity = Identity {
            region: Uuid::from_bytes(region),
            peer: PeerId(peer),
        };
        self.seat
            .resume(&identity)
            .map_err(|error| RestoreError::Other(error.into()))?;
        let saved = portal_device::SavedState {
            device,
            version,
            bytes,
        };
        self.effects.clear();
        self.function
            .restore(&saved, &mut self.effects)
            .map_err(|error| RestoreError::InvalidSavedState(error.into()))?;
        self.carry_out();
        // A doorbell that was under way when the state was taken may be lost.
        self.binding.lines.iter().for_each(Line::ring_again);
        Ok(())
    }
}
