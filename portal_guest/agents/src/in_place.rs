//! Calls that are answered in the request's own line of the common section.

use crate::agent::Agent;
use crate::failure::Failure;
use crate::idle::Idle;
use crate::ping::WARM_UP;
use hv_shmem::layout::PeerId;
use hv_shmem::ring::InPlaceCaller;
use hv_shmem::ring::InPlaceServer;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use portal_agent_abi::IN_PLACE_RING;
use portal_agent_abi::PING_SLOTS;
use portal_agent_abi::report::Report;
use portal_warp::time;

/// Payload of a call, in bytes.
const PAYLOAD: usize = 56;
/// Rounds between two readings of the clock for the idle limit.
const ROUNDS_PER_READING: u64 = 4096;

/// The calling side.
pub(crate) fn ping(
    agent: &mut Agent<'_>,
    peer: PeerId,
    rounds: u32,
    idle: Idle,
) -> Result<Report, Failure> {
    let result = call(agent, peer, rounds, idle);
    agent.close(peer, IN_PLACE_RING);
    result
}

fn call(
    agent: &mut Agent<'_>,
    peer: PeerId,
    rounds: u32,
    mut idle: Idle,
) -> Result<Report, Failure> {
    let place = agent.open(
        peer,
        IN_PLACE_RING,
        RingKind::Upcall,
        RingLayout::InPlace,
        (64, PING_SLOTS),
    )?;
    let mut caller = InPlaceCaller::new(place)?;
    caller.set_cursor(agent.cursor(peer, IN_PLACE_RING, &idle)?)?;
    let histogram = &mut *agent.histogram;
    let mut started = time::now();
    let mut request = [0; PAYLOAD];
    for round in 0..u64::from(WARM_UP) + u64::from(rounds) {
        if round == u64::from(WARM_UP) {
            histogram.clear();
            started = time::now();
        }
        let before = time::now();
        request[..8].copy_from_slice(&round.to_le_bytes());
        caller.try_call(&request)?;
        let mut answer = [0; PAYLOAD];
        idle.spin(|| Ok(caller.poll_answer(&mut answer)?))?;
        histogram.record(time::now().wrapping_sub(before));
        if answer != answer_to(&request) {
            return Err(Failure::Protocol {
                what: "the answer in place",
                found: answer.iter().map(|b| u64::from(*b)).sum(),
                expected: round,
            });
        }
        if round % ROUNDS_PER_READING == 0 {
            idle.progress();
        }
    }
    Ok(Report {
        count: rounds.into(),
        bytes: u64::from(rounds) * 2 * PAYLOAD as u64,
        ticks: time::now().wrapping_sub(started),
        ..Report::default()
    })
}

/// The serving side.
pub(crate) fn pong(
    agent: &mut Agent<'_>,
    peer: PeerId,
    rounds: u32,
    idle: Idle,
) -> Result<Report, Failure> {
    let result = answer(agent, peer, rounds, idle);
    agent.close(peer, IN_PLACE_RING);
    result
}

fn answer(
    agent: &mut Agent<'_>,
    peer: PeerId,
    rounds: u32,
    mut idle: Idle,
) -> Result<Report, Failure> {
    let place = agent.accept(peer, IN_PLACE_RING, &idle)?;
    let mut server = InPlaceServer::new(place)?;
    let started = time::now();
    for round in 0..u64::from(WARM_UP) + u64::from(rounds) {
        let mut request = [0; PAYLOAD];
        idle.spin(|| Ok(server.try_recv(&mut request)?))?;
        server.answer(&answer_to(&request))?;
        if round % ROUNDS_PER_READING == 0 {
            idle.progress();
        }
    }
    Ok(Report {
        count: rounds.into(),
        bytes: u64::from(rounds) * 2 * PAYLOAD as u64,
        ticks: time::now().wrapping_sub(started),
        ..Report::default()
    })
}

/// The answer: the request with its first byte inverted, so that an untouched
/// line is no answer.
fn answer_to(request: &[u8; PAYLOAD]) -> [u8; PAYLOAD] {
    let mut answer = *request;
    answer[0] = !answer[0];
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_request_is_its_own_answer() {
        for byte in 0..=255 {
            let request = [byte; PAYLOAD];
            assert_ne!(answer_to(&request), request);
        }
    }
}
