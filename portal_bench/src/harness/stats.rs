//! Medians, spreads and the gate that a round must pass to count.

/// From this C2 on, in nanoseconds, the two cores are apart: the placement that
/// goals are meant for.
pub(crate) const APART_C2_NS: f64 = 200.0;

/// Below this C2, in nanoseconds, the two vCPUs are siblings on one physical
/// core (45 to 56 ns where that was seen), and nothing measured between them
/// speaks of two cores. Between this and [`APART_C2_NS`] they are two cores of
/// one cache cluster (95 to 130 ns).
pub(crate) const ONE_CORE_C2_NS: f64 = 70.0;

/// Two calibrations that differ by more than this factor show that a core moved
/// during the sample between them.
pub(crate) const STEADY_FACTOR: f64 = 2.0;

/// The fewest rounds whose median is judged.
pub(crate) const FEWEST_ROUNDS: u32 = 15;

/// Smallest, median and largest of a set of figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// The spread of `figures`; `None` when there are none or one is no number.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        if sorted.iter().any(|figure| figure.is_nan()) {
            return None;
        }
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { min, median, max })
    }
}

/// Where the two cores were during a sample, or a whole round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// In different cache clusters (C2 of 200 ns and more).
    Apart,
    /// Two cores of one cache cluster. A host that never moves them apart gives
    /// only such rounds; they are judged, and marked.
    Near,
    /// It does not matter, and was not looked at.
    Anywhere,
}

impl Placement {
    /// One word for a table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Apart => "apart",
            Self::Near => "near",
            Self::Anywhere => "any",
        }
    }

    /// The one that rounds of this one are never mixed with.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Apart => Self::Near,
            Self::Near => Self::Apart,
            Self::Anywhere => Self::Anywhere,
        }
    }
}

/// Judges a sample by the C2 figures, in nanoseconds, before and after it:
/// `None` when it does not count (the cores moved, or are one physical core).
pub(crate) fn judge(before: f64, after: f64) -> Option<Placement> {
    let (low, high) = (before.min(after), before.max(after));
    if high > low * STEADY_FACTOR {
        None
    } else if low >= APART_C2_NS {
        Some(Placement::Apart)
    } else if low >= ONE_CORE_C2_NS && high < APART_C2_NS {
        Some(Placement::Near)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spread_of_nothing_and_of_no_number() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([1.0, f64::NAN]), None);
    }

    #[test]
    fn median_of_odd_and_even_counts() {
        let odd = Spread::of([3.0, 1.0, 2.0]).expect("three figures");
        assert_eq!((odd.min, odd.median, odd.max), (1.0, 2.0, 3.0));
        let even = Spread::of([4.0, 1.0, 3.0, 2.0]).expect("four figures");
        assert_eq!(even.median, 2.5);
    }

    #[test]
    fn gate_edges() {
        assert_eq!(judge(300.0, 310.0), Some(Placement::Apart));
        assert_eq!(judge(200.0, 400.0), Some(Placement::Apart));
        assert_eq!(judge(200.0, 400.1), None);
        assert_eq!(judge(400.1, 200.0), None);
        assert_eq!(judge(199.9, 210.0), None);
        assert_eq!(judge(199.9, 110.0), Some(Placement::Near));
        assert_eq!(judge(70.0, 69.9), None);
        assert_eq!(judge(300.0, 45.0), None);
        assert_eq!(judge(45.0, 45.0), None);
        assert_eq!(judge(f64::NAN, f64::NAN), None);
    }

    proptest! {
        #[test]
        fn median_lies_between_and_splits(figures in prop::collection::vec(-1e9f64..1e9, 1..80)) {
            let spread = Spread::of(figures.iter().copied()).expect("not empty");
            prop_assert!(spread.min <= spread.median && spread.median <= spread.max);
            let below = figures.iter().filter(|&&f| f < spread.median).count();
            let above = figures.iter().filter(|&&f| f > spread.median).count();
            prop_assert!(below <= figures.len() / 2 && above <= figures.len() / 2);
        }

        #[test]
        fn the_gate_does_not_care_about_the_order(a in 0f64..2000.0, b in 0f64..2000.0) {
            prop_assert_eq!(judge(a, b), judge(b, a));
        }
    }
}
