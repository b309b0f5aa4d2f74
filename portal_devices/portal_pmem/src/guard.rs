//! The guards that a negative control can take out
//! ([`portal_device::guard`]).

/// What keeps a guest from being told that something is durable which is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A request waits for a flush that began after it came.
    NextFlush,
    /// A failure is never followed by a success.
    Sticky,
    /// A flush ends once, with its own token.
    Token,
}
