//! Looking at a running Portal system: what `portal ls`, `inspect` and `top`
//! show, and what the metrics endpoint says.
//!
//! ```text
//!   region file ────┐
//!   switchboard ────┼─ Source ─▶ Sample ─▶ Model ─▶ Picture ─▶ top, lines, metrics
//!   VMM ────────────┘     └─▶ Node ─▶ inspect, ls
//! ```
//!
//! | module | owns |
//! |---|---|
//! | [`source`], [`socket`] | where samples and trees come from |
//! | [`control`] | the socket of a process that is looked at and is no switchboard |
//! | [`sample`] | a system at one moment |
//! | [`model`] | from samples to rates and stalls; pure |
//! | [`table`] | pictures as rows of text, sorted; pure |
//! | [`top`], [`terminal`] | the terminal view: its state and its frame are pure, the terminal is apart |
//! | [`lines`] | the same where standard output is no terminal |
//! | [`metrics`], [`listener`] | the Prometheus text and who may fetch it |
//!
//! Specification: none of its own. The region is that of [`hv_shmem`], the
//! metrics' text that of OpenMetrics 1.0.
//!
//! Distrusted: everything that a region holds and everything that a socket
//! sends. It is counted as it is claimed, never added up without a check, shown
//! only through [`portal_device::inspect::Plain`], and bounded in number before
//! it gets here. An observer writes nowhere and wakes nobody.
//!
//! Left out: doorbells that go from guest to guest inside the kernel. No user
//! space sees those; rings' messages and the kernel's own counts of injected
//! interrupts are what there is instead.

pub mod control;
pub mod lines;
pub mod listener;
pub mod metrics;
pub mod model;
pub mod region_tree;
pub mod sample;
pub mod socket;
pub mod source;
pub mod table;
pub mod terminal;
pub mod top;
