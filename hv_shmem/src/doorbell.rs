//! Doorbells: how one peer gets another one's attention, and how that other one
//! waits for it.
//!
//! [`Doorbell`] is the ringing side, [`Bell`] the hearing side. What lies
//! between is an implementation: an eventfd, a futex word, an ivshmem register
//! that the kernel wires to an interrupt, a SynIC signal. A doorbell carries no
//! data and may be spurious: who hears it looks at its rings.
//!
//! Distrusted: a peer may ring at any rate or never. A ring that the peer never
//! sends delays the waiter to its own timeout, nothing more.

use core::time::Duration;

#[cfg(feature = "std")]
mod eventfd;
#[cfg(feature = "std")]
mod futex;

#[cfg(feature = "std")]
pub use eventfd::EventFd;
#[cfg(feature = "std")]
pub use futex::FutexBell;
#[cfg(feature = "std")]
pub use futex::FutexDoorbell;

/// A doorbell that could not be rung, or a bell that could not be waited on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DoorbellError {
    /// The operating system said no; its error number (`errno`).
    #[error("{what}: {}", in_words(*errno))]
    Os {
        /// The system call.
        what: &'static str,
        /// Its `errno`.
        errno: i32,
    },
    /// Whoever hears this doorbell is gone.
    #[error("nobody hears this doorbell any more")]
    Gone,
}

#[cfg(feature = "std")]
fn in_words(errno: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno)
}

#[cfg(not(feature = "std"))]
fn in_words(errno: i32) -> impl core::fmt::Display {
    core::fmt::from_fn(move |f| write!(f, "error number {errno}"))
}

/// The ringing side.
pub trait Doorbell {
    /// Rings. Does not wait for anybody to hear it.
    ///
    /// # Errors
    /// [`DoorbellError`].
    fn ring(&self) -> Result<(), DoorbellError>;
}

/// How a wait on a [`Bell`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It rang, or may have rung; look at the rings.
    Rang,
    /// The time was up.
    TimedOut,
}

/// The hearing side.
pub trait Bell {
    /// Sleeps until the bell rings or `timeout` has passed; `None` waits for
    /// ever. A ring since the last wait ends it at once.
    ///
    /// # Errors
    /// [`DoorbellError`].
    fn wait(&self, timeout: Option<Duration>) -> Result<Heard, DoorbellError>;
}

impl<D: Doorbell + ?Sized> Doorbell for &D {
    fn ring(&self) -> Result<(), DoorbellError> {
        (**self).ring()
    }
}

impl<B: Bell + ?Sized> Bell for &B {
    fn wait(&self, timeout: Option<Duration>) -> Result<Heard, DoorbellError> {
        (**self).wait(timeout)
    }
}
