//! How many cases a harness runs, and the line that says what came of it
//! (flowey/src/evidence).

/// A harness: `case` gives `Err` where the promise does not hold.
pub(crate) struct Harness {
    pub(crate) threat: &'static str,
    pub(crate) what: &'static str,
    /// Cases when `PORTAL_CASES` does not say.
    pub(crate) cases: u64,
}

/// xorshift64*: small, seeded, the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

impl Harness {
    /// Runs batches until there were enough cases. `batch` is given the cases
    /// that are left; it returns how many it ran and how many of them failed.
    fn run(
        &self,
        control: Option<&str>,
        mut batch: impl FnMut(u64, &mut Random) -> (u64, u64),
    ) -> u64 {
        let wanted = number("PORTAL_CASES").unwrap_or(self.cases);
        let seed = number("PORTAL_SEED").unwrap_or(1);
        let mut random = Random::new(seed);
        let (mut cases, mut failures) = (0, 0);
        // A control has shown what it has to after a few.
        let enough = if control.is_some() { 3 } else { u64::MAX };
        while cases < wanted && failures < enough {
            let (ran, failed) = batch(wanted - cases, &mut random);
            assert!(ran > 0, "a batch of no cases");
            cases += ran;
            failures += failed;
        }
        let control = control.map_or(String::new(), |name| format!("\"control\":\"{name}\","));
        println!(
            "evidence: {{\"threat\":\"{}\",\"what\":\"{}\",{control}\"cases\":{cases},\
             \"failures\":{failures},\"seed\":{seed}}}",
            self.threat, self.what
        );
        failures
    }

    /// Every case has to hold.
    pub(crate) fn holds(&self, batch: impl FnMut(u64, &mut Random) -> (u64, u64)) {
        assert_eq!(self.run(None, batch), 0, "{}: {}", self.threat, self.what);
    }

    /// With a guard taken out, some case has to fail.
    #[cfg(feature = "negative_control")]
    pub(crate) fn fails(&self, guard: &str, batch: impl FnMut(u64, &mut Random) -> (u64, u64)) {
        let failures = self.run(Some(guard), batch);
        assert!(failures > 0, "nothing failed without \"{guard}\"");
    }
}
