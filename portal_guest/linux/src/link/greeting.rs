//! The greeting in which both sides learn that the other one is there now.
//!
//! Distrusted: the other side, and whoever had its place before. One step reads at most
//! [`GREETINGS`] messages. Left out: whom to greet, and for how long.

use super::LINK_PAYLOAD;
use super::LINK_RING;
use super::Link;
use super::LinkOptions;
use super::Message;
use super::watch::Watch;
use crate::Attachment;
use crate::GuestDoorbell;
use crate::GuestError;
use crate::Loss;
use hv_shmem::backing::MappedMem;
use hv_shmem::doorbell::Doorbell as _;
use hv_shmem::layout::PeerId;
use hv_shmem::own_section::RingSpec;
use hv_shmem::peers::PeerRecord;
use hv_shmem::region::RegionError;
use hv_shmem::region::RingError;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::SendError;
use hv_shmem::wait::MonotonicClock;
use hv_shmem::wait::Waiter;
use std::hash::BuildHasher as _;
use std::hash::Hasher as _;

const SLOT: u32 = 64;
const SLOTS: u32 = 32;
pub(super) const HELLO: u8 = 1;
pub(super) const BYE: u8 = 2;
const VERSION: u8 = 1;
/// Greetings read in a row before looking at anything else.
pub(super) const GREETINGS: u32 = 8;

/// A link that is coming up.
pub(super) struct Greeting {
    watch: Watch,
    session: u64,
    tx: InlineSender<MappedMem>,
    rx: Option<InlineReceiver<MappedMem>>,
    theirs: Option<u64>,
    doorbell: GuestDoorbell,
}

pub(super) enum Step {
    Pending,
    Up,
    /// The peer lives in another epoch by now, or not at all.
    Lost,
    /// It runs this service instead.
    Other(u32),
}

impl Greeting {
    /// Makes the ring to a peer and greets it.
    pub(super) fn open(
        at: &mut Attachment,
        peer: &PeerRecord,
        service: u32,
    ) -> Result<Self, GuestError> {
        let watch = Watch {
            peer: peer.id,
            epoch: peer.epoch,
        };
        let mut this = Self {
            watch,
            session: random(),
            tx: link_ring(at, watch.peer)?,
            rx: None,
            theirs: None,
            doorbell: at.doorbell(watch.peer),
        };
        this.greet(at, service, 0)?;
        Ok(this)
    }

    /// Whom it greets.
    pub(super) fn peer(&self) -> PeerId {
        self.watch.peer
    }

    fn greet(&mut self, at: &mut Attachment, service: u32, echo: u64) -> Result<(), GuestError> {
        let mut hello = [0; LINK_PAYLOAD];
        hello[0] = HELLO;
        hello[1] = VERSION;
        hello[4..8].copy_from_slice(&service.to_le_bytes());
        hello[8..16].copy_from_slice(&self.session.to_le_bytes());
        hello[16..24].copy_from_slice(&echo.to_le_bytes());
        if let Err(SendError::Full) = self.tx.try_send(&hello) {
            // As many processes have come and gone on the other side.
            self.tx = link_ring(at, self.watch.peer)?;
            self.tx.try_send(&hello)?;
        }
        // The other side has armed nothing yet.
        let _ = self.tx.flush();
        Ok(self.doorbell.ring()?)
    }

    /// Looks once what the other side has to say.
    pub(super) fn step(&mut self, at: &mut Attachment, service: u32) -> Result<Step, GuestError> {
        let peer = self.watch.peer;
        if at.region().live_epoch(peer) != Some(self.watch.epoch) {
            return Ok(Step::Lost);
        }
        if matches!(self.doorbell, GuestDoorbell::Silent) {
            // A switchboard may tell of a peer's bells later than of the peer.
            self.doorbell = at.doorbell(peer);
        }
        match at.own.accept_ring(peer, LINK_RING) {
            Ok(place) => {
                let rx = InlineReceiver::new(place)?;
                if rx.payload() != LINK_PAYLOAD {
                    return Err(GuestError::Misbehaved {
                        peer,
                        what: format!("its link has messages of {} bytes", rx.payload()),
                    });
                }
                self.rx = Some(rx);
            }
            Err(RingError::Accepted { .. } | RingError::NotThere { .. }) => {}
            Err(RingError::Region(
                RegionError::NotReady { .. }
                | RegionError::StaleEpoch { .. }
                | RegionError::NotLive { .. },
            )) => {}
            Err(e) => return Err(e.into()),
        }
        for _ in 0..GREETINGS {
            let Some(rx) = &mut self.rx else {
                break;
            };
            let mut message = [0; LINK_PAYLOAD];
            match rx.try_recv(&mut message) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => {
                    // A ring that a dead process has used for longer than one lap.
                    self.rx = None;
                    at.own.leave_ring(peer, LINK_RING);
                    break;
                }
            }
            if message[0] != HELLO || message[1] != VERSION {
                continue;
            }
            let found = word(&message, 4) as u32;
            if found != service {
                return Ok(Step::Other(found));
            }
            let (theirs, echo) = (word(&message, 8), word(&message, 16));
            if self.theirs != Some(theirs) {
                self.theirs = Some(theirs);
                self.greet(at, service, theirs)?;
            }
            if echo == self.session
                && let Some(line) = at.own.cursor(peer, LINK_RING)?
            {
                self.tx.set_cursor(line)?;
                return Ok(Step::Up);
            }
        }
        Ok(Step::Pending)
    }

    /// Takes the rings away again.
    pub(super) fn abandon(self, at: &mut Attachment) {
        at.own.close_ring(self.watch.peer, LINK_RING);
        at.own.leave_ring(self.watch.peer, LINK_RING);
    }

    pub(super) fn finish<'a>(
        self,
        at: &'a mut Attachment,
        options: &LinkOptions,
    ) -> Result<Link<'a>, GuestError> {
        let peer = self.watch.peer;
        let (Some(rx), Some(theirs)) = (self.rx, self.theirs) else {
            let how = Loss::Left;
            return Err(GuestError::PeerLost { peer, how });
        };
        Ok(Link {
            at,
            tx: self.tx,
            rx,
            watch: self.watch,
            theirs,
            doorbell: self.doorbell,
            waiter: Waiter::new(options.mode, MonotonicClock::new()),
            mode: options.mode,
            stall: options.stall,
        })
    }
}

fn link_ring(at: &mut Attachment, to: PeerId) -> Result<InlineSender<MappedMem>, GuestError> {
    let place = at.own.create_ring(RingSpec {
        id: LINK_RING,
        to,
        kind: RingKind::Stream,
        layout: RingLayout::Inline,
        slot_size: SLOT,
        slots: SLOTS,
    })?;
    Ok(InlineSender::new(place)?)
}

pub(super) fn word(message: &Message, at: usize) -> u64 {
    let bytes = message.get(at..at + 8).and_then(|b| b.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

/// A number that no other process has, from the system's randomness; not 0.
fn random() -> u64 {
    let hasher = std::hash::RandomState::new().build_hasher();
    hasher.finish() | 1
}
