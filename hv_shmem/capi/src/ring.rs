//! Sending and receiving through Submit rings.
#![expect(unsafe_code, reason = "the C calling convention")]

use crate::handle;
use crate::region::PortalPeer;
use crate::span::PortalSpan;
use crate::status::Failed;
use crate::status::PortalStatus;
use crate::status::call;
use hv_shmem::backing::MappedMem;
use hv_shmem::layout::PeerId;
use hv_shmem::own_section::RingSpec;
use hv_shmem::region::PortalRegion;
use hv_shmem::ring::ENTRY_SLOT;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::SendError;
use hv_shmem::ring::SubmitEntry;
use hv_shmem::ring::SubmitReceiver;
use hv_shmem::ring::SubmitSender;

/// A request with a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct PortalMessage {
    /// What to do; the two peers agree on the numbers.
    pub opcode: u32,
    /// Variations of it.
    pub flags: u32,
    /// Comes back in an answer, by custom.
    pub user_data: u64,
    /// The bytes that the request is about; all zeros for none.
    pub span: PortalSpan,
    /// An immediate argument.
    pub arg: u64,
}

/// The sending end of a ring.
#[derive(Debug)]
pub struct PortalSender {
    ring: SubmitSender<MappedMem>,
    region: PortalRegion<MappedMem>,
    from: PeerId,
    to: PeerId,
    id: u32,
    has_cursor: bool,
}

/// The receiving end of a ring.
#[derive(Debug)]
pub struct PortalReceiver {
    ring: SubmitReceiver<MappedMem>,
}

/// Makes ring `id` from this peer to peer `to`, of `slots` messages (a power of
/// two). A ring of the same id is replaced: its receiver accepts it again.
///
/// # Safety
/// `peer` is a live handle; `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_create_ring(
    peer: *mut PortalPeer,
    to: u16,
    id: u32,
    slots: u32,
    out: *mut *mut PortalSender,
) -> PortalStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let peer = unsafe { handle::open(peer) }?;
        let to = PeerId(to);
        let place = peer.own.create_ring(RingSpec {
            id,
            to,
            kind: RingKind::Submit,
            layout: RingLayout::Inline,
            slot_size: ENTRY_SLOT,
            slots,
        })?;
        let sender = PortalSender {
            ring: SubmitSender::new(place).map_err(|e| Failed::new(PortalStatus::Argument, e))?,
            region: peer.own.region().clone(),
            from: peer.own.me(),
            to,
            id,
            has_cursor: false,
        };
        // SAFETY: the caller's promise.
        unsafe { handle::give(out, sender) }
    })
}

/// Sends a message. `PORTAL_STATUS_FULL` when the receiver has not made room.
///
/// # Safety
/// `sender` is a live handle; `message` is readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_send(
    sender: *mut PortalSender,
    message: *const PortalMessage,
) -> PortalStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let (sender, m) = unsafe { (handle::open(sender)?, handle::value(message)?) };
        let entry = SubmitEntry {
            opcode: m.opcode,
            flags: m.flags,
            user_data: m.user_data,
            span: m.span.into(),
            arg: m.arg,
        };
        let mut sent = sender.ring.try_send(&entry);
        if sent == Err(SendError::Full) && sender.find_cursor()? {
            sent = sender.ring.try_send(&entry);
        }
        sent.map_err(|e| {
            let status = match e {
                SendError::Full => PortalStatus::Full,
                SendError::Poisoned(_) => PortalStatus::Violation,
                SendError::TooLong { .. } => PortalStatus::Argument,
            };
            Failed::new(status, e)
        })?;
        // C callers poll: nobody is waiting for a doorbell of ours.
        let _ = sender.ring.flush();
        Ok(())
    })
}

impl PortalSender {
    /// Looks for the receiver's cursor, once the ring has filled up without it.
    fn find_cursor(&mut self) -> Result<bool, Failed> {
        if self.has_cursor {
            return Ok(false);
        }
        let found = self.region.find_ring(self.from, self.to, self.id)?;
        let Some(line) = found.and_then(|place| place.cursor) else {
            return Ok(false);
        };
        self.ring
            .set_cursor(line)
            .map_err(|e| Failed::new(PortalStatus::Internal, e))?;
        self.has_cursor = true;
        Ok(true)
    }
}

/// Closes the sending end. Messages in the ring stay until it is replaced. NULL
/// does nothing.
///
/// # Safety
/// `sender` came from `portal_create_ring` and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_close_sender(sender: *mut PortalSender) {
    // SAFETY: the caller's promise.
    unsafe { handle::close(sender) }
}

/// Accepts ring `id` that peer `from` sends on. `PORTAL_STATUS_EMPTY` when it
/// has not made it yet.
///
/// # Safety
/// `peer` is a live handle; `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_accept_ring(
    peer: *mut PortalPeer,
    from: u16,
    id: u32,
    out: *mut *mut PortalReceiver,
) -> PortalStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let peer = unsafe { handle::open(peer) }?;
        let place = peer.own.accept_ring(PeerId(from), id)?;
        let ring =
            SubmitReceiver::new(place).map_err(|e| Failed::new(PortalStatus::Violation, e))?;
        // SAFETY: the caller's promise.
        unsafe { handle::give(out, PortalReceiver { ring }) }
    })
}

/// Takes the next message. `PORTAL_STATUS_EMPTY` when there is none.
///
/// # Safety
/// `receiver` is a live handle; `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_receive(
    receiver: *mut PortalReceiver,
    out: *mut PortalMessage,
) -> PortalStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let receiver = unsafe { handle::open(receiver) }?;
        let got = receiver
            .ring
            .try_recv()
            .map_err(|e| Failed::new(PortalStatus::Violation, e))?;
        let Some(entry) = got else {
            return Err(Failed::new(PortalStatus::Empty, "no message"));
        };
        // The sender learns of the space; it polls.
        let _ = receiver.ring.flush();
        let message = PortalMessage {
            opcode: entry.opcode,
            flags: entry.flags,
            user_data: entry.user_data,
            span: entry.span.into(),
            arg: entry.arg,
        };
        // SAFETY: the caller's promise.
        unsafe { handle::put(out, message) }
    })
}

/// Closes the receiving end. NULL does nothing.
///
/// # Safety
/// `receiver` came from `portal_accept_ring` and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_close_receiver(receiver: *mut PortalReceiver) {
    // SAFETY: the caller's promise.
    unsafe { handle::close(receiver) }
}
