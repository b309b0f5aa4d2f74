//! Allocating, filling, lending, reading and returning spans.
#![expect(unsafe_code, reason = "the C calling convention")]

use crate::handle;
use crate::region::PortalPeer;
use crate::status::Failed;
use crate::status::PortalStatus;
use crate::status::call;
use hv_shmem::arena::ArenaError;
use hv_shmem::arena::ReturnError;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::OutOfBounds;
use hv_shmem::region::RingError;
use hv_shmem::ring::SendError;
use hv_shmem::span::Access;
use hv_shmem::span::SpanError;
use std::collections::hash_map;

/// Slots of the ring by which spans go home, made when the first one does.
const RETURN_SLOTS: u32 = 256;

/// The name of some bytes in a region: what travels between peers. Only
/// resolving it (`portal_read`) gives access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct PortalSpan {
    /// Low 32 bits of the region's UUID.
    pub region: u32,
    /// Peer that owns the bytes; 0xffff for the common section.
    pub section: u16,
    /// 0.
    pub flags: u16,
    /// First byte, from the start of the section.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// Generation of the block.
    pub generation: u32,
    /// Epoch of the owner.
    pub epoch: u32,
}

impl From<hv_shmem::span::PortalSpan> for PortalSpan {
    fn from(s: hv_shmem::span::PortalSpan) -> Self {
        Self {
            region: s.region,
            section: s.section,
            flags: s.flags,
            offset: s.offset,
            length: s.length,
            generation: s.generation,
            epoch: s.epoch,
        }
    }
}

impl From<PortalSpan> for hv_shmem::span::PortalSpan {
    fn from(s: PortalSpan) -> Self {
        Self {
            region: s.region,
            section: s.section,
            flags: s.flags,
            offset: s.offset,
            length: s.length,
            generation: s.generation,
            epoch: s.epoch,
        }
    }
}

impl From<ArenaError> for Failed {
    fn from(e: ArenaError) -> Self {
        Self::new(PortalStatus::Arena, e)
    }
}

impl From<SpanError> for Failed {
    fn from(e: SpanError) -> Self {
        Self::new(PortalStatus::Span, e)
    }
}

impl From<OutOfBounds> for Failed {
    fn from(e: OutOfBounds) -> Self {
        Self::new(PortalStatus::Span, e)
    }
}

/// Allocates `length` zero bytes in the peer's own section.
///
/// # Safety
/// `peer` is a live handle; `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_alloc(
    peer: *mut PortalPeer,
    length: u64,
    out: *mut PortalSpan,
) -> PortalStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let peer = unsafe { handle::open(peer) }?;
        let span = peer.arena.alloc(length)?;
        // SAFETY: the caller's promise.
        unsafe { handle::put(out, span.into()) }
    })
}

/// Frees a span of the peer's own that is not lent.
///
/// # Safety
/// `peer` is a live handle; `span` is readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_free(
    peer: *mut PortalPeer,
    span: *const PortalSpan,
) -> PortalStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let (peer, span) = unsafe { (handle::open(peer)?, handle::value(span)?) };
        Ok(peer.arena.free(&(*span).into())?)
    })
}

/// Lends a span of the peer's own to peer `to`, who may read it from now on and
/// gives it back with `portal_give_back`.
///
/// # Safety
/// `peer` is a live handle; `span` is readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_grant(
    peer: *mut PortalPeer,
    span: *const PortalSpan,
    to: u16,
) -> PortalStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let (peer, span) = unsafe { (handle::open(peer)?, handle::value(span)?) };
        Ok(peer.arena.grant(&(*span).into(), PeerId(to))?)
    })
}

/// Copies `size` bytes from `data` to byte `at` of a span of the peer's own.
///
/// # Safety
/// `peer` is a live handle; `span` and `size` bytes at `data` are readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_write(
    peer: *mut PortalPeer,
    span: *const PortalSpan,
    at: u64,
    data: *const u8,
    size: usize,
) -> PortalStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let (peer, span) = unsafe { (handle::open(peer)?, handle::value(span)?) };
        // SAFETY: the caller's promise.
        let data = unsafe { handle::bytes(data, size) }?;
        Ok(peer.arena.view(&(*span).into())?.write(at, data)?)
    })
}

/// Copies `size` bytes from byte `at` of a span, the peer's own or one lent to
/// it, to `data`. The span is checked each time: owner alive, epoch, bounds,
/// generation, grant.
///
/// # Safety
/// `peer` is a live handle; `span` is readable, `size` bytes at `data` writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_read(
    peer: *mut PortalPeer,
    span: *const PortalSpan,
    at: u64,
    data: *mut u8,
    size: usize,
) -> PortalStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let (peer, span) = unsafe { (handle::open(peer)?, handle::value(span)?) };
        // SAFETY: the caller's promise.
        let data = unsafe { handle::bytes_mut(data, size) }?;
        let view = peer.resolver.resolve(&(*span).into(), Access::Read)?;
        Ok(view.read(at, data)?)
    })
}

/// Gives a span that was lent to this peer back to its owner.
///
/// # Safety
/// `peer` is a live handle; `span` is readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_give_back(
    peer: *mut PortalPeer,
    span: *const PortalSpan,
) -> PortalStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let (peer, span) = unsafe { (handle::open(peer)?, handle::value(span)?) };
        let owner = PeerId(span.section);
        let sender = match peer.returns.entry(owner.0) {
            hash_map::Entry::Occupied(there) => there.into_mut(),
            hash_map::Entry::Vacant(place) => {
                place.insert(peer.own.create_return_ring(owner, RETURN_SLOTS)?)
            }
        };
        let mut given = sender.give_back(&(*span).into());
        if let Err(ReturnError::Ring(SendError::Full)) = given
            && let Some(line) = peer.own.cursor(owner, hv_shmem::arena::RETURN_RING)?
        {
            sender
                .ring()
                .set_cursor(line)
                .map_err(|e| Failed::new(PortalStatus::Internal, e))?;
            given = sender.give_back(&(*span).into());
        }
        given.map_err(|e| {
            let status = match e {
                ReturnError::Ring(SendError::Full) => PortalStatus::Full,
                ReturnError::Ring(SendError::Poisoned(_)) => PortalStatus::Violation,
                _ => PortalStatus::Span,
            };
            Failed::new(status, e)
        })?;
        // C callers poll: nobody is waiting for a doorbell of ours.
        let _ = sender.flush();
        Ok(())
    })
}

/// Takes back what peer `from` has given back, and frees it; `count` gets the
/// number of spans (may be NULL).
///
/// # Safety
/// `peer` is a live handle; `count` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_take_returns(
    peer: *mut PortalPeer,
    from: u16,
    count: *mut u64,
) -> PortalStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let peer = unsafe { handle::open(peer) }?;
        let taken = match peer.returned.entry(from) {
            hash_map::Entry::Occupied(there) => Some(there.into_mut()),
            hash_map::Entry::Vacant(place) => {
                match peer.own.accept_return_ring(PeerId(from)) {
                    Ok(ring) => Some(place.insert(ring)),
                    // Nothing has been given back yet.
                    Err(RingError::NotThere { .. }) => None,
                    Err(e) => return Err(e.into()),
                }
            }
        };
        let spans = match taken {
            Some(ring) => {
                let returned = peer
                    .arena
                    .take_returns(ring)
                    .map_err(|e| Failed::new(PortalStatus::Violation, e))?;
                // The sender learns of the space; it polls.
                let _ = ring.ring().flush();
                returned.spans
            }
            None => 0,
        };
        if count.is_null() {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { handle::put(count, spans) }
    })
}
