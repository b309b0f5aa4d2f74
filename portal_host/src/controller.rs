//! The host as peer 0: commands to agents, answers from them.
//!
//! ```text
//!   Controller            ring 1: Submit              agent
//!   (peer 0)    ──────────────────────────────────▶  (peer n)
//!               ◀──────────────────────────────────
//!                         ring 2: Complete
//! ```
//!
//! One command is under way at each agent at a time. The controller sleeps while
//! it waits (on its own bell where it has one), because the agents need the
//! cores.

use crate::Answer;
use crate::HostError;
use crate::TickCounts;
use hv_shmem::arena::BoxedArena;
use hv_shmem::arena::RETURN_RING;
use hv_shmem::backing::MappedMem;
use hv_shmem::doorbell::Bell;
use hv_shmem::doorbell::Doorbell;
use hv_shmem::doorbell::EventFd;
use hv_shmem::layout::PeerId;
use hv_shmem::own_section::OwnSection;
use hv_shmem::own_section::RingSpec;
use hv_shmem::region::PortalRegion;
use hv_shmem::region::RingError;
use hv_shmem::resolve::SpanResolver;
use hv_shmem::ring::CompleteEntry;
use hv_shmem::ring::CompleteReceiver;
use hv_shmem::ring::ENTRY_SLOT;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::SubmitSender;
use hv_shmem::section::SectionConfig;
use hv_shmem::span::Access;
use portal_agent_abi::ANSWER_RING;
use portal_agent_abi::COMMAND_RING;
use portal_agent_abi::CONTROL_SLOTS;
use portal_agent_abi::Command;
use portal_agent_abi::HOST;
use portal_agent_abi::RING_VECTOR;
use portal_agent_abi::STREAM_RING;
use portal_agent_abi::Status;
use portal_agent_abi::command::MAX_IDLE_US;
use portal_agent_abi::report;
use portal_agent_abi::report::Report;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

/// Directory entries of the host's section: four rings an agent (commands,
/// answers, stream, done) for as many agents as a region has peers would be
/// 4096; this is enough for 255 agents.
const DIRECTORY: u32 = 1024;
/// Most of the host's section that rings take, in parts of its size.
const RING_SHARE: u64 = 4;
/// First sleep of a wait without a bell; doubles up to [`LONG_SLEEP`].
const SHORT_SLEEP: Duration = Duration::from_micros(50);
/// Longest sleep of a wait. Also how late a lost ring of a doorbell is noticed.
const LONG_SLEEP: Duration = Duration::from_millis(10);

/// How the host reaches and watches one agent's partition.
pub struct Seat {
    /// Rings the agent's vector 0; without one the agent has to be spinning.
    pub bell: Option<Arc<EventFd>>,
    /// Whether the partition still runs; asked now and then during waits.
    pub alive: Box<dyn Fn() -> bool>,
}

/// One agent.
pub(crate) struct Agent {
    pub(crate) seat: Seat,
    commands: SubmitSender<MappedMem>,
    cursor_known: bool,
    answers: Option<CompleteReceiver<MappedMem>>,
    /// Number of the last command.
    sent: u64,
    /// Whether the rings of a stream to it are open.
    pub(crate) streaming: bool,
}

/// The host in one region.
pub struct Controller {
    pub(crate) own: OwnSection<MappedMem>,
    pub(crate) arena: BoxedArena<MappedMem>,
    resolver: SpanResolver<MappedMem>,
    pub(crate) agents: BTreeMap<PeerId, Agent>,
    own_bell: Option<Arc<EventFd>>,
}

impl Controller {
    /// Joins the region as peer 0, which the switchboard has admitted under
    /// `epoch`. `own_bell` is what agents ring when they have answered.
    ///
    /// # Errors
    /// [`HostError::Region`], [`HostError::Arena`] when the section is too small.
    pub fn join(
        region: &PortalRegion<MappedMem>,
        epoch: u32,
        own_bell: Option<Arc<EventFd>>,
    ) -> Result<Self, HostError> {
        let section = region.layout().section_size;
        // A small section has room for few agents anyway.
        let directory = (section / RING_SHARE / 128).clamp(8, DIRECTORY.into()) as u32;
        let config = SectionConfig {
            directory,
            ring_bytes: section / RING_SHARE / 128 * 128,
        };
        let mut own = region.join(HOST, epoch, config)?;
        Ok(Self {
            arena: own.arena()?,
            resolver: own.resolver()?,
            own,
            agents: BTreeMap::new(),
            own_bell,
        })
    }

    /// The region.
    pub fn region(&self) -> &PortalRegion<MappedMem> {
        self.own.region()
    }

    /// Makes the command ring for an agent. To be called before its partition
    /// starts, or any time later.
    ///
    /// # Errors
    /// [`HostError::Ring`].
    pub fn expect(&mut self, agent: PeerId, seat: Seat) -> Result<(), HostError> {
        let place = self.own.create_ring(RingSpec {
            id: COMMAND_RING,
            to: agent,
            kind: RingKind::Submit,
            layout: RingLayout::Inline,
            slot_size: ENTRY_SLOT,
            slots: CONTROL_SLOTS,
        })?;
        let agent_state = Agent {
            seat,
            commands: SubmitSender::new(place)?,
            cursor_known: false,
            answers: None,
            sent: 0,
            streaming: false,
        };
        self.agents.insert(agent, agent_state);
        Ok(())
    }

    /// Waits until the agent has made its answer ring: it is up.
    ///
    /// # Errors
    /// [`HostError::TooSlow`], [`HostError::Ended`].
    pub fn await_agent(&mut self, agent: PeerId, limit: Duration) -> Result<(), HostError> {
        self.wait(agent, "joining the region", limit, |this| this.meet(agent))
    }

    /// Accepts the answer ring once it is there.
    fn meet(&mut self, id: PeerId) -> Result<Option<()>, HostError> {
        let agent = self.agents.get_mut(&id).ok_or(HostError::NoSuchAgent(id))?;
        if agent.answers.is_none() {
            match self.own.accept_ring(id, ANSWER_RING) {
                Ok(place) => agent.answers = Some(CompleteReceiver::new(place)?),
                // Not there yet, or the agent's section is not.
                Err(RingError::NotThere { .. } | RingError::Region(_)) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
        if !agent.cursor_known
            && let Some(line) = self.own.cursor(id, COMMAND_RING)?
        {
            agent.commands.set_cursor(line)?;
            agent.cursor_known = true;
        }
        Ok(Some(()))
    }

    /// Sends a command; [`Controller::answer`] takes its answer. The agent gives
    /// up after `idle` without progress, ten minutes at most; zero leaves that to
    /// the agent.
    ///
    /// # Errors
    /// [`HostError::Send`], [`HostError::Doorbell`], [`HostError::NoSuchAgent`].
    pub fn send(&mut self, id: PeerId, command: &Command, idle: Duration) -> Result<(), HostError> {
        self.meet(id)?;
        let agent = self.agents.get_mut(&id).ok_or(HostError::NoSuchAgent(id))?;
        agent.sent += 1;
        let idle = u64::try_from(idle.as_micros()).unwrap_or(u64::MAX);
        let idle = idle.min(MAX_IDLE_US);
        let entry = command.encode(agent.sent, idle);
        agent
            .commands
            .try_send(&entry)
            .map_err(|source| HostError::Send { agent: id, source })?;
        // Rung in any case: the agent may be halted whatever it has armed.
        let _ = agent.commands.flush();
        match &agent.seat.bell {
            Some(bell) => Ok(bell.ring()?),
            None => Ok(()),
        }
    }

    /// Waits for the answer to the last command and reads its results.
    ///
    /// # Errors
    /// [`HostError::Command`] when the command failed at the agent,
    /// [`HostError::TooSlow`] after `limit`, [`HostError::Ended`],
    /// [`HostError::Receive`], [`HostError::OutOfTurn`], [`HostError::Results`].
    pub fn answer(&mut self, id: PeerId, limit: Duration) -> Result<Answer, HostError> {
        let entry = self.wait(id, "an answer", limit, |this| this.poll(id))?;
        self.read(id, &entry)
    }

    /// The answer to the last command, when it is there.
    fn poll(&mut self, id: PeerId) -> Result<Option<CompleteEntry>, HostError> {
        if self.meet(id)?.is_none() {
            return Ok(None);
        }
        let agent = self.agents.get_mut(&id).ok_or(HostError::NoSuchAgent(id))?;
        let Some(answers) = &mut agent.answers else {
            return Ok(None);
        };
        let found = answers
            .try_recv()
            .map_err(|source| HostError::Receive { agent: id, source })?;
        let Some(entry) = found else {
            answers.inner().arm();
            return Ok(None);
        };
        if answers.flush().must_ring
            && let Some(bell) = &agent.seat.bell
        {
            bell.ring()?;
        }
        if std::mem::take(&mut agent.streaming) {
            // Not before: the agent may be about to accept them. Not later: it
            // would take them for the next stream's.
            self.own.close_ring(id, STREAM_RING);
            self.own.leave_ring(id, RETURN_RING);
        }
        if entry.user_data != agent.sent {
            return Err(HostError::OutOfTurn {
                agent: id,
                found: entry.user_data,
                expected: agent.sent,
            });
        }
        Ok(Some(entry))
    }

    fn read(&mut self, id: PeerId, entry: &CompleteEntry) -> Result<Answer, HostError> {
        let status = Status::from_i32(entry.status).ok_or(entry.status);
        if status != Ok(Status::Done) {
            return Err(HostError::Command { agent: id, status });
        }
        let mut answer = Answer {
            result: entry.result,
            report: Report::default(),
            counts: TickCounts::default(),
        };
        if entry.span.is_none() {
            return Ok(answer);
        }
        let results = |source| HostError::Results { agent: id, source };
        let view = self
            .resolver
            .resolve(&entry.span, Access::Read)
            .map_err(results)?;
        let mut bytes = [0; report::REPORT_BYTES];
        view.read(0, &mut bytes).map_err(|e| results(e.into()))?;
        answer.report = Report::from_bytes(&bytes);
        if answer.report.recorded > 0 {
            let end = view.len().min(report::RESULTS_BYTES);
            let mut counts = vec![0; end.saturating_sub(report::HISTOGRAM_AT) as usize];
            view.read(report::HISTOGRAM_AT, &mut counts)
                .map_err(|e| results(e.into()))?;
            answer.counts = TickCounts::from_bytes(&counts);
        }
        Ok(answer)
    }

    /// Has two agents do a job together: `second` gets its half first, because it
    /// is the one that waits. Returns the first one's answer and the second's.
    ///
    /// # Errors
    /// As [`Controller::send`] and [`Controller::answer`].
    pub fn pair(
        &mut self,
        first: (PeerId, Command),
        second: (PeerId, Command),
        limit: Duration,
    ) -> Result<(Answer, Answer), HostError> {
        let until = Instant::now() + limit;
        self.send(second.0, &second.1, limit)?;
        self.send(first.0, &first.1, limit)?;
        let one = self.answer(first.0, limit)?;
        let left = until.saturating_duration_since(Instant::now());
        let two = self.answer(second.0, left.max(LONG_SLEEP))?;
        Ok((one, two))
    }

    /// Tries `attempt` until it gives something, asleep in between.
    pub(crate) fn wait<T>(
        &mut self,
        id: PeerId,
        what: &'static str,
        limit: Duration,
        mut attempt: impl FnMut(&mut Self) -> Result<Option<T>, HostError>,
    ) -> Result<T, HostError> {
        let started = Instant::now();
        let mut sleep = SHORT_SLEEP;
        loop {
            if let Some(found) = attempt(self)? {
                return Ok(found);
            }
            let agent = self.agents.get(&id).ok_or(HostError::NoSuchAgent(id))?;
            if !(agent.seat.alive)() {
                // It may have answered and then ended, between the two looks.
                return attempt(self)?.ok_or(HostError::Ended { agent: id, what });
            }
            let Some(left) = limit.checked_sub(started.elapsed()) else {
                return Err(HostError::TooSlow {
                    agent: id,
                    what,
                    limit,
                });
            };
            match &self.own_bell {
                Some(bell) => {
                    bell.wait(Some(LONG_SLEEP.min(left)))?;
                }
                None => {
                    std::thread::sleep(sleep.min(left));
                    sleep = (sleep * 2).min(LONG_SLEEP);
                }
            }
        }
    }

    /// The bell of an agent's vector [`RING_VECTOR`], where it has one.
    pub(crate) fn ring(&self, id: PeerId) -> Result<(), HostError> {
        let agent = self.agents.get(&id).ok_or(HostError::NoSuchAgent(id))?;
        match &agent.seat.bell {
            Some(bell) => Ok(bell.ring()?),
            None => Ok(()),
        }
    }

    /// The vector that [`Seat::bell`] and the host's own bell stand for.
    pub const VECTOR: u16 = RING_VECTOR;
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller")
            .field("region", &self.own.region().header().name)
            .field("agents", &self.agents.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
