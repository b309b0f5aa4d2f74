//! `UpcallRing`: a call in the other direction, with a deadline.
//!
//! Two carriers, one type:
//!
//! * **in place** ([`UpcallCaller::in_place`]): the answer overwrites the call in
//!   its own cache line; half the round trip, for pairs that trust each other;
//! * **pair** ([`UpcallCaller::pair`]): an in-line ring each way, every byte with
//!   one writer, for everybody else.
//!
//! Calls are answered in order. A call whose deadline passes is given up by the
//! caller; its late answer is recognised by its place in the order and dropped.
//!
//! Distrusted: the server may answer late, never, or nonsense. The caller's
//! deadline bounds the wait, the ring bounds how many calls can be outstanding,
//! and an answer's `user_data` must be the call's.

use super::RecvError;
use super::SendError;
use super::complete::CompleteEntry;
use super::entry::ENTRY_BYTES;
use super::entry::ENTRY_SLOT;
use super::entry::Entry;
use super::entry::check_kind;
use super::entry::u32_at;
use super::entry::u64_at;
use super::in_place::InPlaceCaller;
use super::in_place::InPlaceServer;
use super::inline::InlineReceiver;
use super::inline::InlineSender;
use super::place::PlaceError;
use super::place::RingKind;
use super::place::RingPlace;
use super::wake::Wake;
use crate::mem::SharedMem;
use crate::span::PortalSpan;
use crate::violation::Violation;
use crate::wait::Clock;
use crate::wait::Source;

/// Looks between two readings of the clock in [`UpcallCaller::call`].
const LOOKS_PER_READING: u32 = 32;

/// A call. Little-endian, 56 bytes:
///
/// | offset | width | field |
/// |---|---|---|
/// | 0 | 4 | function |
/// | 4 | 4 | flags |
/// | 8 | 8 | user_data |
/// | 16 | 32 | span |
/// | 48 | 8 | budget_ns |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UpcallEntry {
    /// What to call; the two peers agree on the numbers.
    pub function: u32,
    /// Variations of it.
    pub flags: u32,
    /// Comes back in the answer.
    pub user_data: u64,
    /// Memory that the call is about, or [`PortalSpan::NONE`].
    pub span: PortalSpan,
    /// How long the caller is going to wait, in nanoseconds; 0 says nothing. A
    /// hint to the server.
    pub budget_ns: u64,
}

impl Entry for UpcallEntry {
    const KIND: RingKind = RingKind::Upcall;

    #[inline]
    fn to_bytes(&self) -> [u8; ENTRY_BYTES] {
        let mut to = [0; ENTRY_BYTES];
        to[0..4].copy_from_slice(&self.function.to_le_bytes());
        to[4..8].copy_from_slice(&self.flags.to_le_bytes());
        to[8..16].copy_from_slice(&self.user_data.to_le_bytes());
        to[16..48].copy_from_slice(&self.span.to_bytes());
        to[48..56].copy_from_slice(&self.budget_ns.to_le_bytes());
        to
    }

    #[inline]
    fn from_bytes(from: &[u8; ENTRY_BYTES]) -> Self {
        let mut span = [0; 32];
        span.copy_from_slice(&from[16..48]);
        Self {
            function: u32_at(from, 0),
            flags: u32_at(from, 4),
            user_data: u64_at(from, 8),
            span: PortalSpan::from_bytes(&span),
            budget_ns: u64_at(from, 48),
        }
    }
}

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpcallError {
    /// Every slot holds a call that has not been answered.
    #[error("as many calls are outstanding as the ring has slots")]
    Full,
    /// A call started before is waiting for its answer.
    #[error("a call started before is waiting for its answer")]
    Busy,
    /// The deadline passed. The server may still carry the call out.
    #[error("no answer within {budget_ns} ns")]
    DeadlineExpired {
        /// The time allowed, in nanoseconds.
        budget_ns: u64,
    },
    /// The server broke the rules; nothing more goes through this ring.
    #[error("the upcall ring is poisoned: {0}")]
    Poisoned(Violation),
}

impl From<Violation> for UpcallError {
    fn from(v: Violation) -> Self {
        Self::Poisoned(v)
    }
}

/// Which rings carry the calls of a caller.
#[derive(Debug)]
enum Calls<M> {
    InPlace(InPlaceCaller<M>),
    Pair {
        requests: InlineSender<M>,
        answers: InlineReceiver<M>,
    },
}

/// The calling end.
#[derive(Debug)]
pub struct UpcallCaller<M> {
    calls: Calls<M>,
    /// Calls started whose answers have not come.
    outstanding: u64,
    /// How many of those, the oldest, were given up.
    abandoned: u64,
    expired: u64,
    poison: Option<Violation>,
}

impl<M: SharedMem> UpcallCaller<M> {
    /// Calls over an in-place ring of kind `Upcall`.
    ///
    /// # Errors
    /// [`PlaceError`] when kind, layout, shape or lengths do not fit.
    pub fn in_place(place: RingPlace<M>) -> Result<Self, PlaceError> {
        check_kind(&place, RingKind::Upcall)?;
        Ok(Self::over(Calls::InPlace(InPlaceCaller::new(place)?)))
    }

    /// Calls over an in-line ring of kind `Upcall`, answers over one of kind
    /// `Complete`.
    ///
    /// # Errors
    /// [`PlaceError`] when kind, layout, shape or lengths do not fit.
    pub fn pair(requests: RingPlace<M>, answers: RingPlace<M>) -> Result<Self, PlaceError> {
        check_kind(&requests, RingKind::Upcall)?;
        check_kind(&answers, RingKind::Complete)?;
        Ok(Self::over(Calls::Pair {
            requests: InlineSender::new(requests)?,
            answers: InlineReceiver::new(answers)?,
        }))
    }

    fn over(calls: Calls<M>) -> Self {
        Self {
            calls,
            outstanding: 0,
            abandoned: 0,
            expired: 0,
            poison: None,
        }
    }

    /// Takes the server's line, once the server has registered one.
    ///
    /// # Errors
    /// [`PlaceError::TooShort`].
    pub fn set_cursor(&mut self, line: M) -> Result<(), PlaceError> {
        match &mut self.calls {
            Calls::InPlace(ring) => ring.set_cursor(line),
            Calls::Pair { requests, .. } => requests.set_cursor(line),
        }
    }

    /// Calls given up at their deadline so far.
    pub fn expired(&self) -> u64 {
        self.expired
    }

    /// Starts a call; gives its position, for [`poll`](Self::poll).
    ///
    /// # Errors
    /// [`UpcallError::Full`], [`UpcallError::Poisoned`].
    #[inline]
    pub fn start(&mut self, entry: &UpcallEntry) -> Result<u64, UpcallError> {
        if let Some(v) = self.poison {
            return Err(v.into());
        }
        let bytes = entry.to_bytes();
        let sent = match &mut self.calls {
            Calls::InPlace(ring) => ring.try_call(&bytes),
            Calls::Pair { requests, .. } => {
                let position = requests.position();
                requests.try_send(&bytes).map(|()| position)
            }
        };
        match sent {
            Ok(position) => {
                self.outstanding = self.outstanding.saturating_add(1);
                Ok(position)
            }
            Err(SendError::Poisoned(v)) => Err(v.into()),
            Err(SendError::Full | SendError::TooLong { .. }) => Err(UpcallError::Full),
        }
    }

    /// Looks for the answer to the oldest call that has not been given up.
    ///
    /// # Errors
    /// [`UpcallError::Poisoned`].
    #[inline]
    pub fn poll(&mut self) -> Result<Option<CompleteEntry>, UpcallError> {
        if let Some(v) = self.poison {
            return Err(v.into());
        }
        let mut bytes = [0; ENTRY_BYTES];
        loop {
            let taken = match &mut self.calls {
                Calls::InPlace(ring) => ring.poll_answer(&mut bytes),
                Calls::Pair { answers, .. } => answers.try_recv(&mut bytes),
            };
            match taken {
                Ok(None) => return Ok(None),
                Ok(Some(_)) if self.outstanding == 0 => {
                    let found = CompleteEntry::from_bytes(&bytes).user_data;
                    return Err(self.poison(Violation::Unasked { found }));
                }
                Ok(Some(_)) if self.abandoned > 0 => {
                    self.abandoned -= 1;
                    self.outstanding -= 1;
                }
                Ok(Some(_)) => {
                    self.outstanding -= 1;
                    return Ok(Some(CompleteEntry::from_bytes(&bytes)));
                }
                Err(RecvError::Poisoned(v)) => return Err(v.into()),
            }
        }
    }

    /// Gives up the oldest `calls` calls that have not been given up: their
    /// answers will be dropped.
    pub fn abandon(&mut self, calls: u64) {
        let all = self.abandoned.saturating_add(calls);
        self.abandoned = all.min(self.outstanding);
    }

    #[cold]
    fn poison(&mut self, v: Violation) -> UpcallError {
        self.poison = Some(v);
        v.into()
    }

    /// After [`start`](Self::start): says whether the server sleeps and wants
    /// its doorbell.
    pub fn flush(&mut self) -> Wake {
        match &mut self.calls {
            Calls::InPlace(ring) => ring.flush(),
            Calls::Pair { requests, .. } => requests.flush(),
        }
    }

    /// Makes one call and spins for its answer, at most `entry.budget_ns`
    /// nanoseconds by `clock` beyond its first few looks. No call started with
    /// [`start`](Self::start) may be waiting for its answer. The server must be spinning too; for a server that may sleep
    /// use [`start`](Self::start), [`flush`](Self::flush), its doorbell and
    /// [`poll`](Self::poll).
    ///
    /// # Errors
    /// [`UpcallError`].
    #[inline]
    pub fn call<C: Clock>(
        &mut self,
        entry: &UpcallEntry,
        clock: &C,
    ) -> Result<CompleteEntry, UpcallError> {
        if self.outstanding != self.abandoned {
            return Err(UpcallError::Busy);
        }
        self.start(entry)?;
        // The clock is first read after the first looks: a fast answer does not
        // pay for it.
        let mut begun = None;
        loop {
            for _ in 0..LOOKS_PER_READING {
                if let Some(answer) = self.poll()? {
                    return self.check(entry, answer);
                }
                core::hint::spin_loop();
            }
            let now = clock.now_ns();
            let start = *begun.get_or_insert(now);
            if now.saturating_sub(start) >= entry.budget_ns {
                self.abandon(1);
                self.expired = self.expired.saturating_add(1);
                return Err(UpcallError::DeadlineExpired {
                    budget_ns: entry.budget_ns,
                });
            }
        }
    }

    /// An answer must carry the call's `user_data`.
    #[inline]
    fn check(
        &mut self,
        entry: &UpcallEntry,
        answer: CompleteEntry,
    ) -> Result<CompleteEntry, UpcallError> {
        if answer.user_data != entry.user_data {
            return Err(self.poison(Violation::Answer {
                found: answer.user_data,
                expected: entry.user_data,
            }));
        }
        Ok(answer)
    }
}

/// Ready when the oldest call is answered.
impl<M: SharedMem> Source for UpcallCaller<M> {
    fn ready(&mut self) -> Result<bool, Violation> {
        match &mut self.calls {
            Calls::InPlace(ring) => Source::ready(ring),
            Calls::Pair { answers, .. } => Source::ready(answers),
        }
    }

    fn arm(&mut self) {
        match &mut self.calls {
            Calls::InPlace(ring) => ring.arm(),
            Calls::Pair { answers, .. } => answers.arm(),
        }
    }
}

/// Which rings carry the calls of a server.
#[derive(Debug)]
enum Served<M> {
    InPlace(InPlaceServer<M>),
    Pair {
        requests: InlineReceiver<M>,
        answers: InlineSender<M>,
    },
}

/// The serving end.
#[derive(Debug)]
pub struct UpcallServer<M> {
    served: Served<M>,
}

impl<M: SharedMem> UpcallServer<M> {
    /// Serves an in-place ring of kind `Upcall`.
    ///
    /// # Errors
    /// [`PlaceError`] when kind, layout, shape or lengths do not fit.
    pub fn in_place(place: RingPlace<M>) -> Result<Self, PlaceError> {
        check_kind(&place, RingKind::Upcall)?;
        Ok(Self {
            served: Served::InPlace(InPlaceServer::new(place)?),
        })
    }

    /// Serves an in-line ring of kind `Upcall`, answers over one of kind
    /// `Complete`.
    ///
    /// # Errors
    /// [`PlaceError`] when kind, layout, shape or lengths do not fit.
    pub fn pair(requests: RingPlace<M>, answers: RingPlace<M>) -> Result<Self, PlaceError> {
        check_kind(&requests, RingKind::Upcall)?;
        check_kind(&answers, RingKind::Complete)?;
        // An answer for every request that can be outstanding must fit.
        if answers.slots < requests.slots || answers.slot_size != ENTRY_SLOT {
            return Err(PlaceError::TooShort {
                what: "answer ring (slots)",
                found: answers.slots.into(),
                needed: requests.slots.into(),
            });
        }
        Ok(Self {
            served: Served::Pair {
                requests: InlineReceiver::new(requests)?,
                answers: InlineSender::new(answers)?,
            },
        })
    }

    /// Takes the caller's line for the answers (pair carrier only).
    ///
    /// # Errors
    /// [`PlaceError::TooShort`].
    pub fn set_cursor(&mut self, line: M) -> Result<(), PlaceError> {
        match &mut self.served {
            Served::InPlace(_) => Ok(()),
            Served::Pair { answers, .. } => answers.set_cursor(line),
        }
    }

    /// Takes the next call, or `None` when there is none. Answer it with
    /// [`answer`](Self::answer), in order.
    ///
    /// # Errors
    /// [`RecvError::Poisoned`].
    #[inline]
    pub fn try_recv(&mut self) -> Result<Option<UpcallEntry>, RecvError> {
        let mut bytes = [0; ENTRY_BYTES];
        let taken = match &mut self.served {
            Served::InPlace(ring) => ring.try_recv(&mut bytes)?,
            Served::Pair { requests, .. } => requests.try_recv(&mut bytes)?,
        };
        Ok(taken.map(|_| UpcallEntry::from_bytes(&bytes)))
    }

    /// Answers the oldest unanswered call.
    ///
    /// # Errors
    /// [`SendError`]: `Full` when there is no unanswered call (in place) or the
    /// caller does not collect its answers (pair).
    #[inline]
    pub fn answer(&mut self, answer: &CompleteEntry) -> Result<(), SendError> {
        let bytes = answer.to_bytes();
        match &mut self.served {
            Served::InPlace(ring) => ring.answer(&bytes),
            Served::Pair { answers, .. } => answers.try_send(&bytes),
        }
    }

    /// After [`answer`](Self::answer): says whether the caller sleeps and wants
    /// its doorbell.
    pub fn flush(&mut self) -> Wake {
        match &mut self.served {
            Served::InPlace(ring) => ring.flush(),
            Served::Pair { answers, .. } => answers.flush(),
        }
    }
}

/// Ready when a call waits.
impl<M: SharedMem> Source for UpcallServer<M> {
    fn ready(&mut self) -> Result<bool, Violation> {
        match &mut self.served {
            Served::InPlace(ring) => Source::ready(ring),
            Served::Pair { requests, .. } => Source::ready(requests),
        }
    }

    fn arm(&mut self) {
        match &mut self.served {
            Served::InPlace(ring) => ring.arm(),
            Served::Pair { requests, .. } => requests.arm(),
        }
    }
}
