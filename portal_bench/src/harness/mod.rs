//! How a figure is taken on a machine that will not sit still.
//!
//! Pinned vCPUs still move between physical cores, so every sample lies between
//! two calibrations (C2, [`calibrate`]), samples of the things compared
//! alternate within a round ([`contest`]), a round whose calibrations disagree
//! is dropped ([`stats`]), and what is judged is the median of the rounds kept.

pub(crate) mod calibrate;
pub(crate) mod child;
pub(crate) mod clock;
pub(crate) mod contest;
pub(crate) mod machine;
pub(crate) mod pair;
pub(crate) mod rtt;
pub(crate) mod stats;
