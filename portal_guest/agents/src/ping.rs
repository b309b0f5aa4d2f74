//! Ping and pong over a pair of in-line rings, one message in flight.
//!
//! Both sides poll: what is measured is the way of one cache line there and one
//! back.

use crate::agent::Agent;
use crate::failure::Failure;
use crate::idle::Idle;
use crate::laps;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::RawMem;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::SendError;
use portal_agent_abi::PING_RING;
use portal_agent_abi::PING_SLOTS;
use portal_agent_abi::report::Report;

/// Payload of a message, in bytes: the rest of a cache line.
pub(crate) const PAYLOAD: usize = 56;

struct Link {
    sender: InlineSender<RawMem>,
    receiver: InlineReceiver<RawMem>,
}

impl Link {
    fn new(agent: &mut Agent<'_>, peer: PeerId, idle: &Idle) -> Result<Self, Failure> {
        let place = agent.open(
            peer,
            PING_RING,
            RingKind::Stream,
            RingLayout::Inline,
            (64, PING_SLOTS),
        )?;
        let mut sender = InlineSender::new(place)?;
        let receiver = InlineReceiver::new(agent.accept(peer, PING_RING, idle)?)?;
        sender.set_cursor(agent.cursor(peer, PING_RING, idle)?)?;
        Ok(Self { sender, receiver })
    }

    #[inline(always)]
    fn send(&mut self, message: &[u8; PAYLOAD], idle: &Idle) -> Result<(), Failure> {
        let sender = &mut self.sender;
        idle.spin(|| match sender.try_send(message) {
            Ok(()) => Ok(Some(())),
            Err(SendError::Full) => Ok(None),
            Err(error) => Err(error.into()),
        })
    }

    #[inline(always)]
    fn receive(&mut self, message: &mut [u8; PAYLOAD], idle: &Idle) -> Result<(), Failure> {
        let receiver = &mut self.receiver;
        idle.spin(|| Ok(receiver.try_recv(message)?))?;
        Ok(())
    }
}

/// The starting side.
pub(crate) fn ping(
    agent: &mut Agent<'_>,
    peer: PeerId,
    rounds: u32,
    mut idle: Idle,
) -> Result<Report, Failure> {
    let result = Link::new(agent, peer, &idle).and_then(|mut link| {
        laps::run(agent.histogram, rounds, &mut idle, |round, idle| {
            let message = message(round);
            link.send(&message, idle)?;
            let mut answer = [0; PAYLOAD];
            link.receive(&mut answer, idle)?;
            expect(&answer, &message)
        })
    });
    agent.close(peer, PING_RING);
    result.map(|ticks| report(rounds, ticks))
}

/// The answering side.
pub(crate) fn pong(
    agent: &mut Agent<'_>,
    peer: PeerId,
    rounds: u32,
    mut idle: Idle,
) -> Result<Report, Failure> {
    let result = Link::new(agent, peer, &idle).and_then(|mut link| {
        laps::serve(rounds, &mut idle, |idle| {
            let mut message = [0; PAYLOAD];
            link.receive(&mut message, idle)?;
            link.send(&message, idle)
        })
    });
    agent.close(peer, PING_RING);
    result.map(|ticks| report(rounds, ticks))
}

/// What both sides report.
pub(crate) fn report(rounds: u32, ticks: u64) -> Report {
    Report {
        count: rounds.into(),
        bytes: u64::from(rounds) * 2 * PAYLOAD as u64,
        ticks,
        ..Report::default()
    }
}

/// The message of a round: seven words that all depend on it.
#[inline(always)]
pub(crate) fn message(round: u64) -> [u8; PAYLOAD] {
    let mut message = [0; PAYLOAD];
    let (words, _) = message.as_chunks_mut::<8>();
    for (word, index) in words.iter_mut().zip(0..) {
        *word = round.wrapping_add(index).to_le_bytes();
    }
    message
}

/// Compares word by word: `memcmp` would be a call.
#[inline(always)]
pub(crate) fn expect(found: &[u8; PAYLOAD], expected: &[u8; PAYLOAD]) -> Result<(), Failure> {
    let pairs = found
        .as_chunks::<8>()
        .0
        .iter()
        .zip(expected.as_chunks::<8>().0);
    let mut different = 0;
    for (found, expected) in pairs {
        different |= u64::from_le_bytes(*found) ^ u64::from_le_bytes(*expected);
    }
    if different == 0 {
        return Ok(());
    }
    Err(Failure::Protocol {
        what: "bits of an answer that are wrong",
        found: different,
        expected: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_wrong_byte_is_found() {
        let good = message(77);
        assert!(expect(&good, &message(77)).is_ok());
        assert!(expect(&good, &message(78)).is_err());
        for at in 0..PAYLOAD {
            let mut bad = good;
            bad[at] ^= 0x10;
            assert!(expect(&bad, &good).is_err(), "byte {at}");
        }
    }
}
