//! Pointers from C: checked for null, nothing more can be checked.
#![expect(unsafe_code, reason = "dereferences pointers that C passed")]

use crate::status::Failed;

/// A handle that this library gave out and that was not closed.
///
/// # Safety
/// Null, or a live handle of this type that no other thread uses.
pub(crate) unsafe fn open<'a, T>(handle: *mut T) -> Result<&'a mut T, Failed> {
    // SAFETY: the caller's promise.
    unsafe { handle.as_mut() }.ok_or_else(|| Failed::argument("the handle is NULL"))
}

/// A value that the caller owns.
///
/// # Safety
/// Null, or a valid value.
pub(crate) unsafe fn value<'a, T>(from: *const T) -> Result<&'a T, Failed> {
    // SAFETY: the caller's promise.
    unsafe { from.as_ref() }.ok_or_else(|| Failed::argument("a pointer to read from is NULL"))
}

/// Writes a result.
///
/// # Safety
/// Null, or writable and aligned for a `T`.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) -> Result<(), Failed> {
    if to.is_null() {
        return Err(Failed::argument("a pointer to write to is NULL"));
    }
    // SAFETY: the caller's promise.
    unsafe { to.write(value) };
    Ok(())
}

/// Gives a new handle out.
///
/// # Safety
/// As [`put`].
pub(crate) unsafe fn give<T>(to: *mut *mut T, value: T) -> Result<(), Failed> {
    if to.is_null() {
        return Err(Failed::argument("a pointer to write to is NULL"));
    }
    // SAFETY: the caller's promise.
    unsafe { put(to, Box::into_raw(Box::new(value))) }
}

/// Takes a handle back; null does nothing.
///
/// # Safety
/// Null, or a live handle that is not used again.
pub(crate) unsafe fn close<T>(handle: *mut T) {
    if !handle.is_null() {
        // SAFETY: made by `give`, closed once.
        drop(unsafe { Box::from_raw(handle) });
    }
}

/// Bytes of the caller's.
///
/// # Safety
/// `size` readable bytes, or `size` is 0.
pub(crate) unsafe fn bytes<'a>(from: *const u8, size: usize) -> Result<&'a [u8], Failed> {
    if size == 0 {
        return Ok(&[]);
    }
    if from.is_null() {
        return Err(Failed::argument("a pointer to read from is NULL"));
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { core::slice::from_raw_parts(from, size) })
}

/// Bytes of the caller's to write.
///
/// # Safety
/// `size` writable, initialised bytes, or `size` is 0.
pub(crate) unsafe fn bytes_mut<'a>(to: *mut u8, size: usize) -> Result<&'a mut [u8], Failed> {
    if size == 0 {
        return Ok(&mut []);
    }
    if to.is_null() {
        return Err(Failed::argument("a pointer to write to is NULL"));
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { core::slice::from_raw_parts_mut(to, size) })
}
