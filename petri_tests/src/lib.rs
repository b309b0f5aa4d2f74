//! System tests in real guests.
//!
//! [`lab`] gives every machine, with or without a `/dev/kvm` of its own, a Linux
//! machine that has one: QEMU's TCG with emulated SVM. [`scenario`] has the tests,
//! each written once; [`vmm`] is what they run with, as a parameter; [`matrix`] is the
//! result. `tests/matrix.rs` runs them all as ordinary tests, those that need nesting
//! in one L1 ([`session`]).

pub mod ended;
pub mod guest;
pub mod lab;
mod left;
pub mod matrix;
pub mod numbers;
pub mod process;
pub mod programs;
pub mod region;
pub mod scenario;
pub mod session;
pub mod vmm;
