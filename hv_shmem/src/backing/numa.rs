//! Memory from one NUMA node: `mbind` before the first touch.
#![expect(unsafe_code, reason = "mbind has no safe wrapper")]

use super::BackingError;
use std::io;

/// `MPOL_BIND`: only these nodes. From the kernel's mempolicy.h.
const BIND: libc::c_long = 2;
/// Nodes that the mask below can name.
const MAX_NODES: u32 = 1024;

/// Binds a mapping of shared memory to a node; for memfds the policy is the
/// memory's and holds in every process.
pub(super) fn bind(base: *mut u8, len: u64, node: u32) -> Result<(), BackingError> {
    let failed = |source| BackingError::Io {
        what: "bind the region to its NUMA node",
        path: None,
        source,
    };
    if node >= MAX_NODES {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    let mut mask = [0u64; (MAX_NODES / 64) as usize];
    mask[(node / 64) as usize] |= 1 << (node % 64);
    // SAFETY: the range is one mapping that the caller just made and owns; the
    // mask outlives the call. The kernel reads one bit less than it is told.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            base,
            len,
            BIND,
            mask.as_ptr(),
            u64::from(MAX_NODES) + 1,
            0,
        )
    };
    if ret != 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    Ok(())
}
