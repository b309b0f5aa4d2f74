//! The page of the Guide.

use super::Figures;
use super::Samples;
use std::fmt::Write as _;

/// The page, with where the figures come from.
pub fn page(figures: &Figures, commit: &str, machine: &str) -> String {
    let mut text = String::from(HEAD);
    let _ = write!(
        text,
        "
| where | |
|---|---|
| commit | {commit} |
| machine | {machine} |
| L1 and its guests | Debian's kernel {}, 2 CPUs, one CPU a guest |
| compared with | {} |

| what | median | least | most | samples | ratio of medians | bar | held |
|---|---|---|---|---|---|---|---|
",
        figures.kernel, figures.qemu
    );
    for figure in &figures.figures {
        let unit = &figure.unit;
        let _ = writeln!(
            text,
            "| {} | {} | | | |",
            figure.what,
            cells(&figure.ours, unit)
        );
        for baseline in &figure.baselines {
            let ratio = figure.ratio(baseline);
            let (bar, held) = match baseline.bar {
                Some(bar) if ratio <= bar => (format!("{bar:.1}"), "yes"),
                Some(bar) => (format!("{bar:.1}"), "**no**"),
                None => (String::new(), ""),
            };
            let _ = writeln!(
                text,
                "| ... over: {} | {} | {ratio:.2} | {bar} | {held} |",
                baseline.what,
                cells(&baseline.samples, unit)
            );
        }
    }
    text.push_str(COUNTED);
    let names = figures.counted.first().map(|c| c.rates.as_slice());
    text.push_str("\n| a round trip under |");
    for (name, _) in names.unwrap_or_default() {
        let _ = write!(text, " `{name}` |");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(names.map_or(0, <[_]>::len)));
    for counted in &figures.counted {
        let _ = write!(text, "\n| {} |", counted.of);
        for (_, rate) in &counted.rates {
            let _ = write!(text, " {rate:.1} |");
        }
    }
    text.push('\n');
    text
}

fn cells(samples: &Samples, unit: &str) -> String {
    let (median, least, most) = samples.spread();
    let count = samples.0.len();
    format!("{median:.3} {unit} | {least:.3} | {most:.3} | {count}")
}

const HEAD: &str = "# Figures of the lab

Stock Linux guests under `portal_vmm` and under stock QEMU, in the same L1: a Debian
machine under QEMU's TCG with a nested `/dev/kvm`. Both run the same kernel, RAM disk and
`portal-guest`, in turns. Clocks under emulation mean nothing, so only ratios do.
`cargo flowey lab --numbers` measures them and writes this page; the machine must be
quiet.
";

const COUNTED: &str = "
## What a round trip is made of

Counters of KVM in L1 (`/sys/kernel/debug/kvm`), both guests together, for one round trip:
two doorbells, two interrupts, two programs that go to sleep and wake. `io_exits` also
hold what `ping` prints when it is done, an exit a byte through the serial port; the
longer a run, the longer its histogram, so that it does not cancel out.
";
