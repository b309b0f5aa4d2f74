//! A guest is killed in the middle of a transfer: the other one is told and goes on,
//! and a successor takes the same place.

use super::Place;
use super::Scenario;
use super::exchange::BYTES;
use super::exchange::bell;
use super::exchange::guest;
use super::exchange::same_bytes;
use super::group::Group;
use crate::ended::Passed;
use crate::ended::check;
use crate::lab::Lab;
use crate::vmm::Vmm;
use std::time::Duration;

pub(super) const KILLED_GUEST: Scenario = Scenario {
    name: "killed_guest_returns",
    what: "a guest's VMM is killed in the middle of a transfer: the other guest is told, and \
           then exchanges 64 MiB with the successor, which has the same id and a later epoch",
    limit: Duration::from_secs(150),
    place: |vmm| match vmm {
        Vmm::Qemu => Place::OnHost,
        Vmm::PortalVmm | Vmm::OpenVmm => Place::Inside,
    },
    run: killed_guest,
};

/// Exit status with which `portal-guest` says that the other peer is gone.
pub(super) const PEER_LOST: i32 = 5;

fn killed_guest(lab: &Lab, vmm: Vmm) -> Passed {
    let program = format!("portal-guest --json --region lake --bell {}", bell(vmm));
    let survivor = guest("survivor", vmm)
        .step("ls", 20, "portal-guest --json ls")
        .step("cut", 90, &format!("{program} recv"))
        .step("recv", 90, &format!("{program} recv"));
    let victim = guest("victim", vmm).step("send", 90, &format!("{program} send --bytes 1GiB"));
    let successor =
        guest("successor", vmm).step("send", 90, &format!("{program} send --bytes 64MiB"));
    let mut group = Group::served(lab, super::exchange::REGION)?;
    group.join(lab, vmm, &survivor)?;
    group.json(0, "ls", lab)?;
    group.join(lab, vmm, &victim)?;
    let (victim, _) = group.at(1)?;
    victim.says(0, "##begin send", 1, lab.until)?;
    // Into the transfer, which takes many times as long.
    std::thread::sleep(Duration::from_secs(2));
    check(victim.consoles[0].step("send").is_none(), || {
        "the transfer had ended before its sender was killed".to_owned()
    })?;
    victim.process.kill();
    let (running, _) = group.at(0)?;
    let (status, said) = running.ended(0, "cut", lab.until)?;
    check(status == PEER_LOST, || {
        format!("the survivor's recv ended with {status} and said {said}")
    })?;
    group.join(lab, vmm, &successor)?;
    let sent = group.json(2, "send", lab)?;
    same_bytes(&group.json(0, "recv", lab)?, &sent, BYTES)?;
    let place = (&sent["place"]["peer"], &sent["place"]["epoch"]);
    check(
        *place.0 == 1 && place.1.as_u64().is_some_and(|epoch| epoch > 1),
        || format!("the successor's place: {sent}"),
    )?;
    group.leave(1);
    group.ends_well(lab)
}
