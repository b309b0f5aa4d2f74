//! `cargo flowey evidence`: runs the hostility harnesses and writes the Guide's
//! evidence page.
//!
//! # What a harness is
//!
//! A harness is an ordinary `#[test]` of any crate in this workspace whose
//! function name starts with the threat it is about: `t4_span_forgery`. Under
//! plain `cargo test` it runs a count that takes well below a second. It obeys
//! two environment variables:
//!
//! * `PORTAL_CASES`: how many cases to run (decimal);
//! * `PORTAL_SEED`: the seed of its random numbers (decimal).
//!
//! and prints one line on its standard output when it has finished:
//!
//! ```text
//! evidence: {"threat":"T4","what":"span forged in one field","cases":100000,"failures":0,"seed":7}
//! ```
//!
//! # What a negative control is
//!
//! A harness that cannot fail shows nothing. So each has a control: a test named
//! `control_t4_...` that runs the same harness with one guard taken out, expects
//! failures, and prints the same line with the guard's name in `control`:
//!
//! ```text
//! evidence: {"threat":"T4","what":"span forged in one field","control":"generation check","cases":5000,"failures":41,"seed":7}
//! ```
//!
//! A control with no failures is itself a failure, here and in the test. Where a
//! guard can only be taken out of the crate under test, the crate has a cargo
//! feature for that purpose, `negative_control` or one a guard,
//! `negative_control_<guard>`; flowey builds its tests once more with each such
//! feature and runs from there the controls that the builds before did not have.
//! A control is matched with its harness by `threat` and `what`.

mod harness;
mod line;
mod longer;
mod page;
mod targets;
mod threats;
mod turns;

pub(crate) use page::Output;
pub(crate) use page::run;
