//! The protocol of the switchboard's Portal socket: names, rights, readiness, the
//! list of peers, and coming back after the switchboard was restarted.
//!
//! Specification: this crate; the Guide's chapter "Switchboard" in words. Carrier:
//! a Unix socket that keeps messages apart (`SOCK_SEQPACKET`), file descriptors
//! beside a message by `SCM_RIGHTS`.
//!
//! ```text
//! message = u16 kind · u16 zero · u32 length of the whole · body
//! ```
//!
//! All numbers are little-endian. A message has at most [`MESSAGE_MAX`] bytes and
//! [`FDS_MAX`] descriptors; which descriptors a message has follows from its body.
//! What does not fit is an error ([`Malformed`]), never cut or guessed.
//!
//! ```text
//!  client                       switchboard
//!    Hello ───────────────────▶
//!          ◀─────────────────── Welcome
//!    List ────────────────────▶
//!          ◀─────────────────── Region … EndOfList
//!    Join or Reattach ────────▶
//!          ◀─────────────────── Admitted, Memory …, peers that are there, Current
//!    Watch ───────────────────▶
//!          ◀─────────────────── Watching, Memory …
//!    Inspect ─────────────────▶
//!          ◀─────────────────── Tree …
//!    Ready, Quiesce, Leave ───▶
//!          ◀─────────────────── Done
//!          ◀─────────────────── Joined, Ready, Quiescing, Gone: as they happen
//! ```
//!
//! A client has one request under way at a time. Each request is answered, with
//! what was asked for or with [`Refusal`].
//!
//! * [`message`]: both directions, to and from bytes.
//! * [`session`]: the client's end.
//! * `server`: the switchboard's end (feature `server`).
//! * `packet`: messages over a Unix socket (feature `packet`); the one part of this
//!   crate that touches descriptors.
//!
//! Distrusted, by the switchboard: clients. Trusted, by clients: the switchboard;
//! what it says is checked all the same, so that another version of it is an error
//! and no surprise. Left out: sockets, descriptors (any `B`), the clock.

#[cfg(feature = "server")]
pub mod guard;
pub mod message;
#[cfg(feature = "packet")]
pub mod packet;
#[cfg(feature = "server")]
pub mod server;
pub mod session;
mod wire;

pub use message::Admitted;
pub use message::Join;
pub use message::Reattach;
pub use message::Refusal;
pub use message::RefusalCode;
pub use message::RegionInfo;
pub use message::Reply;
pub use message::Request;
pub use message::TEXT_MAX;
pub use message::Token;
pub use wire::Malformed;

/// The protocol version that this crate speaks.
pub const VERSION: u16 = 1;

/// Most bytes of a message. A page: no side needs more memory for one.
pub const MESSAGE_MAX: usize = 4096;

/// Most vectors of a peer: Windows' ivshmem driver has no more.
pub const VECTORS_MAX: usize = 64;

/// Most descriptors beside a message: the vectors of a peer twice, in
/// [`Reattach`]. (The kernel passes 253.)
pub const FDS_MAX: usize = 2 * VECTORS_MAX;
