//! Two guests: doorbell round trips, user space to user space, with both programs
//! asleep until their doorbell; and a ring of the region.
//!
//! A pair of guests makes several runs, so that what is booted is used.

use super::Figure;
use super::Taken;
use super::exits;
use super::exits::Counters;
use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::ended::check;
use crate::lab::Lab;
use crate::scenario;
use crate::scenario::Group;
use crate::vmm::Vmm;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Bytes of the region.
const REGION: u64 = 16 << 20;
/// Round trips of a run that counts, and runs a pair of guests makes.
const TRIPS: u32 = 250;
const RUNS: usize = 3;
/// Round trips of the two runs before: the first opens the device, and what the second
/// costs is what any run costs beside its round trips.
const SHORT: u32 = 50;
/// Seconds that one run may take.
const STEP: u64 = 30;
/// Runs of `bench` that a pair makes, and what each of its measurements takes.
const BENCHES: usize = 2;
const BENCH: &str = "--seconds 0.5";
/// Between two runs, so that the counters of one do not hold the next one's start.
const PAUSE: &str = "sleep 0.3";

/// Doorbell round trips of a pair, with what each took of KVM's counters.
pub(super) fn trips(lab: &Lab, vmm: Vmm, figure: Figure, n: usize) -> Passed<Taken> {
    let bell = match figure {
        Figure::IntX => "uio",
        Figure::Direct => "igb-uio",
        _ => "vfio",
    };
    let trips: Vec<u32> = [SHORT; 2].into_iter().chain([TRIPS; RUNS]).collect();
    let runs = trips
        .iter()
        .map(|count| format!("ping --wait sleep --count {count}"));
    let mut group = pair(lab, vmm, bell, n, runs)?;
    let mut samples = Vec::new();
    let mut used = Vec::new();
    for (run, trips) in trips.iter().enumerate() {
        group.says(1, &format!("##begin run{run}\n"), lab)?;
        let before = Counters::now()?;
        let ping = result(&mut group, vmm, run, lab)?;
        used.push(Counters::now()?.since(&before));
        let unheard = ping["trips"]["unheard"].as_u64().unwrap_or(u64::MAX);
        check(unheard <= u64::from(*trips) / 50, || {
            format!("{vmm}: {unheard} of {trips} waits ended without a doorbell")
        })?;
        samples.push(number(&ping, "/trips/ns/p50")? / 1e6);
    }
    group.ends_well(lab)?;
    Ok(Taken {
        figure,
        vmm,
        samples: samples.split_off(2),
        rates: rates(&used),
    })
}

/// What a pair gets through a ring, and how fast 56 bytes are there and back.
pub(super) fn rings(lab: &Lab, vmm: Vmm, n: usize) -> Passed<Vec<Taken>> {
    let runs = (0..BENCHES).map(|_| format!("bench {BENCH}"));
    let mut group = pair(lab, vmm, "vfio", n, runs)?;
    let taken = |figure| Taken {
        figure,
        vmm,
        samples: Vec::new(),
        rates: Vec::new(),
    };
    let (mut rate, mut trip) = (taken(Figure::RingRate), taken(Figure::RingTrip));
    for run in 0..BENCHES {
        let bench = result(&mut group, vmm, run, lab)?;
        let bytes = number(&bench, "/throughput/bytes_per_second")?;
        rate.samples.push(bytes / f64::from(1 << 20));
        trip.samples
            .push(number(&bench, "/ring_round_trip/ns/p50")? / 1e3);
    }
    group.ends_well(lab)?;
    Ok(vec![rate, trip])
}

/// Two guests on one region: the first answers, the second makes these runs.
fn pair(
    lab: &Lab,
    vmm: Vmm,
    bell: &str,
    n: usize,
    runs: impl Iterator<Item = String>,
) -> Passed<Group> {
    let program = format!("portal-guest --json --bell {bell}");
    let first = format!("a{n}");
    let to = scenario::first_guest(vmm, &first);
    let mut a = scenario::guest_with(&first, bell);
    let mut b = scenario::guest_with(&format!("b{n}"), bell);
    // The same clock everywhere: what a VMM offers in its place may be an exit a look,
    // and programs that wait look often.
    let khz = tsc_khz()?;
    (a.tsc_khz, b.tsc_khz) = (Some(khz), Some(khz));
    for (run, what) in runs.enumerate() {
        a = a.step(&format!("pong{run}"), STEP, &format!("{program} pong"));
        let what = format!("{program} {what} --to {to}");
        b = b.step(&format!("run{run}"), STEP, &what).line(PAUSE);
    }
    Group::start(lab, vmm, &[a, b], REGION)
}

/// The rate of the processor's clock, which guests of KVM share with its host.
fn tsc_khz() -> Passed<u32> {
    let path = Path::new("/proc/cpuinfo");
    let text = fs::read_to_string(path).map_err(NotPassed::of_file(path))?;
    let line = text.lines().find(|line| line.starts_with("cpu MHz"));
    let mhz = line.and_then(|line| line.split_once(':')?.1.trim().parse::<f64>().ok());
    let khz = mhz.map(|mhz| (mhz * 1000.0) as u32);
    khz.ok_or_else(|| NotPassed::failed("no cpu MHz in /proc/cpuinfo"))
}

/// What a run of the second guest reports. It is said that it came to its end: whoever
/// waits outside sees that something happens.
fn result(group: &mut Group, vmm: Vmm, run: usize, lab: &Lab) -> Passed<Value> {
    let report = group.json(1, &format!("run{run}"), lab)?;
    println!("{vmm}: run {run}");
    Ok(report)
}

fn number(report: &Value, at: &str) -> Passed<f64> {
    let number = report.pointer(at).and_then(Value::as_f64);
    number.ok_or_else(|| NotPassed::failed(format!("no {at} in {report}")))
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
    let shown = exits::SHOWN.iter();
    shown.map(|&name| (name.to_owned(), rate(name))).collect()
}
