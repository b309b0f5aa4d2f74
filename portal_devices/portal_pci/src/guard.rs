//! The guards that a negative control can take out
//! ([`portal_device::guard`]).

/// A check that keeps a guest or a saved state within what is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Read-only bits of configuration space keep their value.
    ReadOnlyBits,
    /// Saved read-only bits are compared.
    SavedReadOnlyBits,
    /// Saved pending bits exist.
    SavedPendingBits,
}
