//! A guest lets its device go and takes it again, a hundred times: nothing of that is
//! left in its VMM.

use super::Scenario;
use super::anywhere;
use super::exchange::REGION;
use super::exchange::bell;
use super::exchange::guest;
use super::group::Group;
use crate::ended::Passed;
use crate::ended::check;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::vmm::Vmm;
use std::time::Duration;

pub(super) const ATTACH_DETACH: Scenario = Scenario {
    name: "attach_detach",
    what: "a guest takes its ivshmem function out, finds it again and gives it to a driver \
           110 times, another one 10 times: their VMMs hold the same number of file \
           descriptors and mappings, both have their first id and epoch, and messages go \
           between them as before",
    limit: Duration::from_secs(180),
    place: anywhere,
    run: attach_detach,
};

/// Cycles of the two guests. After the first few, caches are full.
const FEW: u32 = 10;
const MANY: u32 = 110;
const TRIPS: u64 = 200;

/// A guest that goes through its cycles, meets the other one, and rests.
fn cycling(name: &str, vmm: Vmm, cycles: u32, meet: &str) -> Guest {
    let driver = match bell(vmm) {
        "uio" => "uio_pci_generic",
        _ => "vfio-pci",
    };
    let cycle = format!(
        "for d in /sys/bus/pci/devices/*; do \
         [ $(cat $d/vendor)$(cat $d/device) = 0x1af40x1110 ] && D=$d; done
         for n in $(seq {cycles}); do \
         echo 1 > $D/remove && [ ! -e $D ] && echo 1 > /sys/bus/pci/rescan && \
         echo {driver} > $D/driver_override && echo ${{D##*/}} > /sys/bus/pci/drivers_probe && \
         [ -e $D/driver ] || exit 1; done; echo cycles $n"
    );
    let program = format!(
        "portal-guest --json --region lake --patience 120 --bell {}",
        bell(vmm)
    );
    guest(name, vmm)
        .step("cycle", 120, &cycle)
        .step("meet", 120, &format!("{program} {meet}"))
        .line("echo '##rests'; sleep 600")
}

fn attach_detach(lab: &Lab, vmm: Vmm) -> Passed {
    let few = cycling("few", vmm, FEW, "pong");
    let ping = format!("ping --to 0 --wait sleep --count {TRIPS}");
    let many = cycling("many", vmm, MANY, &ping);
    let mut group = Group::served(lab, REGION)?;
    group.join(lab, vmm, &few)?;
    group.joined(0, lab)?;
    group.join(lab, vmm, &many)?;
    let mut held = Vec::new();
    for (n, cycles) in [(0, FEW), (1, MANY)] {
        let (running, guest) = group.at(n)?;
        let said = running.passed(guest, "cycle", lab.until)?;
        check(said.ends_with(&format!("cycles {cycles}")), || said.clone())?;
        let met = group.json(n, "meet", lab)?;
        check(
            met["place"]["peer"] == n && met["place"]["epoch"] == 1,
            || format!("the place of guest {n}: {met}"),
        )?;
        if n == 1 {
            let count = |what: &str| met["trips"][what].as_u64().unwrap_or(0);
            // Answers that come before it sleeps are none of a doorbell's.
            check(count("unheard") <= count("slept") / 2, || {
                format!("doorbells are not heard: {met}")
            })?;
        }
    }
    for n in 0..2 {
        let (running, guest) = group.at(n)?;
        running.says(guest, "##rests", 1, lab.until)?;
        held.push(running.process.held()?);
    }
    check(held[0] == held[1], || {
        format!("held after {FEW} and {MANY} cycles: {held:#?}")
    })
}
