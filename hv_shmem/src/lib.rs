//! Shared-memory regions in which every byte has one writer: layout, peer
//! table, arena, spans, rings, waiting and doorbells.
#![cfg_attr(not(feature = "std"), no_std)]

#[cfg(feature = "std")]
extern crate alloc;

pub mod arena;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod backing;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod check;
pub mod claim;
pub mod directory;
pub mod doorbell;
pub mod guard;
pub mod header;
pub mod host_pages;
pub mod layout;
pub mod mem;
pub mod name;
pub mod own_section;
pub mod peers;
pub mod region;
pub mod resolve;
pub mod ring;
pub mod section;
mod sequenced;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod show;
pub mod span;
#[cfg(all(feature = "std", target_os = "linux"))]
mod survey;
mod violation;
pub mod wait;

pub use violation::Violation;
