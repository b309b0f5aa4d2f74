//! Shared-memory regions in which every byte has one writer: layout, peer
//! table, arena, spans, rings, waiting and doorbells.
//!
//! # Contents
//!
//! | to | look at |
//! |---|---|
//! | get memory, and map it with the rights of one peer | `backing` (feature `std`, Linux) |
//! | own a region: format it, admit peers, declare them dead | [`host_pages`] |
//! | be a peer: attach, join, make and accept rings | [`region`], [`own_section`] |
//! | send and receive | [`ring`] |
//! | allocate, name memory by a span, resolve one | [`arena`], [`span`], [`resolve`] |
//! | wait, and wake who waits | [`mod@wait`], [`doorbell`] |
//! | read what lies where | [`layout`], [`header`], [`peers`], [`section`], [`directory`] |
//! | look at a region without being a peer, or repair one | `show`, `check` (feature `std`, Linux) |
//! | run all of it over other memory | [`mem`] |
//!
//! # Example
//!
//! Two peers of one region; the memory is the heap's here, and a mapping elsewhere.
//!
//! ```
//! # #[cfg(feature = "std")] {
//! use hv_shmem::host_pages::HostPages;
//! use hv_shmem::layout::{PeerId, RegionSpec};
//! use hv_shmem::mem::HeapMem;
//! use hv_shmem::name::Name;
//! use hv_shmem::own_section::RingSpec;
//! use hv_shmem::peers::{PeerKind, Rights};
//! use hv_shmem::region::{AttachOptions, PortalRegion};
//! use hv_shmem::ring::{InlineReceiver, InlineSender, RingKind, RingLayout};
//! use hv_shmem::section::SectionConfig;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let spec = RegionSpec::new(Name::new("lake")?, 1 << 20, 2);
//! let mem = HeapMem::new(spec.size);
//! let mut host = HostPages::format(mem.clone(), &spec, uuid::Uuid::from_u128(1))?;
//! let mut join = |id, name| {
//!     let kind = PeerKind::HostProcess;
//!     let epoch = host.admit(id, Name::new(name)?, kind, Rights::ALL, 1)?;
//!     let region = PortalRegion::attach(mem.clone(), AttachOptions::default())?;
//!     let config = SectionConfig { directory: 8, ring_bytes: 16 << 10 };
//!     Ok::<_, Box<dyn std::error::Error>>(region.join(id, epoch, config)?)
//! };
//! let (mut a, mut b) = (join(PeerId(0), "a")?, join(PeerId(1), "b")?);
//!
//! let ring = RingSpec {
//!     id: 1,
//!     to: b.me(),
//!     kind: RingKind::Stream,
//!     layout: RingLayout::Inline,
//!     slot_size: 64,
//!     slots: 16,
//! };
//! let mut sender = InlineSender::new(a.create_ring(ring)?)?;
//! let mut receiver = InlineReceiver::new(b.accept_ring(a.me(), 1)?)?;
//! sender.try_send(b"hello")?;
//! let mut message = [0; 56];
//! assert!(receiver.try_recv(&mut message)?.is_some());
//! assert_eq!(&message[..5], b"hello");
//! # Ok(())
//! # }
//! # main().expect("it works");
//! # }
//! ```
//!
//! # Trust, and what is left out
//!
//! Specification: the Guide's "Region format". Whatever another peer writes is a claim:
//! it is read once, checked, and then used; a violation poisons that ring for this side
//! and is a typed error. Trusted: the host's pages, after a check. Left out: devices,
//! VMMs, sockets.
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `std` (default) | backings, mappings, eventfd and futex doorbells; without it `no_std` and no allocation |
//! | `serde` | what `show` gives, as serde values |
//! | `loom` | loom's memory and atomics in the place of real ones, for models |
//! | `negative_control` | tests may take a guard out ([`guard`]); never for anything that maps a region |
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
