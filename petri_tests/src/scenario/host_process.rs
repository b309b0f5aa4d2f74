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
           the host to a guest, from there to the other one and from there to the host, hashes \
           equal",
    limit: Duration::from_secs(150),
    place: |vmm| match vmm {
        Vmm::Qemu => Place::OnHost,
        Vmm::PortalVmm | Vmm::OpenVmm => Place::Inside,
    },
    run: |lab, vmm| round(lab, &[vmm, vmm]),
};

pub(super) const ALL_KINDS: Scenario = Scenario {
    name: "all_kinds_one_region",
    what: "a portal_vmm guest, a stock QEMU guest and a host process in one region at once, and \
           in openvmm's cell an OpenVMM guest too: 64 MiB from the host through each of them to \
           the host, hashes equal",
    limit: Duration::from_secs(180),
    place: |vmm| match vmm {
        Vmm::PortalVmm | Vmm::OpenVmm => Place::Inside,
        Vmm::Qemu => Place::Nowhere("QEMU's part of it is in portal_vmm's cell"),
    },
    run: |lab, vmm| match vmm {
        Vmm::OpenVmm => round(lab, &[vmm, Vmm::PortalVmm, Vmm::Qemu]),
        Vmm::PortalVmm | Vmm::Qemu => round(lab, &[vmm, Vmm::Qemu]),
    },
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

/// Bytes that cross while the switchboard is killed: seconds of work; and how many of
/// them have come before it is.
const LONG: u64 = 256 << 20;
const PART: u64 = 4 << 20;

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

/// A guest of each of these VMMs, and when all are there a host process that sends to the
/// first; each sends to the next, and the last one to another host process.
fn round(lab: &Lab, vmms: &[Vmm]) -> Passed {
    // Ids are given in the order in which peers come.
    let (receiver, sender) = (vmms.len(), vmms.len() + 1);
    let mut group = Group::served(lab, REGION)?;
    for (n, &vmm) in vmms.iter().enumerate() {
        let program = format!(
            "portal-guest --json --region lake --patience 120 --bell {}",
            bell(vmm)
        );
        let (before, next) = (n.checked_sub(1).unwrap_or(sender), n + 1);
        let member = guest(&format!("{vmm}-{n}"), vmm)
            .step("recv", 150, &format!("{program} recv --from {before}"))
            .step(
                "send",
                120,
                &format!("{program} send --to {next} --bytes 64MiB"),
            );
        group.join(lab, vmm, &member)?;
        group.joined(u16::try_from(n).unwrap_or(u16::MAX), lab)?;
    }
    for n in 0..vmms.len() {
        let (running, guest) = group.at(n)?;
        running.says(guest, "##begin recv", 1, lab.until)?;
    }
    let from = (receiver - 1).to_string();
    let words = ["recv", "--patience", "120", "--from", &from];
    let mut receiver = host_process(lab, &group, "receiver", &words)?;
    group.joined(u16::try_from(vmms.len()).unwrap_or(u16::MAX), lab)?;
    let words = ["send", "--to", "0", "--bytes", "64MiB"];
    let mut sent = host_report(&mut host_process(lab, &group, "sender", &words)?, lab)?;
    for n in 0..vmms.len() {
        same_bytes(&group.json(n, "recv", lab)?, &sent, BYTES)?;
        sent = group.json(n, "send", lab)?;
    }
    same_bytes(&host_report(&mut receiver, lab)?, &sent, BYTES)?;
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
    let bytes = lab.scratch("received");
    let words = ["recv", "--out", &bytes.display().to_string()];
    let mut first = host_process(lab, &group, "first", &words)?;
    first.writes(&bytes, PART, lab.until)?;
    let (running, _) = group.at(0)?;
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
