//! The switchboard's end of the protocol against clients that do anything (T16),
//! without sockets: as a property, and as a harness that counts.

mod messages;
mod properties;
mod rig;
mod t16;
