//! What happens when the pages behind a mapping go away: only that region is
//! lost, not the process.
//!
//! A file that somebody truncates turns every access behind its new end into
//! SIGBUS. With the guard installed, such a signal at an address of one of our
//! mappings puts a private zero page there, counts it, and lets the thread go
//! on. The ring or span code then reads zeros, which are a claim like any
//! other, and [`Mapping::check`](super::Mapping::check) tells the owner that the
//! region is lost. A SIGBUS anywhere else goes to the handler that was there
//! before, or kills the process as it would have.
//!
//! The guard is a choice of the process ([`install`]), because signal handlers
//! are process-wide. A seccomp filter has to allow `mmap` for it.
//!
//! The handler only looks at a static table of atomics and calls `mmap`: both
//! are safe in a signal handler (signal-safety(7); `mmap` is a bare system call).
#![expect(unsafe_code, reason = "a signal handler and the mmap in it")]

use super::BackingError;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// Most live mappings of a process: 16 for each of 64 partitions. The handler
/// looks through all of them.
pub const MAX_MAPPINGS: usize = 1024;

/// One watched range of addresses. `start` is 0 while the slot is free, 1 while
/// it is being filled.
struct Slot {
    start: AtomicUsize,
    len: AtomicUsize,
    shift: AtomicU32,
    lost: AtomicU64,
}

static TABLE: [Slot; MAX_MAPPINGS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        shift: AtomicU32::new(0),
        lost: AtomicU64::new(0),
    }
}; MAX_MAPPINGS];

/// The handler that was there before ours.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// A slot of the table, free again when dropped.
#[derive(Debug)]
pub(super) struct Watch(usize);

impl Watch {
    /// Pages that went away so far.
    pub(super) fn pages_lost(&self) -> u64 {
        TABLE[self.0].lost.load(Ordering::Acquire)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        TABLE[self.0].start.store(0, Ordering::Release);
    }
}

/// Puts a mapping of pages of `1 << shift` bytes into the table.
pub(super) fn watch(start: usize, len: usize, shift: u32) -> Result<Watch, BackingError> {
    for (index, slot) in TABLE.iter().enumerate() {
        let claimed = slot
            .start
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
        if claimed.is_ok() {
            slot.len.store(len, Ordering::Relaxed);
            slot.shift.store(shift, Ordering::Relaxed);
            slot.lost.store(0, Ordering::Relaxed);
            // Pairs with the acquire load in the handler.
            slot.start.store(start, Ordering::Release);
            return Ok(Watch(index));
        }
    }
    Err(BackingError::TooManyMappings {
        limit: MAX_MAPPINGS,
    })
}

/// Installs the guard for the whole process. Calling it again does nothing.
///
/// # Errors
/// What `sigaction` said.
pub fn install() -> io::Result<()> {
    if BEFORE.get().is_some() {
        return Ok(());
    }
    // SAFETY: an all-zero sigaction is a valid value (default action).
    let mut before: libc::sigaction = unsafe { core::mem::zeroed() };
    // SAFETY: reads the current action into a value of ours.
    if unsafe { libc::sigaction(libc::SIGBUS, core::ptr::null(), &raw mut before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if BEFORE.set(before).is_err() {
        // Another thread is at it.
        return Ok(());
    }
    // SAFETY: as above.
    let mut ours: libc::sigaction = unsafe { core::mem::zeroed() };
    ours.sa_sigaction = on_bus_error as *const () as usize;
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for and does
    // only what a handler may.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const ours, core::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let address = unsafe { (*info).si_addr() } as usize;
    // SAFETY: the calling thread's own errno.
    let errno = unsafe { *libc::__errno_location() };
    let mended = mend(address);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    if !mended {
        pass_on(signal, info, context);
    }
}

/// Puts a zero page at an address of ours. False when it is not ours.
fn mend(address: usize) -> bool {
    for slot in &TABLE {
        // Pairs with the release store in `watch`.
        let start = slot.start.load(Ordering::Acquire);
        if start <= 1 || address < start {
            continue;
        }
        if address - start >= slot.len.load(Ordering::Relaxed) {
            continue;
        }
        let page = 1usize << slot.shift.load(Ordering::Relaxed);
        let at = address & !(page - 1);
        // Counted first, so that whoever reads the zeros can learn why.
        slot.lost.fetch_add(1, Ordering::AcqRel);
        // SAFETY: one page inside a mapping that this crate owns and that lost
        // what was behind this page; its thread is stopped in this handler.
        let mapped = unsafe {
            libc::mmap(
                at as *mut libc::c_void,
                page,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        return mapped != libc::MAP_FAILED;
    }
    false
}

/// Hands a signal that is not ours to the handler before ours; without one, the
/// default action comes back and the access happens again.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let before = BEFORE.get().filter(|b| {
        b.sa_sigaction != libc::SIG_DFL
            && b.sa_sigaction != libc::SIG_IGN
            && b.sa_flags & libc::SA_SIGINFO != 0
    });
    match before {
        Some(b) => {
            // SAFETY: installed by somebody with SA_SIGINFO, so it has this
            // signature; it gets what the kernel gave us.
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                unsafe { core::mem::transmute(b.sa_sigaction) };
            handler(signal, info, context);
        }
        None => {
            // SAFETY: the default action; safe in a handler.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}
