//! A guest that misuses its devices, beside an exchange that has nothing to do with it.

use super::Place;
use super::Scenario;
use super::anywhere;
use super::exchange::BYTES;
use super::exchange::REGION;
use super::exchange::bell;
use super::exchange::guest;
use super::exchange::same_bytes;
use super::group::Group;
use super::host_process::host_process;
use super::host_process::host_report;
use crate::ended::Passed;
use crate::ended::check;
use crate::guest::Device;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::region::Region;
use crate::vmm::Vmm;
use std::time::Duration;

pub(super) const HOSTILE: Scenario = Scenario {
    name: "hostile_guest",
    what: "a guest with two CPUs floods doorbells and, under that load, fuzzes registers, MSI-X \
           table and configuration space, turns memory decoding off and on and moves its BARs \
           (under stock QEMU one ivshmem v1, else v1 and v2, with stores all over the region): \
           its VMM, another guest, the switchboard and a host process go on and exchange 64 MiB \
           during it and 64 MiB after it, hashes equal; its devices work afterwards",
    limit: Duration::from_secs(240),
    place: anywhere,
    run: hostile,
};

/// Of each of these it has to have done some.
const KINDS: [&str; 6] = [
    "doorbells",
    "registers",
    "table",
    "config",
    "decoding",
    "moves",
];

fn hostile(lab: &Lab, vmm: Vmm) -> Passed {
    // Stock QEMU maps the whole region writable for everybody.
    let divided = anywhere(vmm) == Place::Inside;
    let program = format!(
        "portal-guest --json --region lake --patience 120 --stall 90 --bell {}",
        bell(vmm)
    );
    let honest = guest("honest", vmm)
        .step("during", 150, &format!("{program} recv --from during"))
        .step("after", 150, &format!("{program} recv --from after"));
    let mut hostile = Guest::new("hostile").ivshmem("lake");
    // A partition of portal_vmm is in a region once.
    let second = if vmm == Vmm::PortalVmm {
        "pond"
    } else {
        "lake"
    };
    if divided {
        hostile = hostile.device(Device::IvshmemV2 {
            region: second.to_owned(),
            writable: true,
        });
    }
    hostile.cpus = 2;
    // Nested, each exit takes longer.
    let how = match divided {
        true => "--seconds 8 --everywhere",
        false => "--seconds 3",
    };
    let hostile = hostile
        .step(
            "hostile",
            60,
            &format!("portal-guest --json hostile --seed 1 {how}"),
        )
        .step("ls", 30, "portal-guest --json ls");
    let mut group = Group::served(lab, REGION)?;
    if vmm == Vmm::PortalVmm {
        // In one process.
        let pond = Region::own(second, REGION, 4);
        group.join_all(lab, vmm, &[honest, hostile], &[pond])?;
    } else {
        group.join(lab, vmm, &honest)?;
        group.joined(0, lab)?;
        group.join(lab, vmm, &hostile)?;
    }
    let (running, n) = group.at(0)?;
    running.says(n, "##begin during", 1, lab.until)?;
    let (running, n) = group.at(1)?;
    running.says(n, "##begin hostile", 1, lab.until)?;
    let words = ["send", "--to", "0", "--bytes", "64MiB"];
    let mut during = host_process(lab, &group, "during", &words)?;
    // Each device in the region is a peer.
    group.joined(if vmm == Vmm::OpenVmm { 3 } else { 2 }, lab)?;
    let (running, n) = group.at(1)?;
    check(running.consoles[n].step("hostile").is_none(), || {
        "the hostile guest was done before the exchange began".to_owned()
    })?;
    let done = group.json(1, "hostile", lab)?;
    for kind in KINDS {
        check(done[kind].as_u64() > Some(0), || {
            format!("no {kind}: {done}")
        })?;
    }
    let sent = host_report(&mut during, lab)?;
    same_bytes(&group.json(0, "during", lab)?, &sent, BYTES)?;
    let ls = group.json(1, "ls", lab)?;
    let carriers = ls["carriers"].as_array();
    let all = carriers.is_some_and(|all| all.iter().all(|one| one["name"].is_string()));
    check(all, || format!("its devices are not as they were: {ls}"))?;
    let sent = host_report(&mut host_process(lab, &group, "after", &words)?, lab)?;
    same_bytes(&group.json(0, "after", lab)?, &sent, BYTES)?;
    group.ends_well(lab)
}
