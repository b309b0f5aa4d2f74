//! Doorbell there, doorbell back: a store to a device register, an interrupt at
//! the other partition, and the same again in return.
//!
//! The answering side makes a ring to the starting side when it listens; finding
//! that ring is how the starting side knows. No message goes through it.

use crate::agent::Agent;
use crate::failure::Failure;
use crate::idle::Idle;
use hv_shmem::doorbell::Heard;
use hv_shmem::layout::PeerId;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use portal_agent_abi::DOORBELL_VECTOR;
use portal_agent_abi::PING_RING;
use portal_agent_abi::command::Listen;
use portal_agent_abi::report::Report;
use portal_warp::ivshmem::InterruptBell;
use portal_warp::time;

fn hear(bell: &InterruptBell<'_>, listen: Listen, idle: &Idle) -> Result<(), Failure> {
    let heard = match listen {
        Listen::Halt => bell.wait_until(idle.deadline()),
        Listen::Spin => bell.spin_until(idle.deadline()),
    };
    match heard {
        Heard::Rang => Ok(()),
        Heard::TimedOut => Err(Failure::TimedOut),
    }
}

/// The starting side.
pub(crate) fn ping(
    agent: &mut Agent<'_>,
    peer: PeerId,
    rounds: u32,
    listen: Listen,
    mut idle: Idle,
) -> Result<Report, Failure> {
    let bell = listener(agent)?;
    agent.accept(peer, PING_RING, &idle)?;
    let device = agent.device.as_ref().ok_or(Failure::NoDoorbell)?;
    let taken = bell.count();
    let started = time::now();
    for _ in 0..rounds {
        let before = time::now();
        device.ring(peer, DOORBELL_VECTOR);
        hear(&bell, listen, &idle)?;
        agent.histogram.record(time::now().wrapping_sub(before));
        idle.progress();
    }
    Ok(Report {
        count: rounds.into(),
        ticks: time::now().wrapping_sub(started),
        interrupts: bell.count().wrapping_sub(taken),
        ..Report::default()
    })
}

/// The answering side.
pub(crate) fn echo(
    agent: &mut Agent<'_>,
    peer: PeerId,
    rounds: u32,
    listen: Listen,
    idle: Idle,
) -> Result<Report, Failure> {
    let bell = listener(agent)?;
    agent.open(
        peer,
        PING_RING,
        RingKind::Stream,
        RingLayout::Inline,
        (64, 1),
    )?;
    let result = answer(agent, &bell, peer, rounds, listen, idle);
    agent.close(peer, PING_RING);
    result
}

fn answer(
    agent: &Agent<'_>,
    bell: &InterruptBell<'_>,
    peer: PeerId,
    rounds: u32,
    listen: Listen,
    mut idle: Idle,
) -> Result<Report, Failure> {
    let device = agent.device.as_ref().ok_or(Failure::NoDoorbell)?;
    let taken = bell.count();
    let started = time::now();
    for _ in 0..rounds {
        hear(bell, listen, &idle)?;
        device.ring(peer, DOORBELL_VECTOR);
        idle.progress();
    }
    Ok(Report {
        count: rounds.into(),
        ticks: time::now().wrapping_sub(started),
        interrupts: bell.count().wrapping_sub(taken),
        ..Report::default()
    })
}

fn listener<'m>(agent: &Agent<'m>) -> Result<InterruptBell<'m>, Failure> {
    let device = agent.device.as_ref().ok_or(Failure::NoDoorbell)?;
    Ok(device.listen(DOORBELL_VECTOR)?)
}
