//! `portal serve`: the switchboard as a daemon. It makes regions and serves them on
//! the Portal socket, where VMMs and host programs join by name, and each on a
//! compatibility socket, where stock QEMU joins (`-device ivshmem-doorbell`). Peers
//! of both kinds share ids, doorbells and memory.
//!
//! Specification: the protocols are [`portal_protocol`]'s and
//! [`portal_ivshmem_server`]'s; this crate carries their messages over Unix sockets.
//! Socket activation: `sd_listen_fds(3)`.
//!
//! Distrusted: whoever connects. A client can lose its own place and take at most
//! the region's places for a limited time; it cannot stop the daemon, block it,
//! make it grow, or harm other clients' memory size. Who may connect is decided
//! by the permissions of the socket's path.
//!
//! Left out: who a client is beyond that. Who joins by a compatibility socket is a
//! peer with all rights, and stays in state joining in the peer table, since that
//! protocol has no word for ready.

mod activation;
mod config;
mod daemon;
mod error;
pub mod guard;
mod kept;
mod notice;
mod portal;
mod prepare;
mod qemu;
mod region;
mod socket;
mod state;
pub mod stop;
mod store;
mod wire;

pub use config::RegionConfig;
pub use config::VECTORS_MAX;
pub use daemon::Daemon;
pub use error::ServeError;
pub use notice::Notice;
pub use portal_ivshmem_server::Departures;
pub use portal_ivshmem_server::Limits;
pub use portal_protocol::server::Limits as ClientLimits;
pub use socket::Listener;
pub use socket::PATH_MAX;

use std::path::PathBuf;

/// Where the Portal socket is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PortalSocket {
    /// `portal.sock` in the default folder. When it cannot be made there, the
    /// regions are served without it and a [`Notice`] says so.
    #[default]
    Default,
    /// Here, or there is no daemon.
    At(PathBuf),
    /// Nowhere.
    None,
}

/// How to serve.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What clients of the compatibility sockets may take.
    pub limits: Limits,
    /// What clients of the Portal socket may take.
    pub clients: ClientLimits,
    /// Where the Portal socket is.
    pub portal: PortalSocket,
    /// A folder for what is to outlive this process; nothing does when there is
    /// none. On a file system in memory.
    pub state: Option<PathBuf>,
}

/// Where the socket of a region is when nobody says: `NAME.sock` in the folder
/// `portal` of the user's or the system's runtime folder.
pub fn default_socket(region: &str) -> PathBuf {
    let folder = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => PathBuf::from("/run"),
    };
    folder.join("portal").join(format!("{region}.sock"))
}
