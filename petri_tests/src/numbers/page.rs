//! The page of the Guide.

use super::Figures;
use super::Samples;
use std::fmt::Write as _;

/// The page, with where the figures come from.
pub fn page(figures: &Figures, commit: &str, machine: &str) -> String {
    let openvmm = figures.openvmm.as_ref();
    let openvmm = openvmm.map_or(String::new(), |version| {
        format!("| `openvmm` | {version} |\n")
    });
    let mut text = String::from(HEAD);
    if figures.openvmm.is_some() {
        text.push_str(OPENVMM);
    }
    let _ = write!(
        text,
        "
| where | |
|---|---|
| commit | {commit} |
| machine | {machine} |
| L1 and its guests | Debian's kernel {}, 2 CPUs, one CPU a guest |
| compared with | {} |
{}
| what | median | least | most | samples | ratio of medians | bar | held |
|---|---|---|---|---|---|---|---|
",
        figures.kernel, figures.qemu, openvmm
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

Stock Linux guests under several VMMs, in turns, in the same L1: a Debian machine under
QEMU's TCG with a nested `/dev/kvm`. All run the same kernel, RAM disk and
`portal-guest`. Clocks under emulation mean nothing, so only ratios do.
`cargo flowey lab --numbers` measures them and writes this page, with rows of `openvmm`
where `PORTAL_OPENVMM` names one; the machine must be quiet.

A doorbell is a store that KVM takes (ioeventfd); under `portal_vmm` and QEMU its
interrupt is KVM's too (irqfd).
";

/// What makes its doorbell another thing.
const OPENVMM: &str = "
Under `openvmm` the store is KVM's as well, but not the interrupt: VFIO wants an emulated
IOMMU, and behind one OpenVMM has no irqfd, so that a thread of it wakes for each doorbell
and sends the MSI. `--version` does not tell whether it was built with optimisation.
";

const COUNTED: &str = "
## What a round trip is made of

Counters of KVM in L1 (`/sys/kernel/debug/kvm`), both guests together, for one round trip:
two doorbells, two interrupts, two programs that go to sleep and wake. `io_exits` also
hold what `ping` prints when it is done, an exit a byte through the serial port; the
longer a run, the longer its histogram, so that it does not cancel out.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::Taken;
    use crate::vmm::Vmm;

    fn of(vmms: &[Vmm]) -> String {
        let mut taken = Taken::default();
        for (&vmm, sample) in vmms.iter().zip([2.0, 4.0, 8.0]) {
            taken.add(vmm, [sample]);
        }
        let figures = Figures {
            kernel: "6.1".to_owned(),
            qemu: "QEMU 7.2".to_owned(),
            openvmm: vmms.contains(&Vmm::OpenVmm).then(|| "0.1".to_owned()),
            figures: taken.figures("boot", "s", "QEMU", Some(0.7)),
            counted: Vec::new(),
        };
        page(&figures, "c", "m")
    }

    #[test]
    fn openvmm_is_named_only_where_it_ran() {
        let held = "| ... over: QEMU | 4.000 s | 4.000 | 4.000 | 1 | 0.50 | 0.7 | yes |\n";
        let without = of(&[Vmm::PortalVmm, Vmm::Qemu]);
        assert!(without.contains("| boot: `portal_vmm` | 2.000 s |"));
        assert!(without.contains(held));
        assert!(without.contains("| compared with | QEMU 7.2 |\n\n| what"));
        assert_eq!(
            without.matches("openvmm").count(),
            HEAD.matches("openvmm").count()
        );
        let with = of(&[Vmm::PortalVmm, Vmm::Qemu, Vmm::OpenVmm]);
        assert!(with.contains(held));
        assert!(with.contains("| `openvmm` | 0.1 |\n\n| what"));
        assert!(with.contains("| boot: `openvmm` | 8.000 s | 8.000 | 8.000 | 1 | | | |\n"));
        assert!(with.contains("| 4.000 | 1 | 2.00 |  |  |\n"));
    }
}
