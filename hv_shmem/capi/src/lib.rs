//! `hv_shmem` for C.
//!
//! A process attaches to a region (a file, or a memfd that it was handed), joins
//! as the peer that the host admitted, allocates spans in its own section, and
//! sends and receives them through Submit rings. The header is
//! `hv_shmem/include/hv_shmem.h`.
//!
//! Rules, all of them in the header too: handles come from this library and are
//! closed once; a handle is used by one thread at a time; every function gives a
//! [`PortalStatus`], and [`portal_last_error`] the sentence behind it. Nothing
//! that another peer writes makes a function crash or read outside the region.
//!
//! Distrusted: other peers. Trusted: the calling program, as C has to be; null
//! pointers are errors all the same. Left out: doorbells (poll, or wait on an
//! eventfd of one's own), in-place and bulk rings.

mod handle;
mod region;
mod ring;
mod span;
mod status;

pub use region::PortalPeer;
pub use region::PortalRegion;
pub use region::PortalRegionInfo;
pub use region::portal_attach;
pub use region::portal_attach_fd;
pub use region::portal_beat;
pub use region::portal_detach;
pub use region::portal_info;
pub use region::portal_join;
pub use region::portal_leave;
pub use region::portal_peer_epoch;
pub use ring::PortalMessage;
pub use ring::PortalReceiver;
pub use ring::PortalSender;
pub use ring::portal_accept_ring;
pub use ring::portal_close_receiver;
pub use ring::portal_close_sender;
pub use ring::portal_create_ring;
pub use ring::portal_receive;
pub use ring::portal_send;
pub use span::PortalSpan;
pub use span::portal_alloc;
pub use span::portal_free;
pub use span::portal_give_back;
pub use span::portal_grant;
pub use span::portal_read;
pub use span::portal_take_returns;
pub use span::portal_write;
pub use status::PortalStatus;
pub use status::portal_last_error;
