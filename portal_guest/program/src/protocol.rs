//! What `portal-guest` says to `portal-guest`, in messages of a link.
//!
//! | tag | message | fields, little-endian |
//! |---|---|---|
//! | 16 | Ping | u64 at 8: number |
//! | 17 | Pong | u64 at 8: the same number |
//! | 18 | Mode | u8 at 1: how to wait from now on: 0 spin, 1 adaptive, 2 sleep; answered by itself |
//! | 19 | Stream | u8 at 1: 1 with hashes; u32 at 4: id of the bulk ring |
//! | 20 | Ready | the bulk ring is accepted |
//! | 21 | End | u64 at 8: bytes; 32 bytes at 16: BLAKE3, or zeros |
//! | 22 | Verdict | as End, of what arrived |
//! | 23 | Refused | u8 at 1: 0 over its limit, 1 it cannot write; u64 at 8: the limit, or the bytes written; instead of Verdict, at any time |
//!
//! Distrusted: the other side. A message that does not fit in is an error that names
//! it.

use crate::exit::Failure;
use crate::exit::Kind;
use hv_shmem::layout::PeerId;
use hv_shmem::wait::WaitMode;
use portal_guest_linux::FIRST_TAG;
use portal_guest_linux::LINK_PAYLOAD;
use portal_guest_linux::Message;

/// Service of ping, bench and pong.
pub(crate) const ECHO: u32 = 1;
/// Service of send and recv.
pub(crate) const TRANSFER: u32 = 2;
/// Id of the bulk ring of a stream.
pub(crate) const STREAM_RING: u32 = 101;

/// One message, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    Ping(u64),
    Pong(u64),
    Mode(WaitMode),
    Stream { hashed: bool, ring: u32 },
    Ready,
    End(Sum),
    Verdict(Sum),
    Refused(Refusal),
}

/// Why a receiver takes no more of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It takes so many bytes at most.
    Limit(u64),
    /// It could write no more than so many bytes.
    Unwritable(u64),
}

/// What went through a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sum {
    pub(crate) bytes: u64,
    pub(crate) hash: [u8; 32],
}

impl Word {
    pub(crate) fn encode(self) -> Message {
        let mut m = [0; LINK_PAYLOAD];
        let (tag, small) = match self {
            Self::Ping(_) => (0, 0),
            Self::Pong(_) => (1, 0),
            Self::Mode(WaitMode::Spin) => (2, 0),
            Self::Mode(WaitMode::Adaptive) => (2, 1),
            Self::Mode(WaitMode::Sleep) => (2, 2),
            Self::Stream { hashed, .. } => (3, u8::from(hashed)),
            Self::Ready => (4, 0),
            Self::End(_) => (5, 0),
            Self::Verdict(_) => (6, 0),
            Self::Refused(Refusal::Limit(_)) => (7, 0),
            Self::Refused(Refusal::Unwritable(_)) => (7, 1),
        };
        m[0] = FIRST_TAG + tag;
        m[1] = small;
        match self {
            Self::Ping(number)
            | Self::Pong(number)
            | Self::Refused(Refusal::Limit(number) | Refusal::Unwritable(number)) => {
                m[8..16].copy_from_slice(&number.to_le_bytes());
            }
            Self::Stream { ring, .. } => m[4..8].copy_from_slice(&ring.to_le_bytes()),
            Self::End(sum) | Self::Verdict(sum) => {
                m[8..16].copy_from_slice(&sum.bytes.to_le_bytes());
                m[16..48].copy_from_slice(&sum.hash);
            }
            Self::Mode(_) | Self::Ready => {}
        }
        m
    }

    /// `None` for what is no message of this protocol.
    pub(crate) fn decode(m: &Message) -> Option<Self> {
        let mut eight = [0; 8];
        eight.copy_from_slice(&m[8..16]);
        let number = u64::from_le_bytes(eight);
        let mut hash = [0; 32];
        hash.copy_from_slice(&m[16..48]);
        let sum = Sum {
            bytes: number,
            hash,
        };
        Some(match m[0].checked_sub(FIRST_TAG)? {
            0 => Self::Ping(number),
            1 => Self::Pong(number),
            2 => Self::Mode(match m[1] {
                0 => WaitMode::Spin,
                1 => WaitMode::Adaptive,
                2 => WaitMode::Sleep,
                _ => return None,
            }),
            3 => Self::Stream {
                hashed: match m[1] {
                    0 => false,
                    1 => true,
                    _ => return None,
                },
                ring: u32::from_le_bytes([m[4], m[5], m[6], m[7]]),
            },
            4 => Self::Ready,
            5 => Self::End(sum),
            6 => Self::Verdict(sum),
            7 => Self::Refused(match m[1] {
                0 => Refusal::Limit(number),
                1 => Refusal::Unwritable(number),
                _ => return None,
            }),
            _ => return None,
        })
    }
}

/// The other side said something that does not fit in here, or takes no more.
pub(crate) fn unexpected(peer: PeerId, message: &Message, expected: &str) -> Failure {
    let said = match Word::decode(message) {
        Some(Word::Refused(why)) => {
            let why = match why {
                Refusal::Limit(bytes) => format!("takes {bytes} bytes at most (its --limit)"),
                Refusal::Unwritable(bytes) => {
                    format!("cannot write more than {bytes} bytes; it says why")
                }
            };
            return Failure::new(Kind::Failed, format!("peer {peer} {why}"));
        }
        Some(word) => format!("{word:?}"),
        None => format!("tag {}", message[0]),
    };
    Failure::new(
        Kind::Misbehaviour,
        format!("peer {peer} broke the protocol: {said} where {expected} was expected"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back() {
        let sum = Sum {
            bytes: u64::MAX,
            hash: [7; 32],
        };
        for word in [
            Word::Ping(3),
            Word::Pong(u64::MAX),
            Word::Mode(WaitMode::Spin),
            Word::Mode(WaitMode::Adaptive),
            Word::Mode(WaitMode::Sleep),
            Word::Stream {
                hashed: true,
                ring: 0x0102_0304,
            },
            Word::Ready,
            Word::End(sum),
            Word::Verdict(Sum::default()),
            Word::Refused(Refusal::Limit(1000)),
            Word::Refused(Refusal::Unwritable(u64::MAX)),
        ] {
            assert_eq!(Word::decode(&word.encode()), Some(word));
        }
    }

    /// Whatever a hostile peer sends is a message or none, and never a panic.
    #[test]
    fn foreign_bytes_are_no_messages() {
        for tag in 0..=u8::MAX {
            for small in 0..=u8::MAX {
                let mut m = [0xee; LINK_PAYLOAD];
                (m[0], m[1]) = (tag, small);
                let decoded = Word::decode(&m);
                let known = (FIRST_TAG..FIRST_TAG + 8).contains(&tag);
                assert!(known || decoded.is_none(), "{tag} {small}");
            }
        }
    }
}
