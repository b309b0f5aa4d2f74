//! What runs inside a partition: the WARP kernel and its agents
pub mod warp;
