//! The host's side of regions and partitions that share one process: what the
//! command line, the benchmarks, the system tests and the examples start from.
//!
//! * [`Controller`] is the host as peer 0 of a region: it sends commands to the
//!   agents of the built-in guest, takes their answers and reads their results.
//! * [`Controller::stream`] sends bytes to an agent as spans.
//!
//! Specification: none but Portal's own (`portal_agent_abi`).
//!
//! Distrusted: agents. Each wait has a limit; what they write is checked by
//! `hv_shmem`, and a ring that an agent broke is an error of that agent alone.
//! Left out: what commands mean, and printing.

mod answer;
mod controller;
mod error;
mod stream;

pub use answer::Answer;
pub use answer::TickCounts;
pub use controller::Controller;
pub use controller::Seat;
pub use error::HostError;
pub use stream::StreamOptions;
pub use stream::Streamed;
