//! Tests of virtio over PCI as a driver and a binding see it.

#[path = "../../../portal_ivshmem/tests/v1/rig/evidence.rs"]
mod evidence;
#[path = "../../../portal_ivshmem/tests/v1/rig/random.rs"]
mod random;
mod registers;
mod rig;
mod t17;
mod t18;
