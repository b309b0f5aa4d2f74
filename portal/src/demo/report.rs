//! What the demo measured, as a table that a person reads and as JSON.

use comfy_table::CellAlignment;
use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Everything that the demo found out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Each figure beside its baseline of the same run.
    pub rows: Vec<Row>,
    /// Distributions of round trips.
    pub latency: Vec<Latency>,
    /// What starting cost and what the kernel counted.
    pub facts: Vec<Fact>,
    /// Cores that other work kept busy meanwhile.
    pub others: Option<f64>,
}

/// One figure and what it is compared with.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// What was done.
    pub what: &'static str,
    /// What it is divided by.
    pub baseline_of: &'static str,
    /// The baseline's figure, in `unit`.
    pub baseline: f64,
    /// Portal's figure, in `unit`.
    pub portal: f64,
    /// `portal / baseline`.
    pub ratio: f64,
    /// `ns`: less is better; `GB/s`: more is better.
    pub unit: Unit,
}

/// What a figure is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    /// Nanoseconds.
    #[serde(rename = "ns")]
    Nanoseconds,
    /// 10^9 bytes a second.
    #[serde(rename = "GB/s")]
    Gigabytes,
}

/// A distribution of round trips, in nanoseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    /// Which round trip.
    pub what: &'static str,
    /// The shortest.
    pub min: u64,
    /// The median.
    pub p50: u64,
    /// 99 of 100 were shorter.
    pub p99: u64,
    /// The longest.
    pub max: u64,
    /// How many were measured.
    pub samples: u64,
}

/// One more thing worth knowing.
#[derive(Debug, Serialize)]
pub(crate) struct Fact {
    /// What.
    pub what: &'static str,
    /// How much, in `unit`.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
}

impl Row {
    /// A figure; the ratio comes from the two values.
    pub(crate) fn new(
        what: &'static str,
        baseline_of: &'static str,
        unit: Unit,
        portal: f64,
        baseline: f64,
    ) -> Self {
        Self {
            what,
            baseline_of,
            baseline,
            portal,
            ratio: if baseline > 0.0 {
                portal / baseline
            } else {
                0.0
            },
            unit,
        }
    }
}

impl Latency {
    /// The summary of a histogram of nanoseconds.
    pub(crate) fn of(what: &'static str, histogram: &Histogram<u64>) -> Self {
        Self {
            what,
            min: histogram.min(),
            p50: histogram.value_at_quantile(0.50),
            p99: histogram.value_at_quantile(0.99),
            max: histogram.max(),
            samples: histogram.len(),
        }
    }
}

impl Report {
    /// The tables.
    pub(crate) fn text(&self) -> String {
        let mut ratios = table(&["what", "Portal", "baseline", "", "ratio"]);
        for row in &self.rows {
            ratios.add_row([
                row.what.to_owned(),
                figure(row.portal, row.unit),
                figure(row.baseline, row.unit),
                row.baseline_of.to_owned(),
                ratio(row.ratio),
            ]);
        }
        right(&mut ratios, &[1, 2, 4]);
        let mut latency = table(&["round trip", "min", "p50", "p99", "max", "samples"]);
        for row in &self.latency {
            latency.add_row([
                row.what.to_owned(),
                time(row.min as f64),
                time(row.p50 as f64),
                time(row.p99 as f64),
                time(row.max as f64),
                grouped(row.samples),
            ]);
        }
        right(&mut latency, &[1, 2, 3, 4, 5]);
        let mut text = format!("{ratios}\n\n{latency}\n");
        for fact in &self.facts {
            let value = match fact.value {
                v if v.fract() == 0.0 => format!("{v:.0}"),
                v => format!("{v:.1}"),
            };
            text.push_str(&format!("\n {}: {value} {}", fact.what, fact.unit));
        }
        text
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header(header);
    table
}

fn right(table: &mut Table, columns: &[usize]) {
    for &index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn figure(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Nanoseconds => time(value),
        Unit::Gigabytes => format!("{value:.2} GB/s"),
    }
}

/// A time as a person says it.
pub(crate) fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        ns if ns < 10_000.0 => format!("{ns:.0} ns"),
        ns if ns < 10_000_000.0 => format!("{:.1} us", ns / 1e3),
        ns => format!("{:.1} ms", ns / 1e6),
    }
}

/// A ratio as a person says it: `1.03 x`, and `1/280` where it is tiny.
fn ratio(ratio: f64) -> String {
    match ratio {
        r if r > 0.0 && r < 0.05 => format!("1/{:.0}", 1.0 / r),
        r => format!("{r:.2} x"),
    }
}

/// A count with its thousands apart.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(time(312.4), "312 ns");
        assert_eq!(time(30_412.0), "30.4 us");
        assert_eq!(time(31_000_000.0), "31.0 ms");
        assert_eq!(ratio(1.034), "1.03 x");
        assert_eq!(ratio(1.0 / 280.0), "1/280");
        assert_eq!(ratio(0.0), "0.00 x");
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_234_567), "1 234 567");
        assert_eq!(grouped(123), "123");
    }

    #[test]
    fn the_tables_hold_every_row() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        histogram.record(300).unwrap();
        let report = Report {
            rows: vec![Row::new(
                "ring",
                "two lines",
                Unit::Nanoseconds,
                312.0,
                300.0,
            )],
            latency: vec![Latency::of("ring", &histogram)],
            facts: vec![Fact {
                what: "exits",
                value: 0.0,
                unit: "a doorbell",
            }],
            others: None,
        };
        let text = report.text();
        for words in ["312 ns", "300 ns", "1.04 x", "exits: 0 a doorbell", "p99"] {
            assert!(text.contains(words), "{words:?} not in\n{text}");
        }
    }
}
