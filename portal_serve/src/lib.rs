//! `portal serve`: the switchboard as a daemon. It makes regions and serves each
//! on a compatibility socket, where stock QEMU (`-device ivshmem-doorbell`) and
//! host programs join.
//!
//! Specification: the protocol is [`portal_ivshmem_server`]'s; this crate carries
//! its messages over Unix sockets. Socket activation: `sd_listen_fds(3)`.
//!
//! Distrusted: whoever connects. A client can lose its own place and take at most
//! the region's places for a limited time; it cannot stop the daemon, block it,
//! make it grow, or harm other clients' memory size. Who may connect is decided
//! by the permissions of the socket's path.
//!
//! Left out: the Portal socket (names, rights, readiness, re-attach). Everybody
//! who joins here is a peer with all rights in a flat region, and stays in state
//! joining in the peer table, since the protocol has no word for ready.

mod activation;
mod config;
mod daemon;
mod error;
mod notice;
mod region;
mod socket;
pub mod stop;
mod wire;

pub use config::RegionConfig;
pub use config::VECTORS_MAX;
pub use daemon::Daemon;
pub use error::ServeError;
pub use notice::Notice;
pub use portal_ivshmem_server::Departures;
pub use portal_ivshmem_server::Limits;
pub use portal_ivshmem_server::Lost;
pub use socket::PATH_MAX;

use std::path::PathBuf;

/// Where the socket of a region is when nobody says: `NAME.sock` in the folder
/// `portal` of the user's or the system's runtime folder.
pub fn default_socket(region: &str) -> PathBuf {
    let folder = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => PathBuf::from("/run"),
    };
    folder.join("portal").join(format!("{region}.sock"))
}
