//! Regions in Linux user space: find one by name, map it, join it, ring and wait.
//!
//! The same rings, spans and waiting as on the host (`hv_shmem`); what this crate adds
//! is the way there in a guest with stock drivers, and a [`Link`] between two
//! processes that may come, die and come again in any order.
//!
//! ```text
//!   scan ──▶ find by name or UUID ──▶ Attachment::join ──▶ Link::connect / accept
//!   PCI, DAX, files                   memory, doorbells     rings to one peer
//!   a switchboard's socket ─────────▶ Attachment::join_served
//! ```
//!
//! Specifications: QEMU's ivshmem, revision 1; Jailhouse's ivshmem draft, version 2;
//! the Guide's "Region format". Distrusted: every other peer; trusted: this guest's
//! kernel, its VMM, and the host's pages of the region. Left out: the host's side
//! (`portal_host`, `portal_serve`).
//!
//! ```no_run
//! use hv_shmem::section::SectionConfig;
//! use portal_guest_linux::{Attachment, BarAccess, BellKind, JoinOptions, Wanted, find, scan};
//!
//! # fn main() -> Result<(), portal_guest_linux::GuestError> {
//! let found = find(scan(BarAccess::Auto), Wanted::parse("lake"))?;
//! let mut me = Attachment::join(&found.carrier, &JoinOptions {
//!     peer: None,
//!     bell: BellKind::Auto,
//!     access: BarAccess::Auto,
//!     section: |bytes| SectionConfig { directory: 16, ring_bytes: bytes / 2 },
//! })?;
//! println!("peer {} of {}", me.me(), me.region().header().name.as_str());
//! // me.own.create_ring(..), me.own.accept_ring(..), me.doorbell(peer), me.bell
//! # Ok(())
//! # }
//! ```

mod attachment;
mod bar;
mod bell;
mod carrier;
mod discovery;
mod error;
mod igb_uio;
mod link;
pub mod pci;
mod registers;
mod uio;
mod vfio;

pub use attachment::Attachment;
pub use attachment::JoinOptions;
pub use attachment::RING_VECTOR;
pub use attachment::observe;
pub use attachment::served_regions;
pub use bar::MappedBar;
pub use bar::Width;
pub use bell::BellKind;
pub use bell::GuestBell;
pub use bell::GuestDoorbell;
pub use bell::POLL;
pub use carrier::BarAccess;
pub use carrier::Carrier;
pub use discovery::Found;
pub use discovery::Wanted;
pub use discovery::find;
pub use discovery::look;
pub use discovery::scan;
pub use discovery::scan_below;
pub use error::Fault;
pub use error::GuestError;
pub use error::Loss;
pub use igb_uio::UioMsixBell;
pub use link::FIRST_TAG;
pub use link::LINK_PAYLOAD;
pub use link::LINK_RING;
pub use link::Link;
pub use link::LinkOptions;
pub use link::Message;
pub use link::Target;
pub use registers::RegisterDoorbell;
pub use registers::Registers;
pub use uio::IntxBell;
pub use vfio::MsixBell;
