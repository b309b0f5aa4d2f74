//! Commands, and how they lie in a `SubmitEntry`.
//!
//! | field of the entry | meaning |
//! |---|---|
//! | opcode | which command |
//! | flags, bits 0..16 | the other peer |
//! | flags, bits 16..24 | variation |
//! | flags, bits 24..32 | spans on their way at once (source) |
//! | arg | rounds, bytes in total, or exit code |
//! | span.offset | idle limit in microseconds: the agent gives up after so long without progress |
//! | span.length | bytes of each span (source) |
//!
//! The entry's span names no memory here; two of its fields carry numbers.

use hv_shmem::layout::PeerId;
use hv_shmem::ring::SubmitEntry;
use hv_shmem::span::PortalSpan;

/// Idle limit where a command gives 0, in microseconds.
pub const DEFAULT_IDLE_US: u64 = 10_000_000;
/// Longest idle limit, in microseconds: ten minutes, so that no agent is lost
/// for good.
pub const MAX_IDLE_US: u64 = 600_000_000;
/// Longest span of a stream, in bytes.
pub const MAX_STREAM_SPAN: u32 = 1 << 28;

/// What a source puts into its spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fill {
    /// Copies of spans that the host streams to it (ring 18 from peer 0).
    Relay = 0,
    /// A pattern, written anew each time: for bandwidth.
    Pattern = 1,
    /// Nothing after the first time: for the cost of handing over alone.
    Nothing = 2,
}

/// What a sink does with the spans that it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Drain {
    /// BLAKE3 over all bytes.
    Hash = 0,
    /// Loads each byte once.
    Read = 1,
    /// Only counts them.
    Count = 2,
}

/// How an agent waits for a doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Listen {
    /// Halted until the interrupt comes.
    Halt = 0,
    /// Running, looking at the interrupt's count.
    Spin = 1,
}

/// One command to one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Answers at once; the result is the TSC.
    Nop,
    /// Round trips over a pair of in-line rings: the starting side. Fills the
    /// histogram with TSC ticks a round.
    Ping {
        /// The agent that got `Pong`.
        peer: PeerId,
        /// Round trips that count.
        rounds: u32,
    },
    /// The answering side.
    Pong {
        /// The agent that got `Ping`.
        peer: PeerId,
        /// As in `Ping`.
        rounds: u32,
    },
    /// Round trips in one line of the common section: the calling side.
    InPlacePing {
        /// The agent that got `InPlacePong`.
        peer: PeerId,
        /// Round trips that count.
        rounds: u32,
    },
    /// The serving side.
    InPlacePong {
        /// The agent that got `InPlacePing`.
        peer: PeerId,
        /// As in `InPlacePing`.
        rounds: u32,
    },
    /// Doorbell there, doorbell back: the starting side. Histogram as in `Ping`.
    DoorbellPing {
        /// The agent that got `DoorbellEcho`.
        peer: PeerId,
        /// Round trips.
        rounds: u32,
        /// How both wait.
        listen: Listen,
    },
    /// The answering side.
    DoorbellEcho {
        /// The agent that got `DoorbellPing`.
        peer: PeerId,
        /// As in `DoorbellPing`.
        rounds: u32,
        /// How it waits.
        listen: Listen,
    },
    /// Sends spans of its arena to a sink.
    Source {
        /// The agent that got `Sink`.
        to: PeerId,
        /// What goes into them.
        fill: Fill,
        /// Bytes of each span, at most [`MAX_STREAM_SPAN`].
        span_bytes: u32,
        /// Spans on their way at once, 1 to [`crate::STREAM_SLOTS`].
        window: u8,
        /// Bytes in all; ignored by `Relay`, which ends when the host does.
        total: u64,
    },
    /// Takes spans from a source until it ends.
    Sink {
        /// The sending peer; may be the host.
        from: PeerId,
        /// What to do with them.
        drain: Drain,
    },
    /// Answers, then ends the partition.
    Exit {
        /// The partition's exit code.
        code: u32,
    },
}

/// A `SubmitEntry` that is no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadCommand {
    /// Nobody knows this opcode.
    #[error("opcode {0} is unknown")]
    Opcode(u32),
    /// A number is outside its limits.
    #[error("{field} is {value}, the limit is {limit}")]
    Field {
        /// Which one.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The largest possible value (the smallest is 0 or 1).
        limit: u64,
    },
}

const NOP: u32 = 0;
const PING: u32 = 1;
const PONG: u32 = 2;
const IN_PLACE_PING: u32 = 3;
const IN_PLACE_PONG: u32 = 4;
const DOORBELL_PING: u32 = 5;
const DOORBELL_ECHO: u32 = 6;
const SOURCE: u32 = 7;
const SINK: u32 = 8;
const EXIT: u32 = 9;

/// Opcode, peer, variation, window, arg, span length: a command taken apart.
type Parts = (u32, PeerId, u8, u8, u64, u64);

impl Command {
    fn parts(&self) -> Parts {
        match *self {
            Self::Nop => (NOP, PeerId(0), 0, 0, 0, 0),
            Self::Ping { peer, rounds } => (PING, peer, 0, 0, rounds.into(), 0),
            Self::Pong { peer, rounds } => (PONG, peer, 0, 0, rounds.into(), 0),
            Self::InPlacePing { peer, rounds } => (IN_PLACE_PING, peer, 0, 0, rounds.into(), 0),
            Self::InPlacePong { peer, rounds } => (IN_PLACE_PONG, peer, 0, 0, rounds.into(), 0),
            Self::DoorbellPing {
                peer,
                rounds,
                listen,
            } => (DOORBELL_PING, peer, listen as u8, 0, rounds.into(), 0),
            Self::DoorbellEcho {
                peer,
                rounds,
                listen,
            } => (DOORBELL_ECHO, peer, listen as u8, 0, rounds.into(), 0),
            Self::Source {
                to,
                fill,
                span_bytes,
                window,
                total,
            } => (SOURCE, to, fill as u8, window, total, span_bytes.into()),
            Self::Sink { from, drain } => (SINK, from, drain as u8, 0, 0, 0),
            Self::Exit { code } => (EXIT, PeerId(0), 0, 0, code.into(), 0),
        }
    }

    /// The entry that carries the command. `idle_us`: the agent gives up after
    /// so many microseconds without progress; 0 for [`DEFAULT_IDLE_US`].
    pub fn encode(&self, user_data: u64, idle_us: u64) -> SubmitEntry {
        let (opcode, peer, variation, window, arg, length) = self.parts();
        SubmitEntry {
            opcode,
            flags: u32::from(peer.0) | u32::from(variation) << 16 | u32::from(window) << 24,
            user_data,
            span: PortalSpan {
                offset: idle_us,
                length,
                ..PortalSpan::NONE
            },
            arg,
        }
    }

    /// The command in an entry, and its idle limit in microseconds.
    ///
    /// # Errors
    /// [`BadCommand`] names the field.
    pub fn decode(entry: &SubmitEntry) -> Result<(Self, u64), BadCommand> {
        let peer = PeerId((entry.flags & 0xFFFF) as u16);
        let variation = (entry.flags >> 16 & 0xFF) as u8;
        let window = (entry.flags >> 24) as u8;
        let command = match entry.opcode {
            NOP => Self::Nop,
            PING => Self::Ping {
                peer,
                rounds: rounds(entry.arg)?,
            },
            PONG => Self::Pong {
                peer,
                rounds: rounds(entry.arg)?,
            },
            IN_PLACE_PING => Self::InPlacePing {
                peer,
                rounds: rounds(entry.arg)?,
            },
            IN_PLACE_PONG => Self::InPlacePong {
                peer,
                rounds: rounds(entry.arg)?,
            },
            DOORBELL_PING => Self::DoorbellPing {
                peer,
                rounds: rounds(entry.arg)?,
                listen: listen(variation)?,
            },
            DOORBELL_ECHO => Self::DoorbellEcho {
                peer,
                rounds: rounds(entry.arg)?,
                listen: listen(variation)?,
            },
            SOURCE => Self::Source {
                to: peer,
                fill: match variation {
                    0 => Fill::Relay,
                    1 => Fill::Pattern,
                    2 => Fill::Nothing,
                    _ => return Err(field("fill", variation.into(), 2)),
                },
                span_bytes: within("span_bytes", entry.span.length, 1, MAX_STREAM_SPAN.into())?
                    as u32,
                window: within("window", window.into(), 1, crate::STREAM_SLOTS.into())? as u8,
                total: entry.arg,
            },
            SINK => Self::Sink {
                from: peer,
                drain: match variation {
                    0 => Drain::Hash,
                    1 => Drain::Read,
                    2 => Drain::Count,
                    _ => return Err(field("drain", variation.into(), 2)),
                },
            },
            EXIT => Self::Exit {
                code: within("code", entry.arg, 0, u32::MAX.into())? as u32,
            },
            other => return Err(BadCommand::Opcode(other)),
        };
        let idle = match entry.span.offset {
            0 => DEFAULT_IDLE_US,
            other => within("idle limit", other, 1, MAX_IDLE_US)?,
        };
        Ok((command, idle))
    }
}

fn field(field: &'static str, value: u64, limit: u64) -> BadCommand {
    BadCommand::Field {
        field,
        value,
        limit,
    }
}

fn within(name: &'static str, value: u64, low: u64, limit: u64) -> Result<u64, BadCommand> {
    if value < low || value > limit {
        return Err(field(name, value, limit));
    }
    Ok(value)
}

fn rounds(arg: u64) -> Result<u32, BadCommand> {
    Ok(within("rounds", arg, 1, u32::MAX.into())? as u32)
}

fn listen(variation: u8) -> Result<Listen, BadCommand> {
    match variation {
        0 => Ok(Listen::Halt),
        1 => Ok(Listen::Spin),
        _ => Err(field("listen", variation.into(), 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId(0x1234);

    fn all() -> [Command; 11] {
        [
            Command::Nop,
            Command::Ping {
                peer: PEER,
                rounds: 1,
            },
            Command::Pong {
                peer: PEER,
                rounds: u32::MAX,
            },
            Command::InPlacePing {
                peer: PEER,
                rounds: 7,
            },
            Command::InPlacePong {
                peer: PEER,
                rounds: 8,
            },
            Command::DoorbellPing {
                peer: PEER,
                rounds: 9,
                listen: Listen::Spin,
            },
            Command::DoorbellEcho {
                peer: PEER,
                rounds: 10,
                listen: Listen::Halt,
            },
            Command::Source {
                to: PEER,
                fill: Fill::Nothing,
                span_bytes: 1 << 20,
                window: 64,
                total: u64::MAX,
            },
            Command::Sink {
                from: PEER,
                drain: Drain::Count,
            },
            Command::Sink {
                from: PeerId(0),
                drain: Drain::Hash,
            },
            Command::Exit { code: u32::MAX },
        ]
    }

    #[test]
    fn what_is_encoded_decodes() {
        for command in all() {
            let entry = command.encode(77, 5);
            assert_eq!(entry.user_data, 77);
            assert_eq!(Command::decode(&entry), Ok((command, 5)));
            let entry = command.encode(77, 0);
            assert_eq!(Command::decode(&entry), Ok((command, DEFAULT_IDLE_US)));
        }
    }

    #[test]
    fn numbers_outside_their_limits_are_refused() {
        let good = Command::Source {
            to: PEER,
            fill: Fill::Pattern,
            span_bytes: 4096,
            window: 1,
            total: 0,
        }
        .encode(0, 1);
        let mut bad = [good; 6];
        bad[0].opcode = 10;
        bad[1].flags = bad[1].flags & 0x00FF_FFFF | 65 << 24;
        bad[2].flags &= 0x00FF_FFFF;
        bad[3].flags |= 3 << 16;
        bad[4].span.length = u64::from(MAX_STREAM_SPAN) + 1;
        bad[5].span.offset = MAX_IDLE_US + 1;
        for entry in bad {
            assert!(Command::decode(&entry).is_err(), "{entry:?}");
        }
        let none = Command::Ping {
            peer: PEER,
            rounds: 0,
        };
        assert!(Command::decode(&none.encode(0, 0)).is_err());
    }
}
