//! Stock Debian guests under `portal run`, on the lab's nested paging.

use petri_tests::lab::Artifacts;
use petri_tests::lab::Initramfs;
use petri_tests::lab::LabError;
use petri_tests::lab::Machine;
use petri_tests::lab::MachineReport;
use petri_tests::lab::in_load_order;
use petri_tests::programs;
use petri_tests::session;
use std::path::Path;
use std::time::Duration;

/// Longest time for a guest to boot, do its part and power off.
const GUEST: Duration = Duration::from_secs(90);

/// The lab, or `None` and a line that says why it cannot run here.
fn lab() -> Result<Option<Artifacts>, LabError> {
    match Artifacts::prepare() {
        Err(e) if e.is_missing() => {
            println!("skipped: {e}");
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// A machine with `portal`, the kernel at `/bzImage` and, at `/guest.cpio`, an
/// initramfs whose init loads these modules and runs `script`, with a mounted
/// /proc, /sys and /dev.
fn machine(
    artifacts: &Artifacts,
    folder: &Path,
    modules: &[&str],
    script: &str,
) -> Result<Machine, LabError> {
    let mut guest = Initramfs::with_busybox(&artifacts.busybox)?;
    let mut load = String::new();
    for file in in_load_order(&artifacts.guest_kernel.modules, modules)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        guest.copy(&format!("modules/{name}"), &file)?;
        load.push_str(&format!("insmod /modules/{name}\n"));
    }
    let init = format!(
        "#!/bin/busybox sh\n\
         /bin/busybox mkdir -p /sbin /usr/bin /usr/sbin\n\
         /bin/busybox --install -s\n\
         export PATH=/bin:/sbin:/usr/bin:/usr/sbin\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sys /sys\n\
         mount -t devtmpfs dev /dev\n\
         {load}{script}\n"
    );
    guest.file("init", init);
    let cpio = folder.join("guest.cpio");
    guest.write(&cpio)?;
    let mut machine = Machine::new(artifacts.clone())?;
    session::bring(&mut machine, "bin/portal", &programs::portal()?)?;
    session::stand_in(&mut machine, Path::new(env!("CARGO_BIN_EXE_portal-lab")))?;
    machine
        .files()
        .copy("bzImage", &artifacts.guest_kernel.image)?;
    machine.files().copy("guest.cpio", &cpio)?;
    Ok(machine)
}

fn show(report: &MachineReport) {
    for job in &report.jobs {
        println!("{}: {:?}\n{}", job.name, job.status, job.output);
    }
}

#[test]
fn debian_boots_on_two_vcpus_and_powers_off() -> Result<(), LabError> {
    let Some(artifacts) = lab()? else {
        return Ok(());
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let release = artifacts.guest_kernel.modules.file_name();
    let script = "echo up $(uname -r) on $(nproc) in $(cut -d' ' -f1 /proc/uptime)\n\
                  poweroff -f";
    let mut machine = machine(&artifacts, folder.path(), &[], script)?;
    let config = "[[partition]]\n\
                  name = \"a\"\n\
                  vcpus = 2\n\
                  ram = \"256 MiB\"\n\
                  kernel = \"bzImage\"\n\
                  initrd = \"guest.cpio\"\n\
                  cmdline = \"console=ttyS0 quiet panic=-1\"\n";
    machine.files().file("one-linux.toml", config);
    machine.job("one", "portal run /one-linux.toml", GUEST);
    let report = machine.run(folder.path())?;
    show(&report);
    let [one] = &report.jobs[..] else {
        panic!("one job, {report:?}");
    };
    assert!(one.passed(), "status {:?}", one.status);
    let release = release.expect("a folder named after the kernel");
    let up = format!("a| up {} on", release.display());
    assert!(one.output.contains(&up), "no {up:?}");
    assert!(one.output.contains(" on 2 in "), "both processors");
    assert!(one.output.contains("a: powered off"), "a clean end");
    Ok(())
}

/// A guest that ends in the way that its command line asks for. Its own epoch tells
/// its first life from its second.
const END_AS_ASKED: &str = r#"
dev=/sys/bus/pci/devices/0000:00:01.0
bar() { sed -n "$(($1 + 1))p" $dev/resource | cut -d' ' -f1; }
epoch() {
    echo 1 > $dev/enable
    peer=$(($(devmem $(($(bar 0) + 8)) 32)))
    echo peer $peer epoch $(($(devmem $(($(bar 2) + 0x2008 + 64 * peer)) 32)))
}
case $(cat /proc/cmdline) in
*do=reboot*)
    now=$(epoch)
    echo $now
    case $now in *"epoch 1") reboot -f;; esac;;
*do=panic*) echo c > /proc/sysrq-trigger;;
*do=fault*) reboot -f;;
*do=read*) exec 3< /dev/ttyS0; echo listening; read line <&3; echo read $line;;
esac
poweroff -f
"#;

#[test]
fn each_end_has_its_outcome() -> Result<(), LabError> {
    let Some(artifacts) = lab()? else {
        return Ok(());
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let modules = ["pvpanic_mmio"];
    let mut machine = machine(&artifacts, folder.path(), &modules, END_AS_ASKED)?;
    let ends = [
        ("reboot", "prefix", "panic=-1"),
        ("stop", "prefix", "panic=-1"),
        ("panic", "file:panic.log", "panic=0"),
        // A triple fault is how this kernel resets then.
        ("fault", "prefix", "reboot=t"),
        ("read", "terminal", "panic=-1"),
    ];
    for (what, console, cmdline) in ends {
        let (verb, on_reset) = match what {
            "stop" => ("reboot", "stop"),
            other => (other, "restart"),
        };
        let config = format!(
            "[[region]]\n\
             name = \"shared\"\n\
             size = \"16 MiB\"\n\
             [[partition]]\n\
             name = \"a\"\n\
             kernel = \"bzImage\"\n\
             initrd = \"guest.cpio\"\n\
             cmdline = \"console=ttyS0 quiet {cmdline} do={verb}\"\n\
             console = \"{console}\"\n\
             on_reset = \"{on_reset}\"\n\
             [[partition.device]]\n\
             kind = \"ivshmem\"\n\
             region = \"shared\"\n"
        );
        machine.files().file(&format!("{what}.toml"), config);
        // A serial port drops what comes before somebody listens.
        let speak = "until grep -q listening out; do sleep 0.1; done; echo spoken";
        let run = match what {
            "read" => format!(
                "touch out; ({speak}) | portal run /read.toml > out; s=$?; cat out; exit $s"
            ),
            _ => format!("portal run /{what}.toml"),
        };
        machine.job(what, &run, GUEST);
    }
    machine.job("log", "cat /panic.log", GUEST);
    let report = machine.run(folder.path())?;
    show(&report);
    let ended = |name: &str, status: i32, says: &[&str]| {
        let job = report.jobs.iter().find(|job| job.name == name);
        let job = job.expect("a job of that name");
        assert_eq!(job.status, Some(status), "{name}");
        let mut rest = job.output.as_str();
        for line in says {
            let found = rest.find(line);
            let found = found.unwrap_or_else(|| panic!("{name}: no {line:?}"));
            rest = rest.get(found + line.len()..).unwrap_or_default();
        }
    };
    let lives = [
        "a| peer 1 epoch 1",
        "a: reset itself, starts again",
        "a| peer 1 epoch 2",
    ];
    ended("reboot", 0, &lives);
    ended("reboot", 0, &["a: powered off"]);
    ended("stop", 0, &["a| peer 1 epoch 1", "a: reset itself"]);
    ended("panic", 5, &["its kernel panicked"]);
    ended("fault", 5, &["triple fault"]);
    ended("read", 0, &["read spoken", "a: powered off"]);
    ended("log", 0, &["Kernel panic - not syncing"]);
    Ok(())
}

/// What both guests do: they look at the ivshmem function as the kernel sees it,
/// take it out and let the kernel find it again, bind it to `uio_pci_generic`, and
/// ring each other, each time waiting for the interrupt. Peer 1 begins.
const RING_EACH_OTHER: &str = r#"
dev=/sys/bus/pci/devices/0000:00:01.0
echo found $(cat $dev/vendor $dev/device $dev/revision $dev/class)
echo 1 > $dev/remove
echo 1 > /sys/bus/pci/rescan
echo 1af4 1110 > /sys/bus/pci/drivers/uio_pci_generic/new_id
bar() { sed -n "$(($1 + 1))p" $dev/resource | cut -d' ' -f1; }
registers=$(bar 0)
region=$(bar 2)
word() { devmem $(($1 + $2)) 32; }
me=$(($(word $registers 8)))
other=$((3 - me))
echo peer $(word $registers 8) magic $(devmem $(($region + 4096)) 64)
devmem $registers 32 1
for round in 1 2 3; do
    # The wait is under way before INTx is let through.
    timeout 20 dd if=/dev/uio0 of=/count bs=4 count=1 2>/dev/null &
    sleep 0.2
    printf '\006\000' | dd of=$dev/config bs=1 seek=4 count=2 conv=notrunc 2>/dev/null
    [ $me = 1 ] && devmem $(($registers + 12)) 32 $(($other << 16))
    wait $! && echo heard $round, status $(word $registers 4)
    [ $me = 2 ] && devmem $(($registers + 12)) 32 $(($other << 16))
done
grep uio_pci_generic /proc/interrupts
poweroff -f
"#;

#[test]
fn guests_ring_each_other_through_intx() -> Result<(), LabError> {
    let Some(artifacts) = lab()? else {
        return Ok(());
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let modules = ["uio_pci_generic"];
    let mut machine = machine(&artifacts, folder.path(), &modules, RING_EACH_OTHER)?;
    let mut config = "[[region]]\nname = \"shared\"\nsize = \"16 MiB\"\npeers = 4\n".to_owned();
    for name in ["a", "b"] {
        config.push_str(&format!(
            "[[partition]]\n\
             name = \"{name}\"\n\
             kernel = \"bzImage\"\n\
             initrd = \"guest.cpio\"\n\
             cmdline = \"console=ttyS0 quiet panic=-1\"\n\
             [[partition.device]]\n\
             kind = \"ivshmem\"\n\
             region = \"shared\"\n"
        ));
    }
    machine.files().file("two-linux.toml", config);
    machine.job("two", "portal run /two-linux.toml", GUEST);
    let report = machine.run(folder.path())?;
    show(&report);
    let [two] = &report.jobs[..] else {
        panic!("one job, {report:?}");
    };
    assert!(two.passed(), "status {:?}", two.status);
    for (name, peer) in [("a", 1), ("b", 2)] {
        let said = |what: &str| two.output.contains(&format!("{name}| {what}"));
        assert!(said("found 0x1af4 0x1110 0x01 0x050000"), "{name}: ids");
        let magic = u64::from_le_bytes(*b"PORTALRG");
        let identity = format!("peer 0x{peer:08X} magic 0x{magic:016X}");
        assert!(said(&identity), "{name}: registers and region");
        for round in 1..=3 {
            let heard = format!("heard {round}, status 0x00000001");
            assert!(said(&heard), "{name}: interrupt {round}");
        }
    }
    Ok(())
}
