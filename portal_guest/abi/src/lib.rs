//! What the built-in agents and whoever drives them agree on: ring numbers,
//! commands, answers, the report and the histogram.
//!
//! The host controller is peer 0. It sends [`Command`]s as `SubmitEntry` on ring
//! [`COMMAND_RING`] to each agent, one at a time; the agent answers with a
//! `CompleteEntry` on ring [`ANSWER_RING`] that has the command's `user_data`, a
//! [`Status`], and names the agent's *results span*, in which the [`report`] and
//! the [`histogram`] lie until the next command. A pair of agents does a job
//! together when each gets its half (ping and pong, source and sink).
//!
//! | ring id | kind, layout | from, to |
//! |---|---|---|
//! | 1 | Submit, in-line | host to agent |
//! | 2 | Complete, in-line | agent to host |
//! | 16 | Stream, in-line, 64-byte slots | ping to pong, and back |
//! | 17 | Upcall, in-place, 64-byte slots | in-place ping to pong |
//! | 18 | Submit, in-line | source to sink: spans |
//! | 2^32 - 1 | the arena's return ring, bulk | sink to source: spans that it is done with |
//!
//! Doorbell vectors of an agent: 0 for rings, 1 for the doorbell commands.
//!
//! Source: Portal's own. Distrusted: both sides decode what the other wrote with
//! checks; every bit pattern is an error or a value. Left out: how they meet (the
//! region's directory), and custom agents, which agree on their own numbers.
#![no_std]

pub mod command;
pub mod histogram;
pub mod report;
pub mod status;
pub mod stream;

pub use command::Command;
pub use status::Status;

use hv_shmem::layout::PeerId;

/// The peer that drives the agents.
pub const HOST: PeerId = PeerId(0);
/// Commands, host to agent.
pub const COMMAND_RING: u32 = 1;
/// Answers, agent to host.
pub const ANSWER_RING: u32 = 2;
/// Ping and pong, one ring each way.
pub const PING_RING: u32 = 16;
/// In-place calls.
pub const IN_PLACE_RING: u32 = 17;
/// Spans, source to sink.
pub const STREAM_RING: u32 = 18;
/// Slots of rings 1 and 2.
pub const CONTROL_SLOTS: u32 = 16;
/// Slots of rings 16 and 17.
pub const PING_SLOTS: u32 = 64;
/// Slots of ring 18 and of its return ring: the most spans on their way at once.
pub const STREAM_SLOTS: u32 = 64;
/// Vector that says "look at your rings".
pub const RING_VECTOR: u16 = 0;
/// Vector of the doorbell commands.
pub const DOORBELL_VECTOR: u16 = 1;
