//! The host's side of regions and partitions that share one process: what the
//! command line, the benchmarks, the system tests and the examples start from.
//!
//! * [`Controller`] is the host as peer 0 of a region: it sends commands to the
//!   agents of the built-in guest, takes their answers and reads their results.
//! * [`Controller::stream`] sends bytes to an agent as spans.
//! * [`Party`] puts a region, the host and partitions with the built-in guest
//!   together.
//!
//! Specification: none but Portal's own (`portal_agent_abi`).
//!
//! Distrusted: agents. Each wait has a limit; what they write is checked by
//! `hv_shmem`, and a ring that an agent broke is an error of that agent alone.
//! Left out: what commands mean, and printing.

mod answer;
mod controller;
mod error;
mod party;
mod stream;

pub use answer::Answer;
pub use answer::TickCounts;
pub use controller::Controller;
pub use controller::Seat;
pub use error::HostError;
pub use party::Guest;
pub use party::GuestSpec;
pub use party::Party;
pub use stream::StreamOptions;
pub use stream::Streamed;
