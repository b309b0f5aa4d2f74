//! Calls that are answered in the request's own line of the common section.

use crate::agent::Agent;
use crate::failure::Failure;
use crate::idle::Idle;
use crate::laps;
use crate::ping::PAYLOAD;
use crate::ping::expect;
use crate::ping::message;
use crate::ping::report;
use hv_shmem::layout::PeerId;
use hv_shmem::ring::InPlaceCaller;
use hv_shmem::ring::InPlaceServer;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use portal_agent_abi::IN_PLACE_RING;
use portal_agent_abi::PING_SLOTS;
use portal_agent_abi::report::Report;

/// The calling side.
pub(crate) fn ping(
    agent: &mut Agent<'_>,
    peer: PeerId,
    rounds: u32,
    mut idle: Idle,
) -> Result<Report, Failure> {
    let result = call(agent, peer, rounds, &mut idle);
    agent.close(peer, IN_PLACE_RING);
    result.map(|ticks| report(rounds, ticks))
}

fn call(agent: &mut Agent<'_>, peer: PeerId, rounds: u32, idle: &mut Idle) -> Result<u64, Failure> {
    let place = agent.open(
        peer,
        IN_PLACE_RING,
        RingKind::Upcall,
        RingLayout::InPlace,
        (64, PING_SLOTS),
    )?;
    let mut caller = InPlaceCaller::new(place)?;
    caller.set_cursor(agent.cursor(peer, IN_PLACE_RING, idle)?)?;
    laps::run(agent.histogram, rounds, idle, |round, idle| {
        let request = message(round);
        caller.try_call(&request)?;
        let mut answer = [0; PAYLOAD];
        idle.spin(|| Ok(caller.poll_answer(&mut answer)?))?;
        expect(&answer, &answer_to(&request))
    })
}

/// The serving side.
pub(crate) fn pong(
    agent: &mut Agent<'_>,
    peer: PeerId,
    rounds: u32,
    mut idle: Idle,
) -> Result<Report, Failure> {
    let place = agent.accept(peer, IN_PLACE_RING, &idle)?;
    let mut server = InPlaceServer::new(place)?;
    let ticks = laps::serve(rounds, &mut idle, |idle| {
        let mut request = [0; PAYLOAD];
        idle.spin(|| Ok(server.try_recv(&mut request)?))?;
        Ok(server.answer(&answer_to(&request))?)
    })?;
    Ok(report(rounds, ticks))
}

/// The answer: the request with its first byte inverted, so that an untouched
/// line is no answer.
#[inline(always)]
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
            assert!(expect(&answer_to(&request), &request).is_err());
        }
    }
}
