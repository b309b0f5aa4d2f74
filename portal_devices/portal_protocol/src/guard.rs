//! The guards that a negative control can take out
//! ([`portal_device::guard`]).

/// A check that keeps a client to its own place and its own turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A peer gets the sections of others for reading only.
    Sections,
    /// Who comes back shows the token that it was given.
    Token,
    /// A request before the answer to the last one ends a client.
    Turn,
}
