//! Tests of ivshmem v1 as a guest and a binding see it.

mod properties;
mod registers;
mod rig;
mod t17;
mod t18;
