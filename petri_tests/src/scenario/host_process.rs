//! Guests and a process of the host in one served region, at once.

use super::Place;
use super::Scenario;
use super::exchange::BYTES;
use super::exchange::REGION;
use super::exchange::bell;
use super::exchange::guest;
use super::exchange::same_bytes;
use super::group::Group;
use super::group::report;
use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::ended::check;
use crate::lab::Lab;
use crate::process::Process;
use crate::process::last_line;
use crate::vmm::Vmm;
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

pub(super) const GUESTS_AND_HOST: Scenario = Scenario {
    name: "two_guests_one_host_process",
    what: "two guests and a host process in one region that `portal serve` serves: 64 MiB from \
           guest to host, from guest to guest and from host to guest, hashes equal",
    limit: Duration::from_secs(150),
    place: |vmm| match vmm {
        Vmm::Qemu => Place::OnHost,
        Vmm::PortalVmm | Vmm::OpenVmm => Place::Inside,
    },
    run: |lab, vmm| all_ways(lab, vmm, vmm),
};

pub(super) const THREE_KINDS: Scenario = Scenario {
    name: "three_kinds_one_region",
    what: "a portal_vmm guest, a stock QEMU guest and a host process in one region at once: \
           64 MiB each from the first to the third, to the second, and from the third to the \
           second",
    limit: Duration::from_secs(180),
    place: |vmm| match vmm {
        Vmm::PortalVmm | Vmm::OpenVmm => Place::Inside,
        Vmm::Qemu => Place::Nowhere("QEMU's part of it is in portal_vmm's cell"),
    },
    run: |lab, vmm| all_ways(lab, vmm, Vmm::Qemu),
};

pub(super) const SWITCHBOARD_KILLED: Scenario = Scenario {
    name: "switchboard_killed",
    what: "`portal serve` is killed with SIGKILL in the middle of 256 MiB from a guest to a \
           host process, and started again: nothing is lost, another host process comes back as \
           the same peer and answers a later one, and a later guest sends 64 MiB",
    limit: Duration::from_secs(150),
    place: |vmm| match vmm {
        Vmm::Qemu => Place::OnHost,
        Vmm::PortalVmm | Vmm::OpenVmm => Place::Inside,
    },
    run: switchboard_killed,
};

/// Bytes that cross while the switchboard is killed: seconds of work.
const LONG: u64 = 256 << 20;

/// A `portal-guest` as a process of this machine, at the group's switchboard.
pub(super) fn host_process(
    lab: &Lab,
    group: &Group,
    name: &str,
    words: &[&str],
) -> Passed<Process> {
    let switchboard = group.switchboard.as_ref();
    let switchboard = switchboard.ok_or_else(|| NotPassed::failed("the region is not served"))?;
    let mut command = Command::new(&lab.programs.portal_guest);
    command
        .args(["--json", "--region", "lake", "--name", name])
        .arg("--switchboard")
        .arg(switchboard.portal_socket()?)
        .args(words);
    Process::start(name, &mut command, &lab.folder)
}

/// What such a process reports, which has to end well.
pub(super) fn host_report(process: &mut Process, lab: &Lab) -> Passed<Value> {
    let status = process.wait(lab.until)?;
    let said = process.output();
    check(status.success(), || {
        format!(
            "{} ended with {status}: {}",
            process.name(),
            last_line(&said)
        )
    })?;
    report(&said)
}

/// A guest of each of two VMMs (which may be the same) and a host process.
fn all_ways(lab: &Lab, first: Vmm, second: Vmm) -> Passed {
    let program = |vmm| format!("portal-guest --json --region lake --bell {}", bell(vmm));
    let (a, b) = (program(first), program(second));
    let a = guest("a", first)
        .step("to-host", 90, &format!("{a} send --to 2 --bytes 64MiB"))
        .step("to-guest", 90, &format!("{a} send --to 1 --bytes 64MiB"));
    let b = guest("b", second)
        .step("from-guest", 120, &format!("{b} recv --from 0"))
        .step("from-host", 90, &format!("{b} recv"));
    let mut group = Group::served(lab, REGION)?;
    // Ids are given in the order in which peers come.
    group.join(lab, first, &a)?;
    group.joined(0, lab)?;
    group.join(lab, second, &b)?;
    group.joined(1, lab)?;
    let mut receiver = host_process(lab, &group, "receiver", &["recv", "--from", "0"])?;
    let received = host_report(&mut receiver, lab)?;
    check(received["place"]["peer"] == 2, || format!("{received}"))?;
    same_bytes(&received, &group.json(0, "to-host", lab)?, BYTES)?;
    same_bytes(
        &group.json(1, "from-guest", lab)?,
        &group.json(0, "to-guest", lab)?,
        BYTES,
    )?;
    let words = ["send", "--to", "1", "--bytes", "64MiB"];
    let mut sender = host_process(lab, &group, "sender", &words)?;
    let sent = host_report(&mut sender, lab)?;
    same_bytes(&group.json(1, "from-host", lab)?, &sent, BYTES)?;
    group.ends_well(lab)
}

fn switchboard_killed(lab: &Lab, vmm: Vmm) -> Passed {
    let program = format!("portal-guest --json --region lake --bell {}", bell(vmm));
    let early = format!("{program} send --to first --bytes 256MiB");
    let late = format!("{program} send --to second --bytes 64MiB");
    let early = guest("early", vmm).step("send", 120, &early);
    let late = guest("late", vmm).step("send", 120, &late);
    let mut group = Group::served(lab, REGION)?;
    group.join(lab, vmm, &early)?;
    group.joined(0, lab)?;
    let mut steady = host_process(lab, &group, "steady", &["pong"])?;
    group.joined(1, lab)?;
    let mut first = host_process(lab, &group, "first", &["recv"])?;
    let (running, _) = group.at(0)?;
    running.says(0, "##begin send", 1, lab.until)?;
    // Into the transfer, which takes several times as long.
    std::thread::sleep(Duration::from_secs(1));
    check(running.consoles[0].step("send").is_none(), || {
        "the transfer had ended before the switchboard was killed".to_owned()
    })?;
    group.restart_switchboard(lab)?;
    group.switchboard_says("peer 1 is back", lab)?;
    let received = host_report(&mut first, lab)?;
    same_bytes(&received, &group.json(0, "send", lab)?, LONG)?;
    // Who came later reaches who was there before.
    let words = ["ping", "--to", "steady", "--count", "100"];
    host_report(&mut host_process(lab, &group, "later", &words)?, lab)?;
    let place = host_report(&mut steady, lab)?["place"].clone();
    check(place["peer"] == 1 && place["epoch"] == 1, || {
        format!("the place of who came back: {place}")
    })?;
    let mut second = host_process(lab, &group, "second", &["recv"])?;
    group.join(lab, vmm, &late)?;
    let sent = group.json(1, "send", lab)?;
    let again = host_report(&mut second, lab)?;
    same_bytes(&again, &sent, BYTES)?;
    let region = |report: &Value| report["place"]["uuid"].clone();
    check(region(&again) == region(&received), || {
        format!("another region: {received}, {again}")
    })?;
    group.ends_well(lab)
}
