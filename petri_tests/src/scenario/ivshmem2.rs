//! ivshmem v2 in stock guests, which have no driver for it: its registers through
//! `/dev/mem`, its interrupt as one that the kernel expects from nobody.

use super::Place;
use super::Scenario;
use super::group::Group;
use crate::ended::Passed;
use crate::ended::check;
use crate::guest::Device;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::vmm::Vmm;
use std::time::Duration;

pub(super) const IVSHMEM_V2: Scenario = Scenario {
    name: "ivshmem_v2_states",
    what: "two guests find ivshmem v2 by its ids and vendor capability; a state and then the \
           death of its peer are seen by the other in the state table and as an interrupt; a \
           store to the other's output section has no effect",
    limit: Duration::from_secs(120),
    place: |vmm| match vmm {
        Vmm::PortalVmm | Vmm::OpenVmm => Place::Inside,
        Vmm::Qemu => Place::Nowhere("qemu has no ivshmem v2"),
    },
    run: ivshmem_v2,
};

pub(super) const READ_ONLY: Scenario = Scenario {
    name: "read_only_peer",
    what: "a guest with ivshmem v2 that may only read stores to its own section and to the state \
           table: no store has an effect in it or in another guest, and its VMM counts both",
    limit: Duration::from_secs(120),
    place: IVSHMEM_V2.place,
    run: read_only,
};

/// Size of the region.
const REGION: u64 = 16 << 20;

/// Finds the function: `$D` is its folder, `$B0` to `$B2` are its BARs, `$ST`, `$RW`
/// and `$OUT` the sizes of its sections.
const FIND: &str = "\
for d in /sys/bus/pci/devices/*; do [ $(cat $d/vendor) = 0x110a ] && D=$d; done
bar() { sed -n $1p $D/resource | cut -d' ' -f1; }
word() { od -An -tx4 -j$1 -N4 $D/config | tr -d ' '; }
get() { devmem $(($1)) 32; }
put() { devmem $(($1)) 32 $2; }
until_is() { for i in $(seq 400); do [ $(($(get $1))) = $2 ] && return; sleep 0.1; done; exit 1; }
echo 1 > $D/enable
B0=$(bar 1); B1=$(bar 2); B2=$(bar 3)
ST=0x$(word 68); RW=0x$(word 72); OUT=0x$(word 80)
ME=$(($(get $B0)))
section() { echo $B2+$ST+$RW+$OUT*$1; }
";

/// Interrupts that came without anybody to handle them.
const COUNT: &str = "irqs() { dmesg | grep -c 'No irq handler for'; }
";

/// Says what is there.
const LOOK: &str = "\
echo class $(cat $D/class) device $(cat $D/device) capability $(word 64)
echo sections $ST $RW $OUT peer $ME of $(($(get $B0+4)))
";

/// Vector 0 is interrupt 55h of CPU 0; state 1 says so to the other. It sees state 7
/// with an interrupt, answers with state 2, sees state 0 with another.
const SURVIVE: &str = "\
OTHER=$B2+4*$((ME + 1))
put $B1 0xfee00000; put $B1+4 0; put $B1+8 0x55; put $B1+12 0
printf '\\006' | dd of=$D/config bs=1 seek=4 conv=notrunc 2>/dev/null
printf '\\200' | dd of=$D/config bs=1 seek=91 conv=notrunc 2>/dev/null
put $B0+8 1
echo before $(irqs)
put $B0+0x10 1
until_is $OTHER 7
echo state 7 after $(irqs)
put $B0+0x10 2
until_is $OTHER 0
sleep 1
echo state 0 after $(irqs)
echo section $(get $(section $ME))
";

/// Waits for the other, who has the number before, publishes state 7, waits for its
/// answer, tries to write in the other's section, and is gone.
const DIE: &str = "\
OTHER=$((ME - 1))
until_is $B2+4*$OTHER 1
put $B0+0x10 7
until_is $B2+4*$OTHER 2
put $(section $OTHER) 0x5a5a
echo section $(get $(section $OTHER))
put $(section $ME) 0x1234
echo own $(get $(section $ME))
";

/// Stores where it may not, and looks what came of it.
const STORE: &str = "\
put $(section $ME) 0x1234
put $B2+4*$ME 0x1234
echo own $(get $(section $ME)) state $(get $B2+4*$ME)
";

/// What a guest that may write sees of the one with the number before.
const SEE: &str = "\
put $(section $ME) 0x1234
echo own $(get $(section $ME)) other $(get $(section $((ME - 1))))
";

/// The counter of stores that had no effect, in a device of either VMM.
const DROPPED: &str = "region_writes_dropped";

fn guest(name: &str, writable: bool) -> Guest {
    Guest::new(name).device(Device::IvshmemV2 {
        region: "lake".to_owned(),
        writable,
    })
}

fn read_only(lab: &Lab, vmm: Vmm) -> Passed {
    let reader = guest("reader", false)
        .step("store", 60, &format!("{FIND}{STORE}"))
        .line("sleep 600");
    let writer = guest("writer", true).step("see", 60, &format!("{FIND}{SEE}"));
    let mut group = Group::served(lab, REGION)?;
    group.join(lab, vmm, &reader)?;
    group.joined(0, lab)?;
    let (running, n) = group.at(0)?;
    let stored = running.passed(n, "store", lab.until)?;
    check(stored == "own 0x00000000 state 0x00000000", || stored)?;
    let shown = running.inspect(lab, "reader", DROPPED)?;
    let dropped = shown.split_once(DROPPED).and_then(|(_, rest)| {
        let rest = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
        rest.split(|c: char| !c.is_ascii_digit()).next()
    });
    check(dropped == Some("2"), || {
        format!("{DROPPED} is not 2: {shown}")
    })?;
    group.join(lab, vmm, &writer)?;
    let (running, n) = group.at(1)?;
    let seen = running.passed(n, "see", lab.until)?;
    check(seen == "own 0x00001234 other 0x00000000", || seen)?;
    group.at(0)?.0.process.kill();
    group.leave(0);
    group.ends_well(lab)
}

fn ivshmem_v2(lab: &Lab, vmm: Vmm) -> Passed {
    let guest = |name| guest(name, true);
    let survivor = guest("survivor")
        .step("look", 20, &format!("{FIND}{LOOK}"))
        .step("survive", 90, &format!("{FIND}{COUNT}{SURVIVE}"));
    let mortal = guest("mortal").step("die", 60, &format!("{FIND}{DIE}"));
    let mut group = Group::start(lab, vmm, &[survivor, mortal], REGION)?;
    let mut said = |guest, step: &str| {
        let (running, guest) = group.at(guest)?;
        running.passed(guest, step, lab.until)
    };
    let has = |said: &str, wanted: &str| {
        check(said.contains(wanted), || {
            format!("no {wanted:?} in {said:?}")
        })
    };
    let look = said(0, "look")?;
    has(&look, "class 0xff4000 device 0x4106 capability 00185809")?;
    has(&look, " of 8")?;
    let die = said(1, "die")?;
    has(&die, "section 0x00000000")?;
    has(&die, "own 0x00001234")?;
    let survive = said(0, "survive")?;
    has(&survive, "before 0")?;
    has(&survive, "state 7 after 1")?;
    has(&survive, "state 0 after 2")?;
    has(&survive, "section 0x00000000")?;
    group.ends_well(lab)
}
