//! Tests of ivshmem v2 as a guest and a binding see it.

#[path = "../v1/rig/binding.rs"]
mod binding;
#[path = "../v1/rig/evidence.rs"]
mod evidence;
mod properties;
#[path = "../v1/rig/random.rs"]
mod random;
mod registers;
mod rig;
mod t17;
mod t18;
