//! A doorbell over a futex word in the region (`futex(2)`): for peers on one
//! host that share memory and pass no fds.
//!
//! The word lies in the *ringer's* line ([`FUTEX_WORD`]), so that it has one
//! writer: ringing adds 1 to it and wakes whoever sleeps on it; the waiter, who
//! may have it mapped read-only, sleeps while it has not changed. The u64 there
//! is a count; the kernel looks at its low half.
//!
//! Distrusted: the ringer's word. Any value of it only ends a wait or does not.

use super::Bell;
use super::Doorbell;
use super::DoorbellError;
use super::Heard;
use crate::mem::Addressed;
use crate::mem::Ordering;
use crate::mem::SharedMem;
use crate::ring::FUTEX_WORD;
use crate::ring::PlaceError;
use core::sync::atomic::AtomicU32;
use core::time::Duration;
use rustix::io::Errno;
use rustix::thread::futex;

/// The ringing side; owns the word.
#[derive(Debug, Clone)]
pub struct FutexDoorbell<M> {
    line: M,
}

impl<M: Addressed> FutexDoorbell<M> {
    /// Rings through the word in this peer's own `line` (producer's or
    /// consumer's).
    ///
    /// # Errors
    /// [`PlaceError::TooShort`].
    pub fn new(line: M) -> Result<Self, PlaceError> {
        check(&line)?;
        Ok(Self { line })
    }
}

impl<M: Addressed> Doorbell for FutexDoorbell<M> {
    fn ring(&self) -> Result<(), DoorbellError> {
        // Release: pairs with the acquire load in `FutexBell::wait`.
        self.line.fetch_add_u64(FUTEX_WORD, 1, Ordering::Release);
        let word = self.line.atomic_u32(FUTEX_WORD);
        match futex::wake(word, futex::Flags::empty(), 1) {
            Ok(_) => Ok(()),
            Err(e) => Err(os("futex wake", e)),
        }
    }
}

/// The hearing side; only reads the word.
#[derive(Debug)]
pub struct FutexBell<M> {
    line: M,
    seen: AtomicU32,
}

impl<M: Addressed> FutexBell<M> {
    /// Hears rings through the word in the other peer's `line`, from now on.
    ///
    /// # Errors
    /// [`PlaceError::TooShort`].
    pub fn new(line: M) -> Result<Self, PlaceError> {
        check(&line)?;
        let seen = line.load_u32(FUTEX_WORD, Ordering::Acquire);
        Ok(Self {
            line,
            seen: AtomicU32::new(seen),
        })
    }

    /// Whether it has rung since the last time.
    fn take(&self) -> Option<u32> {
        // Acquire: pairs with the release add in `FutexDoorbell::ring`.
        let now = self.line.load_u32(FUTEX_WORD, Ordering::Acquire);
        // Relaxed: private to this side.
        let before = self.seen.swap(now, Ordering::Relaxed);
        (now == before).then_some(before)
    }
}

impl<M: Addressed> Bell for FutexBell<M> {
    fn wait(&self, timeout: Option<Duration>) -> Result<Heard, DoorbellError> {
        let Some(seen) = self.take() else {
            return Ok(Heard::Rang);
        };
        let timeout = timeout.map(|t| futex::Timespec {
            tv_sec: t.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        let word = self.line.atomic_u32(FUTEX_WORD);
        match futex::wait(word, futex::Flags::empty(), seen, timeout.as_ref()) {
            // Woken, changed before the sleep, or interrupted: look.
            Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {
                self.take();
                Ok(Heard::Rang)
            }
            Err(Errno::TIMEDOUT) => Ok(Heard::TimedOut),
            Err(e) => Err(os("futex wait", e)),
        }
    }
}

fn check<M: SharedMem>(line: &M) -> Result<(), PlaceError> {
    let (found, needed) = (line.len(), FUTEX_WORD + 8);
    if found < needed {
        return Err(PlaceError::TooShort {
            what: "line with a futex word",
            found,
            needed,
        });
    }
    Ok(())
}

fn os(what: &'static str, e: Errno) -> DoorbellError {
    DoorbellError::Os {
        what,
        errno: e.raw_os_error(),
    }
}
