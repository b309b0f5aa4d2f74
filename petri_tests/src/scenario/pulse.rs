//! A guest is saved, reset and restored in the middle of a transfer: its place in the
//! region is another life's, and the other guest is told.

use super::Place;
use super::Scenario;
use super::exchange::BYTES;
use super::exchange::REGION;
use super::exchange::same_bytes;
use super::group::Group;
use super::returns::ENDLESS;
use super::returns::PEER_LOST;
use super::returns::cut;
use super::returns::is_told;
use super::returns::later_life;
use super::saved::COUNTED;
use super::saved::INTERRUPTS;
use super::saved::interrupted;
use crate::ended::Passed;
use crate::ended::check;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::vmm::Vmm;
use std::time::Duration;

pub(super) const SAVE_RESTORE: Scenario = Scenario {
    name: "save_restore",
    what: "a guest is saved, reset and restored in the middle of a transfer: it goes on where it \
           was, with the same id and a later epoch; the other guest is told, and then they \
           exchange 64 MiB, with interrupts; when it is reset alone, it boots anew and its bytes come",
    limit: Duration::from_secs(180),
    place: |vmm| match vmm {
        Vmm::OpenVmm => Place::Inside,
        Vmm::PortalVmm | Vmm::Qemu => Place::Nowhere("save and restore in place is OpenVMM's"),
    },
    run: save_restore,
};

/// Bytes that come from the life after a reset.
const PART: u64 = 4 << 20;

/// The guest's own MSRs 175h and 176h (`SYSENTER_ESP`, `SYSENTER_EIP`) are zeroed: KVM on
/// AMD keeps 32 bits of what a VMM sets there, Linux has addresses of 64 bits in them,
/// and OpenVMM compares what it restores. No 64-bit program needs them.
pub(super) const FORGET: &str = "for msr in 373 374; do dd if=/dev/zero of=/dev/cpu/0/msr bs=8 count=1 \
                      seek=$msr oflag=seek_bytes conv=notrunc 2>/dev/null; done";

fn save_restore(lab: &Lab, vmm: Vmm) -> Passed {
    // An IOMMU of OpenVMM has no saved state, and without one no program hears MSI-X: the
    // kernel counts what comes.
    let program = "portal-guest --json --region lake --bell poll";
    let guest = |name| Guest::new(name).ivshmem("lake");
    let other = guest("other")
        .step("cut", 90, &cut(program))
        .step("recv", 90, &format!("{program} recv"))
        .step(
            "last",
            120,
            &format!("{program} --patience 90 recv --out - 2>/dev/null | head -c {PART} | wc -c"),
        );
    // After a reset it does all of it again.
    let mut pulsed = guest("pulsed")
        .modules(&["msr"])
        .line(FORGET)
        .line(INTERRUPTS)
        .step("send", 90, &format!("{program} send --bytes {ENDLESS}"))
        .line("I=$(interrupts)")
        .step(
            "again",
            90,
            &format!("{program} send --bytes 64MiB --wait sleep"),
        )
        .line(COUNTED)
        .line("echo '##rests'; sleep 600");
    pulsed.reboots = true;
    let mut group = Group::served(lab, REGION)?;
    group.join(lab, vmm, &other)?;
    // One boots after the other.
    group.says(0, "##begin cut", lab)?;
    group.join(lab, vmm, &pulsed)?;
    group.says(0, "##middle", lab)?;
    let (running, _) = group.at(1)?;
    running.typed(lab, "psr", "pulse save/restore complete")?;
    let (running, guest) = group.at(0)?;
    is_told(running, guest, lab)?;
    // The program of the life before is put out, and nothing else in that guest.
    let (running, _) = group.at(1)?;
    let (status, said) = running.ended(0, "send", lab.until)?;
    check(status == PEER_LOST, || {
        format!("the send of the life before ended with {status}: {said}")
    })?;
    let sent = group.json(1, "again", lab)?;
    same_bytes(&group.json(0, "recv", lab)?, &sent, BYTES)?;
    later_life(&sent, 1)?;
    interrupted(&mut group, 1, lab)?;
    group.says(1, "##rests", lab)?;
    group.says(0, "##begin last", lab)?;
    let (running, _) = group.at(1)?;
    running.typed(lab, "reset", "reset complete")?;
    running.says(0, "##up", 2, lab.until)?;
    let (running, guest) = group.at(0)?;
    let last = running.passed(guest, "last", lab.until)?;
    check(last.lines().last() == Some(&PART.to_string()), || {
        format!("after the reset came {last}")
    })
}
