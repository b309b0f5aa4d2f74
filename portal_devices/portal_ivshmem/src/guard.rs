//! The guards that a negative control can take out
//! ([`portal_device::guard`]).

/// A check that keeps a guest within what it may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A BAR that is not decoded is not reached.
    Decoded,
    /// A doorbell reaches known vectors only.
    KnownVector,
}
