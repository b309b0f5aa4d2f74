//! The guards that a negative control can take out
//! ([`portal_device::guard`]), on the thread that the daemon runs on.

/// A check that keeps a client from taking more than its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// What is no message ends a client of the Portal socket.
    Broke,
    /// The oldest visitor makes way.
    Displaced,
    /// Time to read is limited at a compatibility socket.
    Overdue,
    /// One fd is kept to turn clients away with.
    Spare,
    /// A byte from a client of a compatibility socket ends it.
    Spoke,
    /// A message at the Portal socket waits for limited time.
    Stall,
}
