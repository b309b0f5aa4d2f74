//! Accesses of any shape as the accesses that a device knows.
//!
//! A device takes 1, 2, 4 or 8 naturally aligned bytes. What a VMM is given can be longer,
//! can lie askew, or can leave bytes of a word out.

/// One naturally aligned piece of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it lies in the access's data.
    pub at: usize,
    /// Offset of its first byte from the start of the space accessed.
    pub offset: u64,
    /// Width in bytes.
    pub len: u8,
}

/// Cuts `[offset, offset + len)` into naturally aligned pieces of 1, 2, 4 or (up
/// to `widest`) 8 bytes.
pub fn pieces(offset: u64, len: usize, widest: u8) -> impl Iterator<Item = Piece> {
    let mut at = 0usize;
    std::iter::from_fn(move || {
        let left = len.checked_sub(at).filter(|left| *left > 0)?;
        let here = offset.wrapping_add(at as u64);
        let width = [8u8, 4, 2, 1].into_iter().find(|width| {
            *width <= widest
                && usize::from(*width) <= left
                && here.is_multiple_of(u64::from(*width))
        })?;
        let piece = Piece {
            at,
            offset: here,
            len: width,
        };
        at += usize::from(width);
        Some(piece)
    })
}

/// Takes the low `len` bytes of `value` into a part of `data`.
pub fn put(data: &mut [u8], piece: Piece, value: u64) {
    let bytes = value.to_le_bytes();
    let to = data.iter_mut().skip(piece.at).take(piece.len.into());
    for (to, from) in to.zip(bytes) {
        *to = from;
    }
}

/// The value of a part of `data`.
pub fn get(data: &[u8], piece: Piece) -> u64 {
    let mut bytes = [0; 8];
    let from = data.iter().skip(piece.at).take(piece.len.into());
    for (to, from) in bytes.iter_mut().zip(from) {
        *to = *from;
    }
    u64::from_le_bytes(bytes)
}

/// The pieces of a four-byte access at `offset` of which only the bytes in `lanes` count
/// (bit 0 for the first): one a run of bytes, as far as it is aligned.
pub fn lanes(offset: u64, lanes: u8) -> impl Iterator<Item = Piece> {
    let on = move |lane: u64| lanes & (1 << lane) != 0;
    let starts = (0..4).filter(move |lane| on(*lane) && (*lane == 0 || !on(lane - 1)));
    starts.flat_map(move |start| {
        let len = (start..4).take_while(|lane| on(*lane)).count();
        pieces(offset.wrapping_add(start), len, 4).map(move |piece| Piece {
            at: piece.at.saturating_add(start as usize),
            ..piece
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_access_is_cut_into_aligned_pieces_without_gap() {
        for offset in 0..16u64 {
            for len in 0..=8usize {
                for widest in [4, 8] {
                    let mut next = 0;
                    for piece in pieces(offset, len, widest) {
                        assert_eq!(piece.at, next);
                        assert!(piece.offset.is_multiple_of(piece.len.into()));
                        assert!(piece.len <= widest);
                        next += usize::from(piece.len);
                    }
                    assert_eq!(next, len, "offset {offset}");
                }
            }
        }
    }

    #[test]
    fn bytes_that_do_not_count_are_left_out() {
        let cut = |enabled| {
            lanes(4, enabled)
                .map(|p| (p.offset, p.len))
                .collect::<Vec<_>>()
        };
        assert_eq!(cut(0b1111), [(4, 4)]);
        assert_eq!(cut(0b0011), [(4, 2)]);
        assert_eq!(cut(0b1100), [(6, 2)]);
        assert_eq!(cut(0b1000), [(7, 1)]);
        assert_eq!(cut(0b0101), [(4, 1), (6, 1)]);
        assert_eq!(cut(0b1110), [(5, 1), (6, 2)]);
        assert_eq!(cut(0), []);
        let bytes = 0x4433_2211u32.to_le_bytes();
        let values: Vec<_> = lanes(4, 0b1101).map(|p| get(&bytes, p)).collect();
        assert_eq!(values, [0x11, 0x4433]);
    }
}
