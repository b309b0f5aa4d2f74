//! Where the numbers come from that say what happens next.

/// Numbers, one byte after the other.
pub(crate) trait Source {
    /// The next one; 0 when there are no more.
    fn byte(&mut self) -> u8;

    /// One below `limit`, which is not 0.
    fn below(&mut self, limit: u8) -> u8 {
        self.byte() % limit
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }
}

/// Bytes that somebody chose.
#[derive(Debug)]
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl Source for Bytes<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }
}

/// splitmix64, a byte at a time.
#[derive(Debug)]
pub(crate) struct Random {
    state: u64,
    word: u64,
    left: u32,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let (state, word, left) = (seed, 0, 0);
        Self { state, word, left }
    }
}

impl Source for Random {
    fn byte(&mut self) -> u8 {
        if self.left == 0 {
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            self.word = z ^ (z >> 31);
            self.left = 8;
        }
        let byte = self.word as u8;
        self.word >>= 8;
        self.left -= 1;
        byte
    }
}
