//! Shared-memory regions in which every byte has one writer: layout, peer
//! table, arena, spans, rings, waiting and doorbells.
#![cfg_attr(not(feature = "std"), no_std)]

pub mod mem;
pub mod span;
