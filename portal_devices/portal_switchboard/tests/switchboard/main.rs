//! Tests of the switchboard as its users see it.

mod behaviour;
mod board;
mod properties;
mod t5;
