//! What the hostility harnesses share: how many cases, which seed, and the line
//! that the evidence runner reads.
#![expect(dead_code, reason = "each test file uses its part")]

/// How many cases to run: `PORTAL_CASES`, else `short`.
pub fn cases(short: u64) -> u64 {
    number("PORTAL_CASES").unwrap_or(short)
}

/// The seed of the random numbers: `PORTAL_SEED`, else 7.
pub fn seed() -> u64 {
    number("PORTAL_SEED").unwrap_or(7)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Prints the evidence line of a run, or of a control (with the guard that was
/// taken out), and fails the test when the run failed or the control did not.
pub fn report(threat: &str, what: &str, control: Option<&str>, cases: u64, failures: u64) {
    let guard = control.map_or(String::new(), |g| format!("\"control\":\"{g}\","));
    println!(
        "evidence: {{\"threat\":\"{threat}\",\"what\":\"{what}\",{guard}\"cases\":{cases},\"failures\":{failures},\"seed\":{}}}",
        seed()
    );
    match control {
        None => assert_eq!(failures, 0, "{what}"),
        Some(guard) => assert!(failures > 0, "no failure without {guard}"),
    }
}

/// A small generator (SplitMix64): tests need repeatable numbers, not good ones.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
