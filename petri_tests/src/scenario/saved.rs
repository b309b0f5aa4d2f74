//! Guests are saved, their VMMs end, and other processes go on with them: as the same
//! peers, or not at all.

use super::Place;
use super::Scenario;
use super::exchange::BYTES;
use super::exchange::REGION;
use super::exchange::same_bytes;
use super::group::Group;
use super::host_process::host_process;
use super::host_process::host_report;
use super::pulse::FORGET;
use super::returns::later_life;
use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::ended::check;
use crate::guest::Device;
use crate::guest::Guest;
use crate::guest::Saved;
use crate::lab::Lab;
use crate::vmm::Vmm;
use std::fs;
use std::path::Path;
use std::time::Duration;

pub(super) const RESTORE_REFUSED: Scenario = Scenario {
    name: "restore_refused",
    what: "guests with ivshmem v1 and with pmem are saved and their VMMs end; with another region \
           of the same name and one of another size, and for ivshmem with the switchboard away \
           and the id taken or not asked for, a restore ends with an error that says so before \
           the guest runs; with its own region and id each guest goes on; then the switchboard \
           goes away: a save and restore in place fails with an error and leaves the guest \
           stopped",
    limit: Duration::from_secs(240),
    place: TWO_RESTORED.place,
    run: restore_refused,
};

pub(super) const TWO_RESTORED: Scenario = Scenario {
    name: "two_restored",
    what: "two guests that exchanged messages are saved and their VMMs end; others restore them, \
           the second one first, each as the peer that it was: they exchange messages, for which \
           both get interrupts, and 64 MiB",
    limit: Duration::from_secs(240),
    place: |vmm| match vmm {
        Vmm::OpenVmm => Place::Inside,
        Vmm::PortalVmm | Vmm::Qemu => Place::Nowhere("save and restore is OpenVMM's"),
    },
    run: two_restored,
};

/// Both vectors of the guest's function are interrupts of CPU 0 that CPUs send each
/// other to look for work: with one CPU nobody else does, and the kernel counts them.
pub(super) const INTERRUPTS: &str = "\
for d in /sys/bus/pci/devices/*; do [ $(cat $d/vendor) = 0x1af4 ] && D=$d; done
echo 1 > $D/enable
B1=$(sed -n 2p $D/resource | cut -d' ' -f1)
for v in 0 1; do
devmem $((B1+16*v)) 32 0xfee00000; devmem $((B1+16*v+4)) 32 0
devmem $((B1+16*v+8)) 32 0xfd; devmem $((B1+16*v+12)) 32 0
done
printf '\\006' | dd of=$D/config bs=1 seek=4 conv=notrunc 2>/dev/null
printf '\\200' | dd of=$D/config bs=1 seek=67 conv=notrunc 2>/dev/null
interrupts() { sed -n 's/^ *RES: *\\([0-9]*\\).*/\\1/p' /proc/interrupts; }
";

/// `epoch N` is that of peer N; `next_life N` waits for another one than it has now.
const NEXT_LIFE: &str = "\
epoch() { portal-guest ls --region lake | sed -n \"s/^ *peer $1 .*epoch \\([0-9]*\\).*/\\1/p\"; }
next_life() {
E=$(epoch $1); echo \"##rests $E\"
until N=$(epoch $1); [ -n \"$N\" ] && [ \"$N\" != \"$E\" ]; do sleep 0.2; done
echo \"##restored $N\"; }
";

/// Says how many interrupts there were before, in `$I`, and now.
pub(super) const COUNTED: &str = "echo \"##interrupts $I $(interrupts)\"; echo '##counted'";

/// Vectors of a function.
const VECTORS: u64 = 2;

fn saved(lab: &Lab, name: &str, peer: u16) -> Guest {
    let program = "portal-guest --json --region lake --bell poll --patience 120";
    let meet = |before: &str| match peer {
        0 => format!("{program} pong"),
        _ => format!("{program} ping --to 0 --wait sleep --count {before}"),
    };
    let bytes = match peer {
        0 => format!("{program} recv"),
        _ => format!("{program} send --to 0 --bytes 64MiB"),
    };
    let mut guest = Guest::new(name)
        .ivshmem("lake")
        .modules(&["msr"])
        .line(FORGET)
        .line(INTERRUPTS)
        .line(NEXT_LIFE)
        .step("before", 120, &meet("2"))
        .line(&format!("next_life {peer}; I=$(interrupts)"))
        .step("after", 120, &meet("8"))
        .line(COUNTED)
        .step("bytes", 120, &bytes);
    guest.saved = Some(to_be_saved(lab, name));
    guest
}

fn to_be_saved(lab: &Lab, name: &str) -> Saved {
    Saved {
        ram: lab.scratch(&format!("{name}.ram")),
        from: None,
        peer: None,
    }
}

/// Saves a guest whose console has said `##rests`, and ends its VMM.
fn save(group: &mut Group, n: usize, to: &Path, lab: &Lab) -> Passed {
    group.says(n, "##rests", lab)?;
    let (running, _) = group.at(n)?;
    let line = format!("save-snapshot {}", to.display());
    running.typed(lab, &line, "snapshot saved")?;
    running.quit(lab)
}

/// The same guest, to be restored as this peer.
fn again(guest: &Guest, name: &str, from: &Path, peer: Option<u16>) -> Guest {
    let mut again = guest.clone();
    again.name = name.to_owned();
    if let Some(saved) = &mut again.saved {
        saved.from = Some(from.to_owned());
        saved.peer = peer;
    }
    again
}

fn two_restored(lab: &Lab, _: Vmm) -> Passed {
    let vmm = Vmm::OpenVmm;
    let guests = [saved(lab, "a", 0), saved(lab, "b", 1)];
    let mut group = Group::served(lab, REGION)?;
    for (guest, id) in guests.iter().zip(0..) {
        group.join(lab, vmm, guest)?;
        group.joined(id, lab)?;
        group.says(usize::from(id), "##up", lab)?;
    }
    for (n, guest) in guests.iter().enumerate() {
        save(&mut group, n, &lab.scratch(&guest.name), lab)?;
    }
    group.leave(1);
    group.leave(0);
    for n in [1u16, 0] {
        let guest = &guests[usize::from(n)];
        let name = format!("{}-again", guest.name);
        let restored = again(guest, &name, &lab.scratch(&guest.name), Some(n));
        group.join(lab, vmm, &restored)?;
    }
    for n in 0..2 {
        interrupted(&mut group, n, lab)?;
    }
    let sent = group.json(0, "bytes", lab)?;
    later_life(&sent, 1)?;
    let received = group.json(1, "bytes", lab)?;
    later_life(&received, 0)?;
    same_bytes(&received, &sent, BYTES)?;
    group.ends_well(lab)
}

/// A guest that said `##interrupts BEFORE AFTER` had some that were for what peers sent:
/// each vector may have had one for the restore itself.
pub(super) fn interrupted(group: &mut Group, n: usize, lab: &Lab) -> Passed {
    let (running, guest) = group.at(n)?;
    running.says(guest, "##interrupts ", 1, lab.until)?;
    running.says(guest, "##counted", 1, lab.until)?;
    let said = running.consoles[guest].text();
    let counts = said
        .split_once("##interrupts ")
        .map_or("", |(_, rest)| rest);
    let mut counts = counts
        .split_whitespace()
        .map_while(|count| count.parse::<u64>().ok());
    let (before, after) = (counts.next(), counts.next());
    let came = before.zip(after);
    let came = came.and_then(|(before, after)| after.checked_sub(before));
    check(came > Some(VECTORS), || {
        format!("interrupts of restored guest {n}: {before:?}, then {after:?}")
    })
}

fn restore_refused(lab: &Lab, vmm: Vmm) -> Passed {
    let program = "portal-guest --json --region lake --bell poll --patience 120";
    let mut guest = Guest::new("kept")
        .ivshmem("lake")
        .modules(&["msr"])
        .line(FORGET)
        .line(NEXT_LIFE)
        .line("next_life 0")
        .step(
            "send",
            120,
            &format!("{program} send --to taker --bytes 64MiB"),
        )
        .line("echo '##goes-on'; sleep 600");
    guest.saved = Some(to_be_saved(lab, "kept"));
    let mut mapped = Guest::new("mapped")
        .device(Device::PmemRegion {
            region: "lake".to_owned(),
            writable: true,
        })
        .modules(&["msr"])
        .line(FORGET)
        .line("echo '##rests'; while sleep 1; do echo '##goes-on'; done");
    mapped.saved = Some(to_be_saved(lab, "mapped"));
    let mut group = Group::served(lab, REGION)?;
    let (from, mapped_from) = (lab.scratch("kept"), lab.scratch("mapped"));
    for (guest, joined) in [(&guest, 0), (&mapped, 1)] {
        group.join(lab, vmm, guest)?;
        group.joined(joined, lab)?;
        group.says(usize::from(joined), "##rests", lab)?;
    }
    for from in [&from, &mapped_from] {
        save(&mut group, 0, from, lab)?;
        group.leave(0);
    }
    let refused = |group: &mut Group, name: &str, peer, says: &[&str]| {
        let guest = again(&guest, name, &from, peer);
        not_restored(lab, group, &guest, says)
            .map_err(|why| NotPassed::failed(format!("{name}: {why}")))
    };

    group.kill_switchboard();
    let away = [
        "region lake of ",
        "cannot connect to ",
        "is portal serve running?",
    ];
    refused(&mut group, "away", Some(0), &away)?;
    let another = ["region lake is another one now (UUID ", ", before "];
    for (name, size) in [("another", REGION), ("another-size", REGION / 2)] {
        let state = lab.scratch(name);
        fs::create_dir(&state).map_err(NotPassed::of_file(&state))?;
        group.serve_again(lab, size, &state)?;
        refused(&mut group, name, Some(0), &another)?;
        let mapped = again(&mapped, &format!("mapped-{name}"), &mapped_from, Some(1));
        let says = ["the shared memory is another one now", " when it was saved"];
        not_restored(lab, &mut group, &mapped, &says)?;
    }
    group.serve_again(lab, REGION, lab.memory.path())?;
    let (joined, gone) = ("peer 0 joined", "peer 0 is gone");
    let before = group.switchboard_said(joined);
    let words = ["--patience", "600", "pong"];
    let mut holder = host_process(lab, &group, "holder", &words)?;
    group.switchboard_says_again(joined, before, lab)?;
    let taken = ["peer id 0 of region lake is in use by holder"];
    refused(&mut group, "taken", Some(0), &taken)?;
    let other = [
        "the state is that of peer 0 of region lake",
        "this is peer 1",
        "ask for id 0",
    ];
    refused(&mut group, "any-id", None, &other)?;
    let before = group.switchboard_said(gone);
    holder.kill();
    group.switchboard_says_again(gone, before, lab)?;

    group.join(lab, vmm, &again(&guest, "restored", &from, Some(0)))?;
    group.says(0, "##restored", lab)?;
    let mapped = again(&mapped, "mapped-restored", &mapped_from, Some(1));
    group.join(lab, vmm, &mapped)?;
    group.says(1, "##goes-on", lab)?;
    let words = ["--patience", "120", "recv"];
    let mut taker = host_process(lab, &group, "taker", &words)?;
    let sent = group.json(0, "send", lab)?;
    later_life(&sent, 0)?;
    same_bytes(&host_report(&mut taker, lab)?, &sent, BYTES)?;
    group.says(0, "##goes-on", lab)?;

    group.kill_switchboard();
    let (running, _) = group.at(0)?;
    let said = running.typed(lab, "psr", "pulse save/restore failed")?;
    let lacks = away[1..].iter().find(|words| !said.contains(*words));
    check(lacks.is_none(), || format!("no {lacks:?} in {said}"))?;
    running.typed(lab, "pause", "already paused")?;
    running.quit(lab)
}

/// OpenVMM does not restore this guest, and says why.
fn not_restored(lab: &Lab, group: &mut Group, guest: &Guest, says: &[&str]) -> Passed {
    group.join(lab, Vmm::OpenVmm, guest)?;
    let (running, n) = group.at(0)?;
    let status = running.process.wait(lab.until)?;
    let said = running.process.output();
    let lacks = says.iter().find(|words| !said.contains(*words));
    check(status.code() == Some(1) && lacks.is_none(), || {
        format!("ended with {status}, or lacks {lacks:?}: {said}")
    })?;
    let console = running.consoles[n].everything();
    check(console.is_empty(), || format!("the guest ran: {console}"))?;
    group.leave(0);
    Ok(())
}
