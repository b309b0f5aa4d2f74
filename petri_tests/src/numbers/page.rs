//! The page of the Guide.

use super::Figure;
use super::Part;
use super::Run;
use super::Saved;
use super::Spread;
use crate::vmm::Vmm;
use std::fmt::Write as _;

/// The page of what is saved.
pub fn page(saved: &Saved) -> String {
    let place = &saved.place;
    let mut text = String::from(HEAD);
    if place.openvmm.is_some() {
        text.push_str(OPENVMM);
    }
    let [l1, guests] = &place.kernels;
    let _ = write!(
        text,
        "
| where | |
|---|---|
| commit | {} |
| machine | {} |
| L1 | Debian's kernel {l1}, 2 CPUs |
| guests | Debian's kernel {guests}, one CPU a guest |
| `qemu` | {} |
",
        place.commit, place.machine, place.qemu
    );
    if let Some(openvmm) = &place.openvmm {
        let _ = writeln!(text, "| `openvmm` | {openvmm} |");
    }
    let has = |part| saved.runs.iter().any(|run| run.part == part);
    for figure in Figure::ALL {
        // Not everybody has the driver.
        if figure != Figure::Direct || has(Part::Direct) {
            table(&mut text, saved, figure);
        }
    }
    counters(&mut text, saved);
    runs(&mut text, saved);
    text
}

/// One figure under every VMM.
fn table(text: &mut String, saved: &Saved, figure: Figure) {
    let (of, to) = figure.baseline();
    let better = match figure.more_is_better() {
        true => "more",
        false => "less",
    };
    let _ = write!(
        text,
        "
## {}

In {}; {better} is better.

| VMM | median | least | most | samples | over {}, in the same L1 | bar | held |
|---|---|---|---|---|---|---|---|
",
        figure.what(),
        figure.unit(),
        name(figure, of, to)
    );
    let part = figure.part();
    let runs = || saved.runs.iter().filter(|run| run.part == part);
    for (by, vmm) in part.round(saved.place.openvmm.is_some()) {
        let by = if part == Part::IntX { by } else { figure };
        let name = name(figure, by, vmm);
        let Some(spread) = Spread::of(runs().flat_map(|run| run.samples(by, vmm))) else {
            let _ = writeln!(text, "| {name} | none | | | | | | |");
            continue;
        };
        let ratios = Spread::of(runs().filter_map(|run| ratio(run, figure, vmm)));
        let ratios = ratios.filter(|_| (by, vmm) != (of, to));
        let (bar, held) = match (figure.bar(vmm), ratios) {
            (Some(bar), Some(ratios)) if ratios.median <= bar => (format!("{bar:.1}"), "yes"),
            (Some(bar), Some(_)) => (format!("{bar:.1}"), "**no**"),
            _ => (String::new(), ""),
        };
        let ratios = match ratios {
            None => String::new(),
            Some(of) if of.count == 1 => format!("{:.2}", of.median),
            Some(of) => format!("{:.2} ({:.2} to {:.2})", of.median, of.least, of.most),
        };
        let _ = writeln!(
            text,
            "| {name} | {:.3} | {:.3} | {:.3} | {} | {ratios} | {bar} | {held} |",
            spread.median, spread.least, spread.most, spread.count
        );
    }
}

/// A VMM in a figure's table, where `by` is another figure of it.
fn name(figure: Figure, by: Figure, vmm: Vmm) -> String {
    match figure == by {
        true => format!("`{vmm}`"),
        false => format!("`{vmm}` by MSI-X"),
    }
}

/// The median over the baseline's, of one L1.
fn ratio(run: &Run, figure: Figure, vmm: Vmm) -> Option<f64> {
    let (of, to) = figure.baseline();
    let ours = Spread::of(run.samples(figure, vmm))?;
    let theirs = Spread::of(run.samples(of, to))?;
    Some(ours.median / theirs.median)
}

/// What KVM did in each round trip.
fn counters(text: &mut String, saved: &Saved) {
    let taken = || saved.runs.iter().flat_map(|run| &run.taken);
    let Some(first) = taken().find(|taken| !taken.rates.is_empty()) else {
        return;
    };
    text.push_str(COUNTED);
    text.push_str("\n| a round trip under |");
    for (name, _) in &first.rates {
        let _ = write!(text, " `{name}` |");
    }
    let _ = write!(text, "\n|---|{}", "---|".repeat(first.rates.len()));
    for (figure, by) in [
        (Figure::MsiX, "MSI-X"),
        (Figure::Direct, "MSI-X without an IOMMU"),
        (Figure::IntX, "INTx"),
    ] {
        for vmm in Vmm::ALL {
            let of = || taken().filter(|t| t.figure == figure && t.vmm == vmm);
            if of().next().is_none() {
                continue;
            }
            let _ = write!(text, "\n| `{vmm}`, {by} |");
            for (name, _) in &first.rates {
                let rates = of().flat_map(|t| &t.rates).filter(|(n, _)| n == name);
                let rate = Spread::of(rates.map(|(_, rate)| *rate));
                let _ = write!(text, " {:.1} |", rate.map_or(f64::NAN, |rate| rate.median));
            }
        }
    }
    text.push('\n');
}

/// Each L1, and what was lost in it.
fn runs(text: &mut String, saved: &Saved) {
    text.push_str(RUNS);
    for run in &saved.runs {
        let died = run.died.iter().map(|why| format!("L1: {why}"));
        let lost: Vec<String> = died.chain(run.lost.iter().cloned()).collect();
        let lost = lost.join("; ").replace('|', "/");
        let mut turns: Vec<(Figure, Vmm)> = run.taken.iter().map(|t| (t.figure, t.vmm)).collect();
        // A bench is a turn of two figures.
        turns.retain(|(figure, _)| *figure != Figure::RingTrip);
        let _ = writeln!(
            text,
            "| {} | {} | {} s | {} | {lost} |",
            run.part,
            run.at,
            run.seconds,
            turns.len()
        );
    }
}

const HEAD: &str = "# Figures of the lab

Stock Linux guests under several VMMs, in turns, in the same L1: a Debian machine under
QEMU's TCG with a nested `/dev/kvm`. All run the same kernel, RAM disk and
`portal-guest`. Clocks under emulation mean nothing, so only ratios do, and only those
between VMMs in one L1.
`cargo flowey lab --numbers` measures them and writes this page, with rows of `openvmm`
where `PORTAL_OPENVMM` names one; the machine must be quiet.

A doorbell is a store that KVM takes (ioeventfd); under `portal_vmm` and QEMU its
interrupt is KVM's too (irqfd). Guests of a pair read the processor's clock
(`clocksource=tsc`), which is no exit under any VMM.
";

/// What makes its doorbell another thing.
const OPENVMM: &str = "
Under `openvmm` the store is KVM's as well, but by VFIO not the interrupt: that wants an
emulated IOMMU, and behind one OpenVMM has no irqfd, so that a thread of it wakes for each
doorbell and sends the MSI. Without an IOMMU the interrupt is KVM's, too. Its pairs run
without `--hv`: with it Linux reads its clock from an MSR of Hyper-V's, an exit each time
([OpenVMM](openvmm.md) has figures).
";

const COUNTED: &str = "
## What a round trip is made of

Counters of KVM in L1 (`/sys/kernel/debug/kvm`), both guests together, for one round trip:
two doorbells, two interrupts, two programs that go to sleep and wake. `io_exits` also
hold what `ping` prints when it is done, an exit a byte through the serial port; the
longer a run, the longer its histogram, so that it does not cancel out.
";

const RUNS: &str = "
## Runs

Each is one boot of L1, which measures one part in turns and may die or stand still, being
an emulated machine with an emulated SVM. Whatever a turn took is above; what was lost is
here.

| part | started, UTC | took | turns | lost |
|---|---|---|---|---|
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::Place;
    use crate::numbers::Taken;

    fn run(samples: &[(Figure, Vmm, f64)]) -> Run {
        let mut run = Run::new(samples[0].0.part());
        run.taken = samples
            .iter()
            .map(|&(figure, vmm, sample)| Taken {
                figure,
                vmm,
                samples: vec![sample],
                rates: vec![("exits".to_owned(), sample)],
            })
            .collect();
        run
    }

    fn of(openvmm: bool, runs: Vec<Run>) -> String {
        let place = Place {
            commit: "c".to_owned(),
            machine: "m".to_owned(),
            kernels: ["6.1".to_owned(), "6.12".to_owned()],
            qemu: "QEMU 7.2".to_owned(),
            openvmm: openvmm.then(|| "0.1".to_owned()),
        };
        page(&Saved::of(place, runs))
    }

    #[test]
    fn ratios_are_those_of_one_l1() {
        let (ours, theirs) = (Vmm::PortalVmm, Vmm::Qemu);
        let boot = |a, b| run(&[(Figure::Boot, ours, a), (Figure::Boot, theirs, b)]);
        let one = of(false, vec![boot(2.0, 4.0)]);
        assert!(one.contains("| `portal_vmm` | 2.000 | 2.000 | 2.000 | 1 | 0.50 | 0.7 | yes |\n"));
        assert!(one.contains("| `qemu` | 4.000 | 4.000 | 4.000 | 1 |  |  |  |\n"));
        // Another machine, twice as slow.
        let two = of(false, vec![boot(2.0, 4.0), boot(8.0, 8.0)]);
        assert!(two.contains("| 2 | 1.00 (0.50 to 1.00) | 0.7 | **no** |\n"));
    }

    #[test]
    fn what_is_missing_is_said() {
        let mut died = run(&[(Figure::MsiX, Vmm::PortalVmm, 1.0)]);
        died.died = Some("it stood still".to_owned());
        died.lost = vec!["qemu: a|b".to_owned()];
        let text = of(true, vec![died]);
        let row = "| `openvmm` | none | | | | | | |\n";
        // `Direct` is left out, and IntX has rows of its own.
        assert_eq!(text.matches(row).count(), Figure::ALL.len() - 2);
        assert!(text.contains("| 1 | L1: it stood still; qemu: a/b |\n"));
        assert!(text.contains("| `portal_vmm`, MSI-X | 1.0 |\n"));
        assert!(text.contains("| `openvmm` | 0.1 |\n"));
        assert!(!of(false, Vec::new()).contains("| `openvmm`"));
    }
}
