//! What another party wrote, before and after it is checked.
//!
//! Bytes of the host pages and of other peers' sections are claims. They are
//! copied once into private memory, compared with what this side knows to be
//! possible, and only then used. [`BadClaim`] is the answer to a claim that is
//! not possible: it names what was claimed, where it lies, the value and the
//! limit, and it is a plain value, so that the one who finds it can count it,
//! log it at a bounded rate, and leave that peer alone.

/// A value that its writer cannot have meant: out of bounds, of an unknown
/// kind, or contradicting another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at {at:#x} is {value:#x}; the limit is {limit:#x}")]
pub struct BadClaim {
    /// The field.
    pub what: &'static str,
    /// Its offset in bytes from the start of the part it lies in.
    pub at: u64,
    /// What stood there.
    pub value: u64,
    /// The largest (or only) value that was possible.
    pub limit: u64,
}

impl BadClaim {
    /// Passes `value` on when it is at most `limit`.
    pub(crate) const fn at_most(
        what: &'static str,
        at: u64,
        value: u64,
        limit: u64,
    ) -> Result<u64, Self> {
        if value <= limit {
            return Ok(value);
        }
        Err(Self {
            what,
            at,
            value,
            limit,
        })
    }

    /// Passes `value` on when it is `only`.
    pub(crate) const fn exactly(
        what: &'static str,
        at: u64,
        value: u64,
        only: u64,
    ) -> Result<u64, Self> {
        if value == only {
            return Ok(value);
        }
        Err(Self {
            what,
            at,
            value,
            limit: only,
        })
    }
}

/// Reads little-endian fields out of a private copy. Offsets are constants of
/// this crate; a field outside the copy is a bug here, found by every test.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    pub(crate) fn bytes<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.0[at as usize..at as usize + N]);
        out
    }

    pub(crate) fn u8(&self, at: u64) -> u8 {
        self.0[at as usize]
    }

    pub(crate) fn u16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    pub(crate) fn u32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    pub(crate) fn u64(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }
}

/// Puts a field into a record that is about to be written.
pub(crate) fn put(to: &mut [u8], at: u64, field: &[u8]) {
    to[at as usize..at as usize + field.len()].copy_from_slice(field);
}
