//! Bytes from one side of a link to the other through a bulk ring, hashed on both.
//!
//! ```text
//!   Stream{ring}  ───▶                       (link)
//!                 ◀───  Ready
//!   4 KiB slots   ═══▶                       (bulk ring; the last slot is padded)
//!   End{bytes, hash} ─▶
//!                 ◀───  Verdict{bytes, hash}, or Refused at any time before
//! ```
//!
//! Distrusted: the other side. The receiver believes no number before it has counted
//! for itself; the ring code checks every index.

use crate::exit::Failure;
use crate::exit::Kind;
use crate::protocol::Refusal;
use crate::protocol::STREAM_RING;
use crate::protocol::Sum;
use crate::protocol::Word;
use crate::protocol::unexpected;
use portal_guest_linux::GuestError;
use portal_guest_linux::Link;
use std::io::Write;

/// Largest slot, in bytes: what a ring allows.
const SLOT: u64 = 4096;
/// Most slots of a stream's ring: 1 MiB, which stays in the caches.
const SLOTS: u64 = 256;
/// Fewest slots that let both sides work at once.
const FEWEST: u64 = 4;
/// Ring storage kept for the lines of other rings, in bytes.
const LINES: u64 = 1024;
/// Bytes moved at once.
const BATCH: usize = 64 << 10;

/// Sends what `fill` gives until it gives nothing. Returns what went.
pub(crate) fn give(
    link: &mut Link<'_>,
    hashed: bool,
    fill: &mut dyn FnMut(&mut [u8]) -> Result<usize, Failure>,
) -> Result<Sum, Failure> {
    let (slot, slots) = shape(link.at.own.ring_bytes_left());
    let mut tx = link.open_bulk(STREAM_RING, slot, slots)?;
    let ring = STREAM_RING;
    link.send(&Word::Stream { hashed, ring }.encode())?;
    let answer = link.recv("the other side to accept the stream")?;
    if Word::decode(&answer) != Some(Word::Ready) {
        return Err(unexpected(link.peer(), &answer, "ready"));
    }
    link.opened(&mut tx, ring)?;

    let slot = slot as usize;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BATCH];
    let mut bytes = 0;
    loop {
        let filled = fill(&mut buffer)?;
        let Some(full) = buffer.get_mut(..filled.next_multiple_of(slot)) else {
            break;
        };
        if filled == 0 {
            break;
        }
        if hashed {
            hasher.update(&full[..filled]);
        }
        full[filled..].fill(0);
        bytes += filled as u64;
        let mut left = &*full;
        while !left.is_empty() {
            let sent = tx.push_batch(left).map_err(GuestError::from)?;
            left = left.get(sent * slot..).unwrap_or_default();
            if tx.flush().must_ring {
                link.ring()?;
            }
            if sent > 0 {
                continue;
            }
            // Nothing may come before the end but that no more is taken.
            if let Some(message) = link.try_recv()? {
                return Err(unexpected(link.peer(), &message, "nothing"));
            }
            link.wait(&mut tx, "room in the stream")?;
        }
    }
    let mut sum = Sum {
        bytes,
        hash: [0; 32],
    };
    if hashed {
        sum.hash = *hasher.finalize().as_bytes();
    }
    link.send(&Word::End(sum).encode())?;
    let answer = link.recv("the verdict")?;
    let Some(Word::Verdict(theirs)) = Word::decode(&answer) else {
        return Err(unexpected(link.peer(), &answer, "a verdict"));
    };
    agree(sum, theirs)?;
    Ok(sum)
}

/// Takes a stream that was announced, of `limit` bytes at most, hands its bytes to
/// `sink` in order, and says what arrived. Returns it when both sides agree.
pub(crate) fn take(
    link: &mut Link<'_>,
    hashed: bool,
    ring: u32,
    limit: u64,
    sink: &mut dyn Write,
) -> Result<Sum, Failure> {
    let mut rx = link.accept_bulk(ring)?;
    link.send(&Word::Ready.encode())?;
    let slot = rx.payload();
    let mut hasher = blake3::Hasher::new();
    let mut written: u64 = 0;
    let mut deliver = |link: &mut Link<'_>, bytes: &[u8]| {
        let after = written.saturating_add(bytes.len() as u64);
        let (why, failure) = if after > limit {
            let what = format!("peer {} sends more than --limit {limit} bytes", link.peer());
            (Refusal::Limit(limit), Failure::new(Kind::Failed, what))
        } else if let Err(error) = sink.write_all(bytes) {
            let failure = Failure::new(Kind::File, error);
            (Refusal::Unwritable(written), failure)
        } else {
            if hashed {
                hasher.update(bytes);
            }
            written = after;
            return Ok(());
        };
        // The sender may be gone already; this failure is the first one.
        let _ = link.send(&Word::Refused(why).encode());
        Err(failure)
    };
    let mut buffer = vec![0; BATCH.next_multiple_of(slot)];
    // The last slot may be padded, which only End tells: one is held back.
    let mut held = vec![0; slot];
    let mut slots: u64 = 0;
    let mut end = None;
    let claimed = loop {
        let taken = rx.pop_batch(&mut buffer).map_err(GuestError::from)?;
        let bytes = buffer.get(..taken * slot).unwrap_or_default();
        if let Some((now, last)) = bytes.split_at_checked(bytes.len().saturating_sub(slot))
            && taken > 0
        {
            if slots > 0 {
                deliver(link, &held)?;
            }
            deliver(link, now)?;
            held.copy_from_slice(last);
            slots += taken as u64;
            if rx.flush().must_ring {
                link.ring()?;
            }
            continue;
        }
        // End was said before the ring was found empty: nothing comes any more.
        if let Some(sum) = end {
            break sum;
        }
        match link.try_recv()? {
            None => link.wait(&mut rx, "bytes of the stream")?,
            Some(message) => match Word::decode(&message) {
                Some(Word::End(sum)) => end = Some(sum),
                _ => return Err(unexpected(link.peer(), &message, "the end")),
            },
        }
    };
    // The number is a claim: the last slot holds at least one byte and no more than
    // fit.
    let before = slots.saturating_sub(1) * slot as u64;
    let last = claimed
        .bytes
        .checked_sub(before)
        .and_then(|n| usize::try_from(n).ok());
    let fits = last.is_some_and(|n| n <= slot && (n > 0) == (slots > 0));
    let last = last.filter(|_| fits).and_then(|n| held.get(..n));
    let Some(last) = last else {
        return Err(Failure::new(
            Kind::Misbehaviour,
            format!(
                "peer {} says that it sent {} bytes; {slots} slots of {slot} bytes came",
                link.peer(),
                claimed.bytes
            ),
        ));
    };
    deliver(link, last)?;
    if let Err(error) = sink.flush() {
        let _ = link.send(&Word::Refused(Refusal::Unwritable(written)).encode());
        return Err(Failure::new(Kind::File, error));
    }
    let mut sum = Sum {
        bytes: claimed.bytes,
        hash: [0; 32],
    };
    if hashed {
        sum.hash = *hasher.finalize().as_bytes();
    }
    link.send(&Word::Verdict(sum).encode())?;
    agree(claimed, sum)?;
    Ok(sum)
}

/// Whether what was sent is what arrived.
fn agree(sent: Sum, arrived: Sum) -> Result<(), Failure> {
    if sent == arrived {
        return Ok(());
    }
    let hex = |sum: Sum| blake3::Hash::from_bytes(sum.hash).to_hex();
    Err(Failure::new(
        Kind::Failed,
        format!(
            "what arrived is not what was sent: {} bytes with BLAKE3 {}, sent were {} with {}",
            arrived.bytes,
            hex(arrived),
            sent.bytes,
            hex(sent),
        ),
    ))
}

/// Slot size and slots for a ring in `left` bytes of storage.
fn shape(left: u64) -> (u32, u32) {
    let room = left.saturating_sub(LINES);
    let mut slot = SLOT;
    while slot > 64 && room / slot < FEWEST {
        slot /= 2;
    }
    let slots = (room / slot).clamp(1, SLOTS);
    // Rounded down to a power of two; at most 4096 and 256.
    (slot as u32, 1 << slots.ilog2())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_fit_into_what_is_left() {
        for left in [0, 1024, 1500, 5000, 20_000, 300_000, 8 << 20] {
            let (slot, slots) = shape(left);
            assert!(slot.is_power_of_two() && slots.is_power_of_two(), "{left}");
            let bytes = u64::from(slot) * u64::from(slots) + 256;
            assert!(bytes <= left || left < 1500, "{left}: {slot} x {slots}");
        }
        assert_eq!(shape(8 << 20), (4096, 256));
        assert_eq!(shape(5000), (512, 4));
    }
}
