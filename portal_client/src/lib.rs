//! A peer of a region that `portal serve` serves: for host programs and VMMs.
//!
//! Synchronous, one connection a peer, no threads of its own. What a program waits
//! for is an fd ([`Peer::fd`]), what it missed it is told later.
//!
//! Specification: [`portal_protocol`]. Trusted: the switchboard, which owns the
//! region. Distrusted: the other peers; what they write is checked by `hv_shmem`.
//! Left out: what rings mean, and who reads the peer's bells.
//!
//! # Example
//!
//! ```no_run
//! use hv_shmem::section::SectionConfig;
//! use portal_client::{Connection, JoinOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut peer = Connection::open("/run/portal/portal.sock")?
//!     .join(&JoinOptions::host_process("lake", "my-program")?.vectors(1))?;
//! let own = peer.section(SectionConfig {
//!     directory: 8,
//!     ring_bytes: 32 << 10,
//! })?; // ready for rings and spans
//! println!("peer {} in epoch {}", peer.id(), peer.epoch());
//! while let Some(event) = peer.wait(None)? {
//!     println!("{event:?}");
//! }
//! # drop(own);
//! # Ok(())
//! # }
//! ```

mod connection;
mod error;
mod peer;
pub mod seat;

pub use connection::Connection;
pub use error::ClientError;
pub use peer::Bells;
pub use peer::Event;
pub use peer::JoinOptions;
pub use peer::Peer;
pub use portal_protocol::Refusal;
pub use portal_protocol::RefusalCode;
pub use portal_protocol::RegionInfo;
pub use portal_protocol::session;
pub use portal_protocol::session::Neighbour;
pub use portal_protocol::session::Phase;
pub use seat::Seat;

use std::path::PathBuf;

/// Where the Portal socket is when nobody says: `portal.sock` in the folder `portal`
/// of the user's or the system's runtime folder.
pub fn default_socket() -> PathBuf {
    let folder = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => PathBuf::from("/run"),
    };
    folder.join("portal").join("portal.sock")
}
