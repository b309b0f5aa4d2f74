//! Tests of virtio-pmem as a guest and a binding see it.

mod behaviour;
mod durable;
