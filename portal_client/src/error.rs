//! Why a client has no answer, or is no peer any more.

use hv_shmem::backing::BackingError;
use hv_shmem::layout::PeerId;
use hv_shmem::region::RegionError;
use portal_protocol::Malformed;
use portal_protocol::Refusal;
use rustix::io::Errno;
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// Why something did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens there.
    #[error("cannot connect to {}: {errno}{}", path.display(), advice(*errno))]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// The switchboard says no; nothing has changed.
    #[error("the switchboard refuses: {0}")]
    Refused(Refusal),
    /// The connection ended. A peer comes back with [`crate::Peer::reattach`].
    #[error("the connection to the switchboard ended")]
    Lost,
    /// The switchboard did not answer in time.
    #[error("the switchboard did not answer within {} ms", limit.as_millis())]
    TooSlow {
        /// How long it had.
        limit: Duration,
    },
    /// What came is no message of this protocol.
    #[error("the switchboard sent what this client does not understand: {0}")]
    Malformed(#[from] Malformed),
    /// A message that does not belong here.
    #[error("the switchboard answered with {0}, which is no answer to the request")]
    Unexpected(String),
    /// File descriptors did not arrive.
    #[error("file descriptors did not arrive; raise this process's limit (ulimit -n)")]
    FilesMissing,
    /// The region's memory.
    #[error(transparent)]
    Memory(#[from] BackingError),
    /// The region.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The region of this name is another one than before.
    #[error(
        "region {region} is another one now (UUID {now}, before {before}): what this peer had \
         there is gone; it can only begin without it"
    )]
    OtherRegion {
        /// Its name.
        region: String,
        /// The UUID that it had.
        before: Uuid,
        /// The UUID that it has.
        now: Uuid,
    },
    /// Somebody else's state.
    #[error(
        "the state is that of peer {before} of region {region}, and this is peer {now}: ask for \
         id {before}, and free it if another peer has it"
    )]
    OtherPeer {
        /// The region's name.
        region: String,
        /// Whose state it is.
        before: PeerId,
        /// Who this is.
        now: PeerId,
    },
    /// The seat was left, and has no next life.
    #[error("this peer has left")]
    Left,
    /// An event could not be made.
    #[error("cannot make an event: {0}")]
    NoEvent(String),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    NoThread(#[source] std::io::Error),
    /// A system call failed.
    #[error("cannot {what}: {errno}")]
    Os {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
}

// Its text is in this error's: as a source it would be said twice.
impl From<Refusal> for ClientError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl ClientError {
    pub(crate) fn os(what: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Os { what, errno }
    }

    /// Whether trying again later can help: there is no switchboard now.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. } | Self::Lost | Self::TooSlow { .. }
        )
    }
}

fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT | Errno::CONNREFUSED => "; is portal serve running?",
        Errno::ACCESS | Errno::PERM => "; this user may not write to the socket",
        Errno::PROTOTYPE => {
            "; this is a region's compatibility socket for QEMU: give the Portal socket"
        }
        _ => "",
    }
}
