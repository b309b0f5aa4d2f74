//! Why the daemon does not start or has to end. What a client does is never a
//! reason: that is a [`crate::Notice`].

use hv_shmem::name::Name;
use rustix::io::Errno;
use std::path::PathBuf;

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A region cannot be made as asked for.
    #[error("region {name}: {reason}")]
    Region {
        /// Its name.
        name: Name,
        /// The value and the limit.
        reason: String,
    },
    /// No region at all.
    #[error("no region to serve: give --region NAME,size=SIZE at least once")]
    NoRegion,
    /// Two regions have the same socket.
    #[error("{} is the socket of two regions", path.display())]
    SocketTwice {
        /// The path.
        path: PathBuf,
    },
    /// The path does not fit into a socket address.
    #[error("{} has {len} bytes; the path of a socket has at most {limit}: choose a shorter one with socket=PATH", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Another process listens there.
    #[error("{} is in use: another server listens there; stop it, or choose another path with socket=PATH", path.display())]
    PathInUse {
        /// The path.
        path: PathBuf,
    },
    /// Something else has this name.
    #[error("{} exists and is no socket; it is left alone: choose another path with socket=PATH", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Another process holds the folder's lock.
    #[error("the folder of {} stays locked by another process, which may be starting a server there", path.display())]
    FolderLocked {
        /// The path of the socket.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("{}: cannot {what}: {errno}{}", path.display(), advice(*errno))]
    Socket {
        /// The path.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// Another daemon serves from this state.
    #[error("{} is the state of another switchboard, which runs: a region has one master; stop it, or choose another --state", path.display())]
    SecondMaster {
        /// The folder.
        path: PathBuf,
    },
    /// The folder of what is kept, or a file in it, cannot be used.
    #[error("{}: cannot {what} it: {errno}{}", path.display(), state_advice(*errno))]
    StateAccess {
        /// The folder, or the file in it.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// What was kept cannot be used.
    #[error("{}: {reason}; to begin anew, remove it", path.display())]
    State {
        /// The folder, or the file in it.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// What a service manager passed does not fit.
    #[error("socket activation: {reason}")]
    Activation {
        /// What is wrong.
        reason: String,
    },
    /// A system call failed.
    #[error("cannot {what}: {errno}{}", advice(*errno))]
    Os {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
}

impl ServeError {
    pub(crate) fn os(what: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Os { what, errno }
    }

    /// Whether what was asked for is wrong, and not this host.
    pub const fn is_input(&self) -> bool {
        matches!(
            self,
            Self::Region { .. } | Self::NoRegion | Self::SocketTwice { .. }
        )
    }
}

fn state_advice(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT => "; make the folder above it first",
        Errno::ACCESS | Errno::PERM | Errno::ROFS => {
            "; this user may not write there: choose another folder with --state"
        }
        Errno::NOSPC | Errno::DQUOT => "; free some room there, or choose another --state",
        _ => "",
    }
}

fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::ACCESS | Errno::PERM => {
            "; this user may not write to the folder: choose another path with socket=PATH"
        }
        Errno::NOENT => "; make the folder first",
        Errno::MFILE => "; raise the limit of open files (ulimit -n)",
        _ => "",
    }
}
