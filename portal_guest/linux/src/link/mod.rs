//! Two processes in two machines that find each other, in any order.
//!
//! A link is a pair of in-line rings with one id, one in each peer's section, and a
//! greeting in which both sides learn that the other one is there *now*: sections keep
//! the rings of processes that were killed, and several processes of one machine live
//! in one epoch.
//!
//! ```text
//!   client                                   server
//!   ring, Hello{session C, echo 0}  ──────▶  finds a ring that it has not accepted
//!   accepts, sees echo C: up        ◀──────  ring, Hello{session S, echo C}
//!   Hello{session C, echo S}        ──────▶  sees echo S: up
//! ```
//!
//! Session numbers are random. A side that comes again has another one, and rings of
//! another instance, which is how a side in the middle of its work notices.
//!
//! # Messages
//!
//! 56 bytes. Byte 0 is the tag: 1 Hello (version in byte 1, service as u32 at 4,
//! session as u64 at 8, echo as u64 at 16), 2 Bye, from [`FIRST_TAG`] the program's.
//! Little-endian.
//!
//! Distrusted: every peer of the region. Whatever one writes costs a bounded number of
//! looks, ends in an error that names it, or leaves this side waiting for no longer
//! than it said. Left out: what the messages mean.

mod greeting;
mod meeting;
mod watch;

pub use meeting::Target;

use crate::Attachment;
use crate::GuestDoorbell;
use crate::GuestError;
use crate::Loss;
use greeting::BYE;
use greeting::GREETINGS;
use greeting::HELLO;
use greeting::word;
use hv_shmem::backing::MappedMem;
use hv_shmem::doorbell::Doorbell as _;
use hv_shmem::layout::PeerId;
use hv_shmem::own_section::RingSpec;
use hv_shmem::ring::BulkReceiver;
use hv_shmem::ring::BulkSender;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::SendError;
use hv_shmem::wait::MonotonicClock;
use hv_shmem::wait::Source;
use hv_shmem::wait::WaitMode;
use hv_shmem::wait::Waiter;
use std::time::Duration;
use watch::Watch;

/// Id of the rings of a link, in both directions.
pub const LINK_RING: u32 = 100;
/// Bytes of a message.
pub const LINK_PAYLOAD: usize = 56;
/// First tag that programs may use.
pub const FIRST_TAG: u8 = 16;

/// One message.
pub type Message = [u8; LINK_PAYLOAD];

/// How to meet and how to wait.
#[derive(Debug, Clone, Copy)]
pub struct LinkOptions {
    /// What the two sides do with each other: both have to say the same number.
    pub service: u32,
    /// How long to wait for the other side to come.
    pub patience: Duration,
    /// How long to wait for it to do something, later.
    pub stall: Duration,
    /// How to wait.
    pub mode: WaitMode,
}

/// A link that is up.
#[derive(Debug)]
pub struct Link<'a> {
    /// The own place in the region.
    pub at: &'a mut Attachment,
    tx: InlineSender<MappedMem>,
    rx: InlineReceiver<MappedMem>,
    watch: Watch,
    theirs: u64,
    doorbell: GuestDoorbell,
    waiter: Waiter<MonotonicClock>,
    mode: WaitMode,
    stall: Duration,
}

/// Ready when either is.
struct Either<'a, A, B>(&'a mut A, &'a mut B);

impl<A: Source, B: Source> Source for Either<'_, A, B> {
    fn ready(&mut self) -> Result<bool, hv_shmem::Violation> {
        Ok(self.0.ready()? || self.1.ready()?)
    }

    fn arm(&mut self) {
        self.0.arm();
        self.1.arm();
    }
}

impl<'a> Link<'a> {
    /// Meets a peer that accepts, waiting for it to come.
    ///
    /// # Errors
    /// [`GuestError::TooSlow`] when it does not come, [`GuestError::NoSuchPeer`] when
    /// it is this very peer or several could be meant, [`GuestError::OtherService`].
    pub fn connect(
        at: &'a mut Attachment,
        to: &Target,
        options: &LinkOptions,
    ) -> Result<Self, GuestError> {
        meeting::connect(at, to, options)?.finish(at, options)
    }

    /// Meets the first peer that connects, waiting for one to come.
    ///
    /// # Errors
    /// [`GuestError::TooSlow`] when none comes, [`GuestError::Evicted`].
    pub fn accept(
        at: &'a mut Attachment,
        from: &Target,
        options: &LinkOptions,
    ) -> Result<Self, GuestError> {
        meeting::accept(at, from, options)?.finish(at, options)
    }

    /// The other side's number.
    pub fn peer(&self) -> PeerId {
        self.watch.peer
    }

    /// How waits ended so far: spinning, sleeping.
    pub fn waits(&self) -> hv_shmem::wait::WaitCounters {
        self.waiter.counters()
    }

    /// Waits in another way from now on.
    pub fn set_mode(&mut self, mode: WaitMode) {
        self.mode = mode;
        self.waiter = Waiter::new(mode, MonotonicClock::new());
    }

    /// Sends a message whose tag is [`FIRST_TAG`] or more.
    ///
    /// # Errors
    /// [`GuestError::PeerLost`], [`GuestError::TooSlow`], [`GuestError::Send`].
    pub fn send(&mut self, message: &Message) -> Result<(), GuestError> {
        loop {
            match self.tx.try_send(message) {
                Ok(()) => break,
                Err(SendError::Full) => self.watch.wait(
                    self.at,
                    &mut self.waiter,
                    &mut self.tx,
                    "room for a message",
                    self.stall,
                )?,
                Err(e) => return Err(e.into()),
            }
        }
        if self.tx.flush().must_ring {
            self.ring()?;
        }
        Ok(())
    }

    /// The next message, if one is there.
    ///
    /// # Errors
    /// [`GuestError::PeerLost`] when the other side has said good-bye or started
    /// again, [`GuestError::Receive`].
    pub fn try_recv(&mut self) -> Result<Option<Message>, GuestError> {
        let mut message = [0; LINK_PAYLOAD];
        // Greetings that crossed are skipped; more of them are no link.
        for _ in 0..GREETINGS {
            if self.rx.try_recv(&mut message)?.is_none() {
                return Ok(None);
            }
            let peer = self.watch.peer;
            let lost = |how| GuestError::PeerLost { peer, how };
            match message.first() {
                Some(&BYE) => return Err(lost(Loss::Left)),
                Some(&HELLO) if word(&message, 8) == self.theirs => {}
                Some(&HELLO) => return Err(lost(Loss::StartedAgain)),
                Some(&tag) if tag >= FIRST_TAG => return Ok(Some(message)),
                _ => break,
            }
        }
        Err(GuestError::Misbehaved {
            peer: self.watch.peer,
            what: format!("a message with tag {}", message[0]),
        })
    }

    /// The next message, waiting for it.
    ///
    /// # Errors
    /// As [`Self::try_recv`]; [`GuestError::TooSlow`], [`GuestError::Evicted`].
    pub fn recv(&mut self, what: &str) -> Result<Message, GuestError> {
        loop {
            if let Some(message) = self.try_recv()? {
                return Ok(message);
            }
            if self.mode != WaitMode::Spin && self.rx.flush().must_ring {
                self.ring()?;
            }
            let (at, waiter) = (&*self.at, &mut self.waiter);
            self.watch
                .wait(at, waiter, &mut self.rx, what, self.stall)?;
        }
    }

    /// Waits until `source` is ready or a message is there.
    ///
    /// # Errors
    /// As [`Self::recv`].
    pub fn wait(&mut self, source: &mut impl Source, what: &str) -> Result<(), GuestError> {
        let mut both = Either(source, &mut self.rx);
        let (at, waiter) = (&*self.at, &mut self.waiter);
        self.watch.wait(at, waiter, &mut both, what, self.stall)
    }

    /// Rings the other side's doorbell.
    ///
    /// # Errors
    /// [`GuestError::Doorbell`].
    pub fn ring(&self) -> Result<(), GuestError> {
        Ok(self.doorbell.ring()?)
    }

    /// Makes a bulk ring to the other side. To be told to it, and completed with
    /// [`Self::opened`] when it has accepted.
    ///
    /// # Errors
    /// [`GuestError::Ring`].
    pub fn open_bulk(
        &mut self,
        id: u32,
        slot_size: u32,
        slots: u32,
    ) -> Result<BulkSender<MappedMem>, GuestError> {
        let place = self.at.own.create_ring(RingSpec {
            id,
            to: self.watch.peer,
            kind: RingKind::Stream,
            layout: RingLayout::Bulk,
            slot_size,
            slots,
        })?;
        Ok(BulkSender::new(place)?)
    }

    /// Takes over the receiver's cursor of a bulk ring that it says it has accepted.
    ///
    /// # Errors
    /// [`GuestError::Misbehaved`] when it has not.
    pub fn opened(&self, sender: &mut BulkSender<MappedMem>, id: u32) -> Result<(), GuestError> {
        let peer = self.watch.peer;
        match self.at.own.cursor(peer, id)? {
            Some(line) => Ok(sender.set_cursor(line)?),
            None => Err(GuestError::Misbehaved {
                peer,
                what: format!("it says that it has accepted ring {id}, and has not"),
            }),
        }
    }

    /// Accepts a bulk ring that the other side says it has made.
    ///
    /// # Errors
    /// [`GuestError::Ring`], [`GuestError::Place`].
    pub fn accept_bulk(&mut self, id: u32) -> Result<BulkReceiver<MappedMem>, GuestError> {
        let place = self.at.own.accept_ring(self.watch.peer, id)?;
        Ok(BulkReceiver::new(place)?)
    }

    /// Says good-bye and takes the link's rings away; the place in the region stays.
    pub fn close(mut self) {
        let mut bye = [0; LINK_PAYLOAD];
        bye[0] = BYE;
        // The other side may be gone already; it notices the rest by itself.
        let _ = self.send(&bye);
        let _ = self.ring();
        self.at.own.close_ring(self.watch.peer, LINK_RING);
        self.at.own.leave_ring(self.watch.peer, LINK_RING);
    }
}
