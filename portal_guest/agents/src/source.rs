//! The sending end of a stream of spans.
//!
//! ```text
//!        alloc, fill      grant, submit           return ring
//!  free ------------> own ------------> at sink -------------> free
//! ```
//!
//! At most `window` spans are at the sink at once. The bytes come from the host's
//! spans (relay) or are made here (pattern).

use crate::agent::Agent;
use crate::bytes;
use crate::failure::Failure;
use crate::idle::Idle;
use crate::sink::Inlet;
use hv_shmem::arena::ReturnReceiver;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::RawMem;
use hv_shmem::own_section::OwnSection;
use hv_shmem::ring::ENTRY_SLOT;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::SendError;
use hv_shmem::ring::SubmitSender;
use hv_shmem::span::PortalSpan;
use hv_shmem::wait::WaitMode;
use hv_shmem::wait::Waiter;
use portal_agent_abi::HOST;
use portal_agent_abi::STREAM_RING;
use portal_agent_abi::STREAM_SLOTS;
use portal_agent_abi::command::Fill;
use portal_agent_abi::report::Report;
use portal_agent_abi::stream;
use portal_warp::time;

/// What a source was told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    pub(crate) to: PeerId,
    pub(crate) fill: Fill,
    pub(crate) span_bytes: u32,
    pub(crate) window: u8,
    pub(crate) total: u64,
}

/// The rings to the sink, and what is on its way.
struct Outlet {
    to: PeerId,
    sender: SubmitSender<RawMem>,
    returns: ReturnReceiver<RawMem>,
    waiter: Waiter<time::Clock>,
    window: u64,
    out: u64,
    sequence: u64,
    sent: u64,
}

impl Outlet {
    fn open(agent: &mut Agent<'_>, order: &Order, idle: &Idle) -> Result<Self, Failure> {
        let place = agent.open(
            order.to,
            STREAM_RING,
            RingKind::Submit,
            RingLayout::Inline,
            (ENTRY_SLOT, STREAM_SLOTS),
        )?;
        let mut sender = SubmitSender::new(place)?;
        let returns = agent.accept_with(order.to, idle, OwnSection::accept_return_ring)?;
        sender.set_cursor(agent.cursor(order.to, STREAM_RING, idle)?)?;
        Ok(Self {
            to: order.to,
            sender,
            returns,
            waiter: Waiter::new(WaitMode::Adaptive, agent.machine.clock()),
            window: u64::from(order.window),
            out: 0,
            sequence: 0,
            sent: 0,
        })
    }

    /// Takes home what the sink has returned.
    fn take(&mut self, agent: &Agent<'_>, idle: &mut Idle) -> Result<(), Failure> {
        let returned = self.returns.take(&agent.arena)?;
        if returned.refused > 0 {
            return Err(Failure::Protocol {
                what: "number of returns that were not lent",
                found: returned.refused,
                expected: 0,
            });
        }
        if returned.spans > 0 {
            // The arena frees no more than was lent.
            self.out = self.out.saturating_sub(returned.spans);
            idle.progress();
        }
        Ok(())
    }

    /// Waits until at most `limit` spans are at the sink.
    fn drain_to(&mut self, agent: &Agent<'_>, limit: u64, idle: &mut Idle) -> Result<(), Failure> {
        self.take(agent, idle)?;
        while self.out > limit {
            idle.check()?;
            self.waiter
                .wait(self.returns.ring(), &agent.ears, Some(idle.left()))?;
            self.take(agent, idle)?;
        }
        Ok(())
    }

    /// A span to write to, as soon as the window allows one.
    fn span(
        &mut self,
        agent: &Agent<'_>,
        len: u64,
        idle: &mut Idle,
    ) -> Result<PortalSpan, Failure> {
        self.drain_to(agent, self.window.saturating_sub(1), idle)?;
        loop {
            match agent.arena.alloc_unfilled(len) {
                Ok(span) => return Ok(span),
                // A smaller arena than the window: wait for one to come home.
                Err(_) if self.out > 0 => {
                    self.drain_to(agent, self.out - 1, idle)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Hands a written span over.
    fn hand_over(
        &mut self,
        agent: &Agent<'_>,
        span: &PortalSpan,
        idle: &mut Idle,
    ) -> Result<(), Failure> {
        let span = agent.arena.fill(span, span.length)?;
        agent.arena.grant(&span, self.to)?;
        self.out += 1;
        self.sent += span.length;
        self.submit(agent, &stream::data(self.sequence, span), idle)
    }

    fn submit(
        &mut self,
        agent: &Agent<'_>,
        entry: &hv_shmem::ring::SubmitEntry,
        idle: &mut Idle,
    ) -> Result<(), Failure> {
        loop {
            match self.sender.try_send(entry) {
                Ok(()) => break,
                Err(SendError::Full) => {
                    idle.check()?;
                    self.waiter
                        .wait(self.sender.inner(), &agent.ears, Some(idle.left()))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.sequence += 1;
        agent.wake(self.to, self.sender.flush());
        idle.progress();
        Ok(())
    }

    /// Says that nothing follows, and waits for every span to come home.
    fn finish(&mut self, agent: &Agent<'_>, idle: &mut Idle) -> Result<(), Failure> {
        self.submit(agent, &stream::end(self.sequence, self.sent), idle)?;
        self.drain_to(agent, 0, idle)
    }
}

/// The job.
pub(crate) fn source(
    agent: &mut Agent<'_>,
    order: &Order,
    mut idle: Idle,
) -> Result<Report, Failure> {
    let result = run(agent, order, &mut idle);
    agent.close(order.to, STREAM_RING);
    if result.is_err() {
        // What the sink did not give back is taken back.
        agent.arena.reclaim(order.to);
    }
    result
}

fn run(agent: &mut Agent<'_>, order: &Order, idle: &mut Idle) -> Result<Report, Failure> {
    let mut outlet = Outlet::open(agent, order, idle)?;
    let started = time::now();
    match order.fill {
        Fill::Relay => {
            let mut inlet = Inlet::open(agent, HOST, idle)?;
            let result = relay(agent, &mut inlet, &mut outlet, idle);
            inlet.close(agent, result.is_ok(), idle);
            result?;
        }
        Fill::Pattern | Fill::Nothing => {
            make(agent, order, &mut outlet, idle)?;
        }
    }
    outlet.finish(agent, idle)?;
    Ok(Report {
        count: outlet.sequence.saturating_sub(1),
        bytes: outlet.sent,
        ticks: time::now().wrapping_sub(started),
        ..Report::default()
    })
}

/// Copies the host's spans into own ones.
fn relay(
    agent: &Agent<'_>,
    inlet: &mut Inlet,
    outlet: &mut Outlet,
    idle: &mut Idle,
) -> Result<(), Failure> {
    while let Some((name, from)) = inlet.next(agent, idle)? {
        let span = outlet.span(agent, from.len(), idle)?;
        let view = agent.arena.view(&span)?;
        bytes::copy(from.mem(), view.mem());
        inlet.give_back(agent, &name)?;
        outlet.hand_over(agent, &span, idle)?;
    }
    Ok(())
}

/// Makes `total` bytes.
fn make(
    agent: &Agent<'_>,
    order: &Order,
    outlet: &mut Outlet,
    idle: &mut Idle,
) -> Result<(), Failure> {
    let mut left = order.total;
    while left > 0 {
        let len = left.min(u64::from(order.span_bytes));
        let span = outlet.span(agent, len, idle)?;
        if order.fill == Fill::Pattern {
            let view = agent.arena.view(&span)?;
            bytes::fill(view.mem(), outlet.sequence);
        }
        outlet.hand_over(agent, &span, idle)?;
        left -= len;
    }
    Ok(())
}
