//! How long an end of a bulk ring looks away after "empty" or "full".
//!
//! Looking costs the other end its index line, so that a look should find much.
//! Too long a pause is as bad: the other end stands still before an empty or a
//! full ring. What is right depends on how far apart the two cores are, so each
//! end learns it from what it finds after a pause.

/// Spin hints of the first pause, and the most: what two cores without a common
/// cache want.
const MOST_HINTS: u32 = 64;
/// The fewest.
const FEWEST_HINTS: u32 = 4;

/// One end's pauses.
#[derive(Debug)]
pub(super) struct BackOff {
    hints: u32,
    /// Nothing has been found since the last pause.
    paused: bool,
}

impl BackOff {
    pub(super) const fn new() -> Self {
        Self {
            hints: MOST_HINTS,
            paused: false,
        }
    }

    /// Pauses; gives for how many spin hints.
    #[inline]
    pub(super) fn pause(&mut self) -> u32 {
        for _ in 0..self.hints {
            core::hint::spin_loop();
        }
        self.paused = true;
        self.hints
    }

    /// A look found `found` messages, or free slots, of `slots`. Half of the ring
    /// after a pause is late: the other end may have stood still. Less than an
    /// eighth is early.
    #[inline]
    pub(super) fn found(&mut self, found: u64, slots: u64) {
        if !core::mem::take(&mut self.paused) {
            return;
        }
        if found > slots / 2 {
            self.hints = (self.hints / 2).max(FEWEST_HINTS);
        } else if found < slots / 8 {
            self.hints = (self.hints * 2).min(MOST_HINTS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_get_shorter_when_late_and_longer_when_early() {
        let mut back_off = BackOff::new();
        let mut after = |found| {
            back_off.pause();
            back_off.found(found, 4096);
            back_off.hints
        };
        assert_eq!([after(4096), after(2049), after(2048)], [32, 16, 16]);
        assert_eq!([after(512), after(511), after(1)], [16, 32, 64]);
        assert_eq!(after(1), MOST_HINTS);
        for _ in 0..8 {
            after(4096);
        }
        assert_eq!(after(4096), FEWEST_HINTS);
    }

    #[test]
    fn a_look_without_a_pause_teaches_nothing() {
        let mut back_off = BackOff::new();
        back_off.found(4096, 4096);
        back_off.pause();
        back_off.found(1024, 4096);
        back_off.found(4096, 4096);
        assert_eq!(back_off.hints, MOST_HINTS);
    }
}
