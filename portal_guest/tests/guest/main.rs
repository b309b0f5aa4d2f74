//! The kernel and the agents in real partitions. Without a usable /dev/kvm each
//! test says so on one line and passes.

mod agents;
mod hostile;
mod kernel;
mod many;
mod pair;
