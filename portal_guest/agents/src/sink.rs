//! The receiving end of a stream of spans.
//!
//! A span is a claim: it is resolved (bounds, epoch, generation, grant) before a
//! byte of it is touched, and what is read is copied first or decides nothing.

use crate::agent::Agent;
use crate::bytes;
use crate::bytes::HASH_BYTES;
use crate::failure::Failure;
use crate::idle::Idle;
use hv_shmem::arena::RETURN_RING;
use hv_shmem::arena::ReturnError;
use hv_shmem::arena::ReturnSender;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::RawMem;
use hv_shmem::resolve::SpanResolver;
use hv_shmem::ring::SendError;
use hv_shmem::ring::SubmitReceiver;
use hv_shmem::span::Access;
use hv_shmem::span::PortalSpan;
use hv_shmem::span::SpanView;
use hv_shmem::wait::WaitMode;
use hv_shmem::wait::Waiter;
use portal_agent_abi::STREAM_RING;
use portal_agent_abi::STREAM_SLOTS;
use portal_agent_abi::command::Drain;
use portal_agent_abi::report::Report;
use portal_agent_abi::stream;
use portal_warp::time;

/// The rings from a source.
pub(crate) struct Inlet {
    from: PeerId,
    receiver: SubmitReceiver<RawMem>,
    returns: ReturnSender<RawMem>,
    /// Whether the owner has accepted the return ring. It need not, when it sends
    /// less than a ring full.
    owner_looks: bool,
    /// Whether any span was given back.
    returned: bool,
    resolver: SpanResolver<RawMem>,
    epoch: u32,
    waiter: Waiter<time::Clock>,
    sequence: u64,
    bytes: u64,
}

impl Inlet {
    /// Makes the return ring, and accepts the source's.
    pub(crate) fn open(agent: &mut Agent<'_>, from: PeerId, idle: &Idle) -> Result<Self, Failure> {
        let returns = agent.own.create_return_ring(from, STREAM_SLOTS)?;
        let receiver = SubmitReceiver::new(agent.accept(from, STREAM_RING, idle)?)?;
        let epoch = agent.own.region().section(from)?.epoch;
        Ok(Self {
            from,
            receiver,
            returns,
            owner_looks: false,
            returned: false,
            resolver: agent.own.resolver()?,
            epoch,
            waiter: Waiter::new(WaitMode::Adaptive, agent.machine.clock()),
            sequence: 0,
            bytes: 0,
        })
    }

    /// Closes the return ring; after a stream that went well not before its owner
    /// has found it, since spans are on their way home in it.
    pub(crate) fn close(self, agent: &mut Agent<'_>, well: bool, idle: &Idle) {
        if well && self.returned && !self.owner_looks {
            // An owner that does not look for its spans is not waited for twice.
            let _ = agent.cursor(self.from, RETURN_RING, idle);
        }
        agent.close(self.from, RETURN_RING);
    }

    /// The next span and its bytes; `None` at the end of the stream.
    pub(crate) fn next(
        &mut self,
        agent: &Agent<'_>,
        idle: &mut Idle,
    ) -> Result<Option<(PortalSpan, SpanView<RawMem>)>, Failure> {
        let entry = loop {
            if let Some(entry) = self.receiver.try_recv()? {
                break entry;
            }
            idle.check()?;
            let wake = self.receiver.flush();
            agent.wake(self.from, wake);
            self.waiter
                .wait(self.receiver.inner(), &agent.ears, Some(idle.left()))?;
            self.alive(agent)?;
        };
        idle.progress();
        expect("the entry's number", entry.user_data, self.sequence)?;
        self.sequence += 1;
        match entry.opcode {
            stream::DATA => {}
            stream::END => {
                expect("the length of the stream", entry.arg, self.bytes)?;
                return Ok(None);
            }
            other => expect("the entry's opcode", other.into(), stream::DATA.into())?,
        }
        let view = self.resolver.resolve(&entry.span, Access::Read)?;
        self.bytes = self.bytes.saturating_add(view.len());
        Ok(Some((entry.span, view)))
    }

    /// Fails when the source died: its spans are stale then.
    fn alive(&self, agent: &Agent<'_>) -> Result<(), Failure> {
        if agent.own.region().live_epoch(self.from) != Some(self.epoch) {
            return Err(Failure::PeerGone);
        }
        Ok(())
    }

    /// Gives a span back to its owner.
    pub(crate) fn give_back(
        &mut self,
        agent: &Agent<'_>,
        span: &PortalSpan,
    ) -> Result<(), Failure> {
        if !self.owner_looks
            && let Ok(Some(line)) = agent.own.cursor(self.from, RETURN_RING)
        {
            self.returns.ring().set_cursor(line)?;
            self.owner_looks = true;
        }
        match self.returns.give_back(span) {
            Ok(()) => {}
            // The owner has at most as many spans out as the ring has slots, so
            // it had room; an owner that does not look loses nothing but the span.
            Err(ReturnError::Ring(SendError::Full)) => {
                return Err(Failure::Protocol {
                    what: "spans out at once",
                    found: u64::from(STREAM_SLOTS) + 1,
                    expected: STREAM_SLOTS.into(),
                });
            }
            Err(error) => return Err(error.into()),
        }
        self.returned = true;
        agent.wake(self.from, self.returns.flush());
        Ok(())
    }
}

fn expect(what: &'static str, found: u64, expected: u64) -> Result<(), Failure> {
    if found == expected {
        return Ok(());
    }
    Err(Failure::Protocol {
        what,
        found,
        expected,
    })
}

/// The job.
pub(crate) fn sink(
    agent: &mut Agent<'_>,
    from: PeerId,
    drain: Drain,
    mut idle: Idle,
) -> Result<Report, Failure> {
    let opened = Inlet::open(agent, from, &idle);
    let mut inlet = match opened {
        Ok(inlet) => inlet,
        Err(failure) => {
            agent.close(from, RETURN_RING);
            return Err(failure);
        }
    };
    let result = run(agent, &mut inlet, drain, &mut idle);
    inlet.close(agent, result.is_ok(), &idle);
    result
}

fn run(
    agent: &Agent<'_>,
    inlet: &mut Inlet,
    drain: Drain,
    idle: &mut Idle,
) -> Result<Report, Failure> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = [0; HASH_BYTES];
    let mut started = None;
    while let Some((name, view)) = inlet.next(agent, idle)? {
        started.get_or_insert_with(time::now);
        match drain {
            Drain::Hash => bytes::hash(view.mem(), &mut hasher, &mut buffer),
            Drain::Read => {
                core::hint::black_box(bytes::read(view.mem()));
            }
            Drain::Count => {}
        }
        inlet.give_back(agent, &name)?;
    }
    let ticks = started.map_or(0, |started| time::now().wrapping_sub(started));
    Ok(Report {
        count: inlet.sequence.saturating_sub(1),
        bytes: inlet.bytes,
        ticks,
        digest: match drain {
            Drain::Hash => *hasher.finalize().as_bytes(),
            Drain::Read | Drain::Count => [0; 32],
        },
        ..Report::default()
    })
}
