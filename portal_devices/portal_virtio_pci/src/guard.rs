//! The guards that a negative control can take out
//! ([`portal_device::guard`]).

/// A check that keeps a guest from changing what is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A queue that is enabled keeps its size and its addresses.
    ActiveQueue,
    /// Features stay as they were accepted.
    AcceptedFeatures,
    /// Saved registers are such as a driver could have written.
    SavedRegisters,
}
