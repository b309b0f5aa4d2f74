//! What a thread of the VMM may still do once it runs guests: [`Sandbox`].
//!
//! Two fences, put up by each thread for itself before its first guest
//! instruction: Landlock takes away the file system and the network, seccomp
//! every system call that the thread's work does not need. Both last as long as
//! the thread. They assume that a guest has taken the thread over; what it has
//! then is the memory of this process and the descriptors that are open.
//!
//! By default a forbidden call fails with `EPERM`, so that neighbours in the same
//! process go on; [`Denied::Kill`] ends the process instead. Code that a program
//! hands to a partition (console callbacks, devices of its own) runs inside the
//! fences too.

mod landlock;
mod seccomp;

use crate::VmmError;

/// Which fences a partition's threads put up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sandbox {
    /// System-call filter.
    pub seccomp: bool,
    /// No new files, no new connections.
    pub landlock: bool,
    /// What a forbidden system call comes to.
    pub denied: Denied,
}

/// What a forbidden system call comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Denied {
    /// It fails with `EPERM`.
    #[default]
    Refuse,
    /// The whole process ends (`SIGSYS`), every partition with it.
    Kill,
}

impl Default for Sandbox {
    /// Everything on, forbidden calls refused.
    fn default() -> Self {
        Self {
            seccomp: true,
            landlock: true,
            denied: Denied::Refuse,
        }
    }
}

impl Sandbox {
    /// No fences. Whoever starts partitions so says so aloud; the log does too.
    pub const OFF: Self = Self {
        seccomp: false,
        landlock: false,
        denied: Denied::Refuse,
    };

    /// Whether something is missing from the default.
    pub fn is_weakened(&self) -> bool {
        !self.seccomp || !self.landlock
    }
}

/// What a thread is for, and so what it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadKind {
    /// Runs a vCPU and answers its accesses.
    Vcpu,
    /// Ends runs at their deadlines.
    Deadline,
    /// Tells devices of events that no kernel path delivers.
    Listener,
    /// Makes storage durable and tells the device.
    Flusher,
}

/// Puts the fences up around the calling thread, for good.
///
/// # Errors
/// [`VmmError::Sandbox`]; the thread must not run a guest then. A kernel
/// without Landlock is no error: the filter alone refuses opening files.
pub(crate) fn enter(kind: ThreadKind, sandbox: Sandbox) -> Result<(), VmmError> {
    if sandbox.landlock {
        landlock::restrict()?;
    }
    if sandbox.seccomp {
        seccomp::apply(kind, sandbox.denied)?;
    }
    Ok(())
}
