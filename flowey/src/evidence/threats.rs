//! The threats of TRUST.md, with the counts of the short and the full form.

/// One row of the evidence page.
pub(super) struct Threat {
    /// Its number, as TRUST.md has it.
    pub number: u8,
    /// What is feared.
    pub what: &'static str,
    /// Cases of the short form: seconds of an unoptimised build, on every commit.
    pub short: u64,
    /// Cases of the full form.
    pub full: u64,
}

impl Threat {
    pub(super) fn id(&self) -> String {
        format!("T{}", self.number)
    }
}

const fn threat(number: u8, what: &'static str, short: u64, full: u64) -> Threat {
    Threat {
        number,
        what,
        short,
        full,
    }
}

/// Every threat. What one case is, each harness says in its `what`.
pub(super) const THREATS: [Threat; 20] = [
    threat(1, "double fetch", 100_000, 10_000_000),
    threat(2, "index corruption", 50_000, 500_000_000),
    threat(3, "doorbell flood", 1, 60),
    threat(4, "span forgery, stale generation", 100_000, 5_000_000),
    threat(5, "resource exhaustion", 10_000, 1_000_000),
    threat(6, "malicious GPADL", 10_000, 1_000_000),
    threat(
        7,
        "overlapping GPADLs, one page in both rings",
        10_000,
        1_000_000,
    ),
    threat(8, "ring header corruption", 100_000, 100_000_000),
    threat(9, "packet length overflow", 10_000, 1_000_000),
    threat(10, "peer death mid-operation", 20, 10_000),
    threat(11, "host process kill", 10, 1_000),
    threat(12, "snapshot mid-flight", 10, 1_000),
    threat(13, "truncation, hole punching", 20, 1_000),
    threat(14, "huge-page exhaustion", 8, 64),
    threat(15, "fd exhaustion", 64, 1_024),
    threat(16, "hostile control client", 20_000, 50_000_000),
    threat(
        17,
        "configuration changed after activation",
        20_000,
        20_000_000,
    ),
    threat(18, "hostile saved state", 20_000, 50_000_000),
    threat(19, "residual data", 10_000, 1_000_000),
    threat(20, "teardown races", 1_000, 1_000_000),
];

/// The threat that a test's name starts with, and whether it is a control:
/// `t4_span_forgery` is `(4, false)`, `control_t4_epoch` is `(4, true)`.
pub(super) fn of_test(path: &str) -> Option<(u8, bool)> {
    let name = path.rsplit("::").next()?;
    let (name, control) = match name.strip_prefix("control_") {
        Some(rest) => (rest, true),
        None => (name, false),
    };
    let (digits, _) = name.strip_prefix('t')?.split_once('_')?;
    let number: u8 = digits.parse().ok()?;
    THREATS
        .iter()
        .any(|t| t.number == number)
        .then_some((number, control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_threats_from_test_names() {
        assert_eq!(of_test("hostile::t4_span_forgery"), Some((4, false)));
        assert_eq!(of_test("control_t18_crc"), Some((18, true)));
        for other in [
            "t21_x",
            "t0_x",
            "two_peers",
            "t_x",
            "event1_t1",
            "t4",
            "control_x",
        ] {
            assert_eq!(of_test(other), None, "{other}");
        }
    }

    #[test]
    fn threats_are_numbered_in_order() {
        assert!(
            THREATS
                .iter()
                .enumerate()
                .all(|(i, t)| usize::from(t.number) == i + 1)
        );
        assert!(THREATS.iter().all(|t| t.short <= t.full));
    }
}
