//! Ping and pong over a pair of in-line rings, one message in flight.
//!
//! Both sides look without pause: what is measured is the way of one cache line
//! there and one back.

use crate::agent::Agent;
use crate::failure::Failure;
use crate::idle::Idle;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::RawMem;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use portal_agent_abi::PING_RING;
use portal_agent_abi::PING_SLOTS;
use portal_agent_abi::report::Report;
use portal_warp::time;

/// Payload of a message, in bytes: the rest of a cache line.
const PAYLOAD: usize = 56;
/// Rounds before the ones that count.
pub(crate) const WARM_UP: u32 = 1000;
/// Rounds between two readings of the clock for the idle limit.
const ROUNDS_PER_READING: u32 = 4096;

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
            Err(hv_shmem::ring::SendError::Full) => Ok(None),
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
        let histogram = &mut *agent.histogram;
        let mut started = time::now();
        let mut message = [0; PAYLOAD];
        for round in 0..u64::from(WARM_UP) + u64::from(rounds) {
            if round == u64::from(WARM_UP) {
                histogram.clear();
                started = time::now();
            }
            let before = time::now();
            message[..8].copy_from_slice(&round.to_le_bytes());
            link.send(&message, &idle)?;
            let mut answer = [0; PAYLOAD];
            link.receive(&mut answer, &idle)?;
            histogram.record(time::now().wrapping_sub(before));
            if answer != message {
                return Err(Failure::Protocol {
                    what: "pong's message",
                    found: word(&answer),
                    expected: round,
                });
            }
            if round % u64::from(ROUNDS_PER_READING) == 0 {
                idle.progress();
            }
        }
        Ok(Report {
            count: rounds.into(),
            bytes: u64::from(rounds) * 2 * PAYLOAD as u64,
            ticks: time::now().wrapping_sub(started),
            ..Report::default()
        })
    });
    agent.close(peer, PING_RING);
    result
}

/// The answering side.
pub(crate) fn pong(
    agent: &mut Agent<'_>,
    peer: PeerId,
    rounds: u32,
    mut idle: Idle,
) -> Result<Report, Failure> {
    let result = Link::new(agent, peer, &idle).and_then(|mut link| {
        let started = time::now();
        for round in 0..u64::from(WARM_UP) + u64::from(rounds) {
            let mut message = [0; PAYLOAD];
            link.receive(&mut message, &idle)?;
            link.send(&message, &idle)?;
            if round % u64::from(ROUNDS_PER_READING) == 0 {
                idle.progress();
            }
        }
        Ok(Report {
            count: rounds.into(),
            bytes: u64::from(rounds) * 2 * PAYLOAD as u64,
            ticks: time::now().wrapping_sub(started),
            ..Report::default()
        })
    });
    agent.close(peer, PING_RING);
    result
}

fn word(message: &[u8; PAYLOAD]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&message[..8]);
    u64::from_le_bytes(bytes)
}
