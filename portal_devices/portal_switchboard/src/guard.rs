//! The guards that a negative control can take out
//! ([`portal_device::guard`]).

/// A check that keeps a peer within its quota or its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A key of an earlier life has no effect.
    Epoch,
    /// The vectors of a peer that is gone are given back.
    VectorsReturn,
}
