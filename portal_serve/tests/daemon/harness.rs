//! What the harnesses of T15 and T16 have in common: numbers, and the line that says what
//! came of one.

/// splitmix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Most fds that the kernel passes at once.
pub(crate) const FDS_MAX: usize = 253;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// How many cases to run: `PORTAL_CASES`, else `short`.
pub(crate) fn cases(short: u64) -> u64 {
    number("PORTAL_CASES").unwrap_or(short)
}

pub(crate) fn seed() -> u64 {
    number("PORTAL_SEED").unwrap_or(16)
}

/// A harness: `run` panics where the promise does not hold.
pub(crate) struct Harness {
    pub(crate) threat: &'static str,
    pub(crate) what: &'static str,
}

impl Harness {
    /// The line that `cargo flowey evidence` reads (flowey/src/evidence).
    fn line(&self, control: &str, cases: u64, failures: u32) {
        let (threat, what, seed) = (self.threat, self.what, seed());
        println!(
            r#"evidence: {{"threat":"{threat}","what":"{what}",{control}"cases":{cases},"failures":{failures},"seed":{seed}}}"#
        );
    }

    /// Every case has to hold.
    pub(crate) fn holds(&self, cases: u64, run: impl FnOnce(u64)) {
        run(cases);
        self.line("", cases, 0);
    }

    /// With a guard taken out of the daemon, it has to fail.
    #[cfg(feature = "negative_control")]
    pub(crate) fn fails(
        &self,
        out: portal_serve::guard::Guard,
        guard: &str,
        cases: u64,
        run: impl FnOnce(u64) + std::panic::UnwindSafe,
    ) {
        let run = || std::panic::catch_unwind(|| run(cases)).is_err();
        let failed = crate::daemon::without(out, run);
        self.line(&format!(r#""control":"{guard}","#), cases, failed.into());
        assert!(failed, "nothing failed without \"{guard}\"");
    }
}
