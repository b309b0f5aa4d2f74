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
use crate::vmm::Running;
use crate::vmm::Vmm;
use serde_json::Value;
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

/// Bytes that no transfer gets to the end of.
pub(super) const ENDLESS: &str = "64GiB";

/// Exit status with which `portal-guest` says that the other peer is gone.
pub(super) const PEER_LOST: i32 = 5;

/// A command that receives, says `##middle` when a part is there, and how `recv` ended
/// (5, [`PEER_LOST`], when the other is gone).
pub(super) fn cut(program: &str) -> String {
    format!(
        "{{ {program} recv --out -; echo recv ended with $? >&2; }} | \
         {{ head -c 4194304 >/dev/null; echo '##middle'; cat >/dev/null; }}"
    )
}

/// Waits until a guest that runs [`cut`] says that the other one is gone.
pub(super) fn is_told(running: &mut Running, guest: usize, lab: &Lab) -> Passed {
    let cut = running.passed(guest, "cut", lab.until)?;
    check(
        cut.contains(&format!("recv ended with {PEER_LOST}")),
        || format!("the recv of the one that stays: {cut}"),
    )
}

/// A program reports the same id, and not its first life.
pub(super) fn later_life(report: &Value, id: u16) -> Passed {
    let place = &report["place"];
    let epoch = place["epoch"].as_u64();
    check(place["peer"] == id && epoch.is_some_and(|e| e > 1), || {
        format!("the successor's place: {report}")
    })
}

fn killed_guest(lab: &Lab, vmm: Vmm) -> Passed {
    let program = format!("portal-guest --json --region lake --bell {}", bell(vmm));
    let survivor = guest("survivor", vmm)
        .step("ls", 20, "portal-guest --json ls")
        .step("cut", 90, &cut(&program))
        .step("recv", 90, &format!("{program} recv"));
    let endless = format!("{program} send --bytes {ENDLESS}");
    let victim = guest("victim", vmm).step("send", 90, &endless);
    let successor =
        guest("successor", vmm).step("send", 90, &format!("{program} send --bytes 64MiB"));
    let mut group = Group::served(lab, super::exchange::REGION)?;
    group.join(lab, vmm, &survivor)?;
    group.json(0, "ls", lab)?;
    group.join(lab, vmm, &victim)?;
    group.says(0, "##middle", lab)?;
    group.at(1)?.0.process.kill();
    let (running, guest) = group.at(0)?;
    is_told(running, guest, lab)?;
    group.join(lab, vmm, &successor)?;
    let sent = group.json(2, "send", lab)?;
    same_bytes(&group.json(0, "recv", lab)?, &sent, BYTES)?;
    later_life(&sent, 1)?;
    group.leave(1);
    group.ends_well(lab)
}
