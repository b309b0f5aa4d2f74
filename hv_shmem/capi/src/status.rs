//! What a call came to: a number, and the sentence behind it.
#![expect(unsafe_code, reason = "writes the sentence into the caller's buffer")]

use std::cell::RefCell;
use std::ffi::c_char;
use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

/// What a call came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum PortalStatus {
    /// Done.
    Ok = 0,
    /// Nothing there yet (no message, no such ring, no peer): ask again.
    Empty = 1,
    /// No space just now (ring full): ask again.
    Full = 2,
    /// A null pointer, text that is no UTF-8, or a number out of range.
    Argument = 3,
    /// The region or its backing cannot be used.
    Region = 4,
    /// The arena has no room, or the span is not this peer's.
    Arena = 5,
    /// The span does not resolve: stale, out of bounds, not granted.
    Span = 6,
    /// The other peer broke the rules of the ring or the directory.
    Violation = 7,
    /// Another failure of this side.
    Internal = 8,
}

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A failure with its sentence.
#[derive(Debug)]
pub(crate) struct Failed(pub(crate) PortalStatus, pub(crate) String);

impl Failed {
    pub(crate) fn new(status: PortalStatus, what: impl Display) -> Self {
        Self(status, what.to_string())
    }

    pub(crate) fn argument(what: impl Display) -> Self {
        Self::new(PortalStatus::Argument, what)
    }
}

/// Runs a call's body: a failure's sentence is kept for the calling thread, a
/// panic (a bug of ours) does not reach C.
pub(crate) fn call(body: impl FnOnce() -> Result<(), Failed>) -> PortalStatus {
    let failed = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return PortalStatus::Ok,
        Ok(Err(failed)) => failed,
        Err(_) => Failed::new(PortalStatus::Internal, "a bug in hv_shmem"),
    };
    LAST.with_borrow_mut(|last| *last = failed.1);
    failed.0
}

/// Copies the sentence of this thread's last failure to `text`, cut to `size`
/// bytes with the closing NUL. Gives the length of the whole sentence in bytes,
/// without NUL. `text` may be NULL when `size` is 0.
///
/// # Safety
/// `text` points to `size` writable bytes, or `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_last_error(text: *mut c_char, size: usize) -> usize {
    LAST.with_borrow(|last| {
        if !text.is_null() && size > 0 {
            let len = last.len().min(size - 1);
            // SAFETY: at most `size` bytes, which the caller vouches for.
            unsafe {
                text.cast::<u8>()
                    .copy_from_nonoverlapping(last.as_ptr(), len);
                text.add(len).write(0);
            }
        }
        last.len()
    })
}
