//! What the hostility harnesses share: how many cases, which seed, and the line
//! that the evidence runner reads.

/// How many cases to run: `PORTAL_CASES`, else `short`.
pub(crate) fn cases(short: u64) -> u64 {
    number("PORTAL_CASES").unwrap_or(short)
}

/// The seed of the random numbers: `PORTAL_SEED`, else 7.
pub(crate) fn seed() -> u64 {
    number("PORTAL_SEED").unwrap_or(7)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Prints the evidence line of a run, or of a control (with the guard that was
/// taken out), and fails the test when the run failed or the control did not.
pub(crate) fn report(threat: &str, what: &str, control: Option<&str>, cases: u64, failures: u64) {
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
