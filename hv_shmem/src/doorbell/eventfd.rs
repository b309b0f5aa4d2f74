//! A doorbell over an eventfd (`eventfd(2)`): one system call to ring, one to
//! wait. KVM takes the same fd as irqfd or ioeventfd.
//!
//! Trust: an eventfd that was passed over a socket is one open file description
//! for both ends. A host peer that holds it can read it (and swallow rings
//! meant for itself), fill it and change its blocking mode. Rings of one that is full
//! change nothing, and are rung; but where its holder has filled it and made it
//! block, [`EventFd::ring`] sleeps until somebody reads: the kernel has no write to an
//! eventfd that never sleeps (KVM's own, of an ioeventfd, does not). Hand each pair
//! of peers its own eventfd, so that a peer can only harm its own, and ring a peer
//! that must not stop the caller from a thread that may be stopped.

use super::Bell;
use super::Doorbell;
use super::DoorbellError;
use super::Heard;
use core::time::Duration;
use rustix::event::EventfdFlags;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::io::ReadWriteFlags;
use std::io::IoSliceMut;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

/// An eventfd, rung with [`Doorbell::ring`] and heard with [`Bell::wait`].
#[derive(Debug)]
pub struct EventFd(OwnedFd);

/// How a sleep in `poll` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Polled {
    Readable,
    TimedOut,
    Interrupted,
}

impl EventFd {
    /// A new eventfd, not rung, closed on exec. It blocks its reader, so that a
    /// wait without a timeout is one system call.
    ///
    /// # Errors
    /// [`DoorbellError::Os`], for example when the process has no fds left.
    pub fn new() -> Result<Self, DoorbellError> {
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC)
            .map(Self)
            .map_err(|e| os("eventfd", e))
    }

    /// Another handle on the same eventfd.
    ///
    /// # Errors
    /// [`DoorbellError::Os`].
    pub fn try_clone(&self) -> Result<Self, DoorbellError> {
        rustix::io::fcntl_dupfd_cloexec(&self.0, 0)
            .map(Self)
            .map_err(|e| os("fcntl", e))
    }

    /// Takes what has rung since the last time, if anything has. Never sleeps,
    /// also when another reader comes in between.
    ///
    /// # Errors
    /// [`DoorbellError::Os`].
    pub fn take(&self) -> Result<bool, DoorbellError> {
        let mut count = [0; 8];
        let mut bufs = [IoSliceMut::new(&mut count)];
        // An eventfd has no position: -1 says so.
        match rustix::io::preadv2(&self.0, &mut bufs, u64::MAX, ReadWriteFlags::NOWAIT) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(e) => Err(os("preadv2 of an eventfd", e)),
        }
    }

    /// Sleeps until readable, the time is up, or a signal has been handled.
    fn poll(&self, timeout: Option<Duration>) -> Result<Polled, DoorbellError> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let timeout = timeout.map(|t| Timespec {
            tv_sec: t.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(0) => Ok(Polled::TimedOut),
            Ok(_) => Ok(Polled::Readable),
            Err(Errno::INTR) => Ok(Polled::Interrupted),
            Err(e) => Err(os("poll", e)),
        }
    }
}

impl From<OwnedFd> for EventFd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<EventFd> for OwnedFd {
    fn from(bell: EventFd) -> Self {
        bell.0
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Doorbell for EventFd {
    #[inline]
    fn ring(&self) -> Result<(), DoorbellError> {
        match rustix::io::write(&self.0, &1u64.to_ne_bytes()) {
            // "Would block": the counter is full, so it has been rung.
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(e) => Err(os("write to an eventfd", e)),
        }
    }
}

impl Bell for EventFd {
    #[inline]
    fn wait(&self, timeout: Option<Duration>) -> Result<Heard, DoorbellError> {
        if timeout.is_some() {
            match self.poll(timeout)? {
                Polled::TimedOut => return Ok(Heard::TimedOut),
                // Nothing is readable: a read would sleep without a limit.
                Polled::Interrupted => return Ok(Heard::Rang),
                // Another reader may have been faster: spurious, not a sleep.
                Polled::Readable => return self.take().map(|_| Heard::Rang),
            }
        }
        let mut count = [0; 8];
        match rustix::io::read(&self.0, &mut count) {
            Ok(_) | Err(Errno::INTR) => Ok(Heard::Rang),
            // Somebody made it non-blocking: sleep in poll, then take the ring
            // (which another reader may have taken meanwhile: spurious).
            Err(Errno::AGAIN) => {
                let heard = match self.poll(timeout)? {
                    Polled::TimedOut => Heard::TimedOut,
                    Polled::Interrupted | Polled::Readable => Heard::Rang,
                };
                match rustix::io::read(&self.0, &mut count) {
                    Ok(_) | Err(Errno::INTR | Errno::AGAIN) => Ok(heard),
                    Err(e) => Err(os("read from an eventfd", e)),
                }
            }
            Err(e) => Err(os("read from an eventfd", e)),
        }
    }
}

fn os(what: &'static str, e: Errno) -> DoorbellError {
    DoorbellError::Os {
        what,
        errno: e.raw_os_error(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_never_sleeps_and_takes_all_rings_at_once() {
        let bell = EventFd::new().unwrap();
        assert!(!bell.take().unwrap());
        bell.ring().unwrap();
        bell.ring().unwrap();
        assert!(bell.take().unwrap());
        assert!(!bell.take().unwrap());
        let heard = bell.wait(Some(Duration::ZERO)).unwrap();
        assert_eq!(heard, Heard::TimedOut);
    }
}
