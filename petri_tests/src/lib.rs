//! System tests in real guests.
//!
//! [`lab`] gives every machine, with or without a `/dev/kvm` of its own, a Linux
//! machine that has one: QEMU's TCG with emulated SVM. The tests are in `tests/`.

pub mod lab;
