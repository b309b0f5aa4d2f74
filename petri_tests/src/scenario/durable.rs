//! What a guest has flushed to virtio-pmem is on its host's disk when the host dies.
//!
//! The host is an L1 of the test's own, with a disk: a file of this machine, to which
//! writes of L1's kernel go, and which nothing writes back by itself. It is killed with
//! SIGKILL, and another L1 looks at the disk.

use super::Place;
use super::Scenario;
use super::pmem;
use super::pmem::FS_KIB;
use super::pmem::PMEM_DAX;
use super::pmem::RAW_AT;
use super::pmem_rings::KEPT;
use super::pmem_rings::has_kept;
use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::ended::check;
use crate::lab::Lab;
use crate::lab::LabError;
use crate::lab::Machine;
use crate::process::Process;
use crate::programs::INSIDE;
use crate::programs::Programs;
use crate::session;
use crate::vmm::Vmm;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub(super) const PMEM_DURABLE: Scenario = Scenario {
    name: "pmem_durable",
    what: "a guest writes to virtio-pmem on a file of its host's disk, with DAX and without, and \
           flushes; then it stores more and does not; the host is killed: what was flushed is on \
           the disk, and what was not flushed is not",
    limit: Duration::from_secs(400),
    place: |vmm| match (PMEM_DAX.place)(vmm) {
        Place::OnHost | Place::Inside => Place::OnHost,
        nowhere @ Place::Nowhere(_) => nowhere,
    },
    run: durable,
};

/// Bytes of the disk, and of the file on it that is the guest's device.
const DISK: u64 = 64 << 20;
const FILE: u64 = 32 << 20;
/// The disk and the file in L1.
const FOLDER: &str = "/disk";
const IN_L1: &str = "/disk/pmem";
/// Where in the device, in MiB, is what is not flushed. One MiB of `P` before it is.
const LOOSE_AT: u64 = RAW_AT + 2;
const MIB: usize = 1 << 20;
/// What L1 says when it may be killed.
const READY: &str = "##flushed";
/// What one L1 may take.
const LIMIT: Duration = Duration::from_secs(150);

fn durable(lab: &Lab, vmm: Vmm) -> Passed {
    let disk = lab.folder.join("disk.img");
    let made = fs::File::create(&disk).and_then(|file| file.set_len(DISK));
    made.map_err(NotPassed::of_file(&disk))?;
    let ended = flushed_and_killed(lab, vmm, &disk).and_then(|()| looked_at(lab, &disk));
    let _ = fs::remove_file(&disk);
    ended
}

fn flushed_and_killed(lab: &Lab, vmm: Vmm, disk: &Path) -> Passed {
    let mut machine = l1(lab, disk)?;
    let command = format!("{INSIDE}/portal-lab durable {vmm}");
    machine.job("durable", &command, LIMIT);
    let said = machine.run_and_kill(&lab.folder.join("killed"), READY);
    said.map_err(failed)
}

fn looked_at(lab: &Lab, disk: &Path) -> Passed {
    let mut machine = l1(lab, disk)?;
    machine.job("look", &format!("{INSIDE}/portal-lab durable"), LIMIT);
    let report = machine.run(&lab.folder.join("after")).map_err(failed)?;
    let failed = report.jobs.iter().find(|job| !job.passed());
    failed.map_or(Ok(()), |job| Err(NotPassed::failed(&job.output)))
}

fn failed(error: LabError) -> NotPassed {
    NotPassed::failed(error)
}

fn l1(lab: &Lab, disk: &Path) -> Passed<Machine> {
    let machine = session::equipped(&lab.programs).and_then(|mut machine| {
        machine.disk(disk)?;
        Ok(machine)
    });
    machine.map_err(failed)
}

/// The part that runs in L1: a guest of this VMM writes; without one, the disk is looked
/// at.
///
/// # Errors
/// [`NotPassed::Failed`] with what is wrong.
pub fn inside(vmm: Option<Vmm>) -> Passed {
    let lab = Lab::new(Programs::inside(), Path::new("/tmp/durable"), LIMIT, true)?;
    let mount = format!("mkdir {FOLDER} && mount -t ext2 /dev/vda {FOLDER}");
    match vmm {
        Some(vmm) => {
            shell(&lab, &format!("mke2fs -b 4096 /dev/vda && {mount}"))?;
            write(&lab, vmm)
        }
        None => {
            shell(&lab, &mount)?;
            look(Path::new(IN_L1))
        }
    }
}

fn shell(lab: &Lab, line: &str) -> Passed {
    let mut process = Process::start("sh", Command::new("sh").args(["-c", line]), &lab.folder)?;
    let status = process.wait(lab.until)?;
    check(status.success(), || format!("{line}: {}", process.output()))
}

fn write(lab: &Lab, vmm: Vmm) -> Passed {
    let file = Path::new(IN_L1);
    // All blocks have their place before, so that a file system that was not unmounted
    // does not matter.
    fs::write(file, vec![0; FILE as usize]).map_err(NotPassed::of_file(file))?;
    shell(lab, "sync")?;
    // From here on only a flush makes bytes go to the disk.
    let periodic = Path::new("/proc/sys/vm/dirty_writeback_centisecs");
    fs::write(periodic, "0").map_err(NotPassed::of_file(periodic))?;
    let (first, last) = (KEPT.start, KEPT.end - 1);
    let pattern = |of: char, at: u64, flags: &str| {
        format!(
            "dd if=/dev/zero bs=1M count=1 2>/dev/null | tr '\\0' {of} | \
             dd of=/dev/pmem0 bs=1M seek={at} iflag=fullblock {flags} 2>/dev/null"
        )
    };
    let guest = pmem::guest("writer", file, true)
        .step(
            "flush",
            60,
            &format!(
                "mke2fs -b 4096 /dev/pmem0 {FS_KIB} >/dev/null && mkdir -p /mnt && \
                 mount -t ext2 -o dax /dev/pmem0 /mnt && grep pmem0 /proc/mounts && \
                 seq {first} {last} | dd of=/mnt/kept bs=4k conv=fsync 2>/dev/null && \
                 umount /mnt && {}",
                pattern('P', RAW_AT, "conv=fsync")
            ),
        )
        // Into the device's memory, and no further.
        .step("store", 60, &pattern('L', LOOSE_AT, "oflag=direct"))
        .line("sleep 600");
    let mut running = vmm.start_one(lab, &guest, &[])?;
    pmem::mounts_with_dax(&mut running, "flush", lab)?;
    running.passed(0, "store", lab.until)?;
    // It is in the file for everyone here.
    holds(file, 'P', RAW_AT)?;
    holds(file, 'L', LOOSE_AT)?;
    println!("{READY}");
    running.process.wait(lab.until)?;
    Err(NotPassed::failed("L1 was not killed"))
}

fn look(file: &Path) -> Passed {
    has_kept(file)?;
    holds(file, 'P', RAW_AT)?;
    holds(file, '\0', LOOSE_AT)
}

/// Whether the MiB at `at` is full of `of`.
fn holds(file: &Path, of: char, at: u64) -> Passed {
    let mut bytes = vec![0; MIB];
    let opened = fs::File::open(file);
    let read = opened.and_then(|opened| opened.read_exact_at(&mut bytes, at << 20));
    read.map_err(NotPassed::of_file(file))?;
    let others = bytes.iter().filter(|&&byte| char::from(byte) != of);
    let others = others.count();
    check(others == 0, || {
        format!("{others} bytes of the MiB at {at} MiB are not {of:?}")
    })
}
