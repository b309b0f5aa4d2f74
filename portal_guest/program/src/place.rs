//! From the command line to a place in a region.

use crate::cli::Place;
use crate::exit::Failure;
use crate::exit::Kind;
use hv_shmem::layout::PeerId;
use hv_shmem::section::SectionConfig;
use hv_shmem::wait::WaitMode;
use portal_guest_linux::Attachment;
use portal_guest_linux::Carrier;
use portal_guest_linux::Found;
use portal_guest_linux::JoinOptions;
use portal_guest_linux::LinkOptions;
use portal_guest_linux::Wanted;
use portal_guest_linux::find;
use portal_guest_linux::look;
use portal_guest_linux::scan;
use serde_json::Value;
use serde_json::json;
use std::path::Path;

/// Entries of the own ring directory: a few rings each way with one peer, and what
/// earlier links of the same process left.
const DIRECTORY: u32 = 16;
/// Most ring storage taken, in bytes: rings above a few MiB only miss the caches.
const MOST_RINGS: u64 = 8 << 20;
/// Smallest arena (`hv_shmem::arena::MIN_ARENA`) and what lies before ring storage.
const BESIDE_RINGS: u64 = hv_shmem::arena::MIN_ARENA + 256 + 64 * DIRECTORY as u64;

impl Place {
    /// Everything that may hold a region, as far as the command line leaves it open.
    pub(crate) fn look(&self) -> Result<Vec<Found>, Failure> {
        let access = self.bar.access();
        let Some(at) = &self.at else {
            return Ok(scan(access));
        };
        if at.contains('/') {
            return Ok(vec![look(Carrier::at(Path::new(at))?, access)]);
        }
        let mut found = scan(access);
        found.retain(|f| f.carrier.to_string() == *at);
        Ok(found)
    }

    /// Which region.
    pub(crate) fn wanted(&self) -> Wanted<'_> {
        self.region.as_deref().map_or(Wanted::Any, Wanted::parse)
    }

    /// Takes this machine's place in it.
    pub(crate) fn join(&self) -> Result<Attachment, Failure> {
        let options = JoinOptions {
            peer: self.peer.map(PeerId),
            bell: self.bell.kind(),
            access: self.bar.access(),
            section: |bytes| SectionConfig {
                directory: DIRECTORY,
                ring_bytes: bytes.saturating_sub(BESIDE_RINGS).min(MOST_RINGS) / 128 * 128,
            },
        };
        // The parser does not check arguments of several levels against each other.
        let usage = |what: &str| Err(Failure::new(Kind::Usage, what));
        match (&self.switchboard, &self.at, &self.name) {
            (Some(_), Some(_), _) => return usage("--at is for guests, without --switchboard"),
            (None, _, Some(_)) => return usage("--name is for --switchboard"),
            _ => {}
        }
        let at = match &self.switchboard {
            Some(socket) => {
                let name = format!("portal-guest-{}", std::process::id());
                let name = self.name.as_deref().unwrap_or(&name);
                Attachment::join_served(socket, self.wanted(), name, &options)?
            }
            None => {
                let found = find(self.look()?, self.wanted())?;
                Attachment::join(&found.carrier, &options)?
            }
        };
        for error in &at.given_up {
            eprintln!("warning: {error}");
        }
        Ok(at)
    }

    /// How to meet and wait, for a service.
    pub(crate) fn link(&self, service: u32, mode: WaitMode) -> LinkOptions {
        LinkOptions {
            service,
            patience: self.patience,
            stall: self.stall,
            mode,
        }
    }
}

/// What every report says about the place.
pub(crate) fn describe(at: &Attachment) -> Value {
    let header = at.region().header();
    json!({
        "region": header.name.as_str(),
        "uuid": header.uuid.to_string(),
        "peer": at.me().0,
        "epoch": at.own.epoch(),
        "bell": at.bell.to_string(),
        "through": at.through,
    })
}
