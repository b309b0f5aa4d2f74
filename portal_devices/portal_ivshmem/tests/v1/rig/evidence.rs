//! How many cases a harness runs, and the line that says what came of it.

use super::random::Random;

/// A harness: `run` gives `Err` for a case in which the promise does not hold.
pub(crate) struct Harness {
    pub(crate) threat: &'static str,
    pub(crate) what: &'static str,
    /// Cases when `PORTAL_CASES` does not say.
    pub(crate) cases: u64,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

impl Harness {
    fn run(
        &self,
        control: Option<&str>,
        mut case: impl FnMut(u64, &mut Random) -> Result<(), String>,
    ) -> (u64, Option<String>) {
        let cases = number("PORTAL_CASES").unwrap_or(self.cases);
        let seed = number("PORTAL_SEED").unwrap_or(1);
        let mut random = Random::new(seed);
        let mut failures = 0;
        let mut first = None;
        for index in 0..cases {
            if let Err(why) = case(index, &mut random) {
                failures += 1;
                first.get_or_insert(format!("case {index}: {why}"));
            }
        }
        let control = control.map_or(String::new(), |name| format!("\"control\":\"{name}\","));
        println!(
            "evidence: {{\"threat\":\"{}\",\"what\":\"{}\",{control}\"cases\":{cases},\
             \"failures\":{failures},\"seed\":{seed}}}",
            self.threat, self.what
        );
        (failures, first)
    }

    /// Every case has to hold.
    pub(crate) fn holds(&self, case: impl FnMut(u64, &mut Random) -> Result<(), String>) {
        let (failures, first) = self.run(None, case);
        assert_eq!(failures, 0, "{}", first.unwrap_or_default());
    }

    /// With a guard taken out, some case has to fail.
    #[cfg(feature = "negative_control")]
    pub(crate) fn fails(
        &self,
        guard: &str,
        case: impl FnMut(u64, &mut Random) -> Result<(), String>,
    ) {
        let (failures, _) = self.run(Some(guard), case);
        assert!(failures > 0, "nothing failed without \"{guard}\"");
    }
}
