//! The loop: a command from peer 0, the job, the answer.

use crate::EXIT_HOST_GONE;
use crate::agent::Agent;
use crate::doorbell;
use crate::failure::Failure;
use crate::idle::Idle;
use crate::in_place;
use crate::ping;
use crate::sink;
use crate::source;
use core::time::Duration;
use hv_shmem::mem::RawMem;
use hv_shmem::ring::CompleteEntry;
use hv_shmem::ring::CompleteSender;
use hv_shmem::ring::ENTRY_SLOT;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::SendError;
use hv_shmem::ring::SubmitReceiver;
use hv_shmem::wait::WaitMode;
use hv_shmem::wait::Waited;
use hv_shmem::wait::Waiter;
use portal_agent_abi::ANSWER_RING;
use portal_agent_abi::COMMAND_RING;
use portal_agent_abi::CONTROL_SLOTS;
use portal_agent_abi::Command;
use portal_agent_abi::HOST;
use portal_agent_abi::Status;
use portal_agent_abi::report::Report;
use portal_warp::ExitCode;
use portal_warp::println;
use portal_warp::time;

/// How long the agent waits for the host to make its rings, and for room for an
/// answer, in microseconds.
const HOST_US: u64 = 60_000_000;
/// Longest wait for a command before the agent looks whether the host is still
/// there.
const LOOK_AT_HOST: Duration = Duration::from_secs(1);

struct Control {
    commands: SubmitReceiver<RawMem>,
    answers: CompleteSender<RawMem>,
    waiter: Waiter<time::Clock>,
}

impl Control {
    fn open(agent: &mut Agent<'_>) -> Result<Self, Failure> {
        let idle = Idle::new(agent.machine.clock(), HOST_US);
        let place = agent.open(
            HOST,
            ANSWER_RING,
            RingKind::Complete,
            RingLayout::Inline,
            (ENTRY_SLOT, CONTROL_SLOTS),
        )?;
        let mut answers = CompleteSender::new(place)?;
        let commands = SubmitReceiver::new(agent.accept(HOST, COMMAND_RING, &idle)?)?;
        answers.set_cursor(agent.cursor(HOST, ANSWER_RING, &idle)?)?;
        Ok(Self {
            commands,
            answers,
            waiter: Waiter::new(WaitMode::Adaptive, agent.machine.clock()),
        })
    }

    fn answer(&mut self, agent: &Agent<'_>, answer: &CompleteEntry) -> Result<(), Failure> {
        let idle = Idle::new(agent.machine.clock(), HOST_US);
        loop {
            match self.answers.try_send(answer) {
                Ok(()) => break,
                Err(SendError::Full) => {
                    idle.check()?;
                    self.waiter
                        .wait(self.answers.inner(), &agent.ears, Some(idle.left()))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        agent.wake(HOST, self.answers.flush());
        Ok(())
    }
}

/// Serves commands until one says to exit, or the host is gone.
pub(crate) fn serve(mut agent: Agent<'_>) -> ExitCode {
    let result = Control::open(&mut agent).and_then(|mut control| run(&mut agent, &mut control));
    match result {
        Ok(code) => ExitCode(code),
        Err(failure) => {
            println!("WARP: the host is lost: {failure}");
            ExitCode(EXIT_HOST_GONE)
        }
    }
}

fn run(agent: &mut Agent<'_>, control: &mut Control) -> Result<u32, Failure> {
    let clock = agent.machine.clock();
    loop {
        agent.own.beat();
        let Some(entry) = control.commands.try_recv()? else {
            let wake = control.commands.flush();
            agent.wake(HOST, wake);
            let waited =
                control
                    .waiter
                    .wait(control.commands.inner(), &agent.ears, Some(LOOK_AT_HOST))?;
            if waited == Waited::TimedOut && agent.own.region().live_epoch(HOST).is_none() {
                return Err(Failure::PeerGone);
            }
            continue;
        };
        agent.retract();
        agent.histogram.clear();
        let decoded = Command::decode(&entry).map_err(Failure::from);
        let result = decoded.and_then(|(command, idle)| {
            let idle = Idle::new(clock, idle);
            job(agent, command, idle).map(|report| (command, report))
        });
        let mut answer = CompleteEntry {
            user_data: entry.user_data,
            status: Status::Done as i32,
            ..CompleteEntry::default()
        };
        let mut exit = None;
        match result {
            Ok((command, report)) => {
                answer.result = match command {
                    Command::Nop => time::now(),
                    _ => report.count,
                };
                match command {
                    Command::Nop => {}
                    Command::Exit { code } => exit = Some(code),
                    _ => answer.span = agent.publish(&report),
                }
            }
            Err(failure) => {
                println!("WARP: peer {}: {failure}", agent.own.me().0);
                answer.status = failure.status() as i32;
            }
        }
        control.answer(agent, &answer)?;
        if let Some(code) = exit {
            return Ok(code);
        }
    }
}

fn job(agent: &mut Agent<'_>, command: Command, idle: Idle) -> Result<Report, Failure> {
    match command {
        Command::Nop | Command::Exit { .. } => Ok(Report::default()),
        Command::Ping { peer, rounds } => ping::ping(agent, peer, rounds, idle),
        Command::Pong { peer, rounds } => ping::pong(agent, peer, rounds, idle),
        Command::InPlacePing { peer, rounds } => in_place::ping(agent, peer, rounds, idle),
        Command::InPlacePong { peer, rounds } => in_place::pong(agent, peer, rounds, idle),
        Command::DoorbellPing {
            peer,
            rounds,
            listen,
        } => doorbell::ping(agent, peer, rounds, listen, idle),
        Command::DoorbellEcho {
            peer,
            rounds,
            listen,
        } => doorbell::echo(agent, peer, rounds, listen, idle),
        Command::Source {
            to,
            fill,
            span_bytes,
            window,
            total,
        } => source::source(
            agent,
            &source::Order {
                to,
                fill,
                span_bytes,
                window,
                total,
            },
            idle,
        ),
        Command::Sink { from, drain } => sink::sink(agent, from, drain, idle),
    }
}
