//! Doorbell round trips, user space to user space, with both programs asleep until
//! their doorbell; and bytes through a ring of the region.
//!
//! A pair of guests makes several runs, so that what is booted is used; pairs of all
//! VMMs take turns.

use super::Baseline;
use super::Counted;
use super::Figure;
use super::Samples;
use super::Taken;
use super::exits;
use super::exits::Counters;
use super::turns;
use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::ended::check;
use crate::lab::Lab;
use crate::scenario;
use crate::scenario::Group;
use crate::vmm::Vmm;

/// Bytes of the region.
const REGION: u64 = 16 << 20;
/// Round trips of a run that counts, and runs a pair of guests makes.
const TRIPS: u32 = 250;
const RUNS: usize = 4;
/// Round trips of the two runs before: the first opens the device, and what the second
/// costs is what any run costs beside its round trips.
const SHORT: u32 = 50;
/// Seconds that one run may take.
const STEP: u64 = 60;
/// Runs of `bench` that a pair makes, and what each of its measurements takes.
const BENCHES: usize = 2;
const BENCH: &str = "--seconds 0.5";
/// Pairs of each VMM.
const ROUNDS: usize = 2;
/// Between two runs, so that the counters of one do not hold the next one's start.
const PAUSE: &str = "sleep 0.3";

/// A pair's results.
struct Pair {
    /// Medians of its runs, in milliseconds.
    milliseconds: Vec<f64>,
    /// What each round trip took of KVM's counters.
    rates: Vec<(String, f64)>,
    /// MiB a second through a ring.
    rings: Vec<f64>,
}

pub(super) fn measure(lab: &Lab) -> Passed<(Vec<Figure>, Vec<Counted>)> {
    let mut trips = Taken::default();
    let mut rings = Taken::default();
    let mut counted: Vec<Counted> = Vec::new();
    let mut pairs = 0;
    for vmm in turns(lab, ROUNDS) {
        let pair = pair(lab, vmm, "vfio", pairs)?;
        pairs += 1;
        trips.add(vmm, pair.milliseconds);
        rings.add(vmm, pair.rings);
        let of = format!("{vmm}, MSI-X");
        if !counted.iter().any(|counted| counted.of == of) {
            let rates = pair.rates;
            counted.push(Counted { of, rates });
        }
    }
    let intx = pair(lab, Vmm::PortalVmm, "uio", pairs)?;
    counted.push(Counted {
        of: format!("{}, INTx", Vmm::PortalVmm),
        rates: intx.rates,
    });
    let theirs = "QEMU ivshmem-doorbell, the same program";
    let mut figures = trips.figures(
        "doorbell round trip, guest user space to guest user space, MSI-X by VFIO",
        "ms",
        theirs,
        Some(1.0),
    );
    figures.push(Figure {
        what: format!(
            "the same by INTx, `uio_pci_generic` (QEMU's ivshmem has none): `{}`",
            Vmm::PortalVmm
        ),
        unit: "ms".to_owned(),
        ours: Samples(intx.milliseconds),
        baselines: vec![Baseline {
            what: "the same by MSI-X".to_owned(),
            samples: trips.of(Vmm::PortalVmm),
            bar: None,
        }],
    });
    let what = "bytes through a ring of the region, guest to guest (more is better)";
    figures.extend(rings.figures(what, "MiB/s", theirs, None));
    Ok((figures, counted))
}

fn pair(lab: &Lab, vmm: Vmm, bell: &str, n: usize) -> Passed<Pair> {
    let program = format!("portal-guest --json --bell {bell}");
    let first = format!("a{n}");
    let to = scenario::first_guest(vmm, &first);
    let mut a = scenario::guest_with(&first, bell);
    let mut b = scenario::guest_with(&format!("b{n}"), bell);
    let trips: Vec<u32> = [SHORT; 2].into_iter().chain([TRIPS; RUNS]).collect();
    for (run, trips) in trips.iter().enumerate() {
        let ping = format!("{program} ping --to {to} --wait sleep --count {trips}");
        a = a.step(&format!("pong{run}"), STEP, &format!("{program} pong"));
        b = b.step(&format!("ping{run}"), STEP, &ping).line(PAUSE);
    }
    for run in 0..BENCHES {
        let bench = format!("{program} bench --to {to} {BENCH}");
        a = a.step(&format!("served{run}"), STEP, &format!("{program} pong"));
        b = b.step(&format!("bench{run}"), STEP, &bench);
    }
    // A pair's switchboard appends to this; what the last one said is not of this one.
    let _ = std::fs::remove_file(lab.folder.join("switchboard.log"));
    let mut group = Group::start(lab, vmm, &[a, b], REGION)?;
    let mut milliseconds = Vec::new();
    let mut used = Vec::new();
    for (run, trips) in trips.iter().enumerate() {
        let step = format!("ping{run}");
        group.says(1, &format!("##begin {step}\n"), lab)?;
        let before = Counters::now()?;
        let ping = group.json(1, &step, lab)?;
        used.push(Counters::now()?.since(&before));
        let unheard = ping["trips"]["unheard"].as_u64().unwrap_or(u64::MAX);
        check(unheard <= u64::from(*trips) / 50, || {
            format!("{vmm}: {unheard} of {trips} waits ended without a doorbell")
        })?;
        let median = ping["trips"]["ns"]["p50"].as_f64();
        let median = median.ok_or_else(|| NotPassed::failed(format!("no median in {ping}")))?;
        milliseconds.push(median / 1e6);
    }
    let mut rings = Vec::new();
    for run in 0..BENCHES {
        let bench = group.json(1, &format!("bench{run}"), lab)?;
        let rate = bench["throughput"]["bytes_per_second"].as_f64();
        let rate = rate.ok_or_else(|| NotPassed::failed(format!("no rate in {bench}")))?;
        rings.push(rate / f64::from(1 << 20));
    }
    group.ends_well(lab)?;
    lab.tidy();
    let counted = milliseconds.split_off(2);
    Ok(Pair {
        milliseconds: counted,
        rates: rates(&used),
        rings,
    })
}

/// Counters of one round trip: a long run's less the short one's.
fn rates(used: &[Counters]) -> Vec<(String, f64)> {
    let (Some(short), Some(long)) = (used.get(1), used.get(2..)) else {
        return Vec::new();
    };
    let rate = |name: &str| {
        let mut each: Vec<u64> = long.iter().map(|c| c.get(name)).collect();
        each.sort_unstable();
        let median = each.get(each.len() / 2).copied().unwrap_or(0);
        let more = median as f64 - short.get(name) as f64;
        more / f64::from(TRIPS - SHORT)
    };
    let all: Vec<(String, f64)> = short
        .names()
        .map(|name| (name.to_owned(), rate(name)))
        .filter(|(_, rate)| rate.abs() >= 0.05)
        .collect();
    eprintln!("counters a round trip: {all:?}");
    let shown = exits::SHOWN.iter();
    shown.map(|&name| (name.to_owned(), rate(name))).collect()
}
