//! virtio-pmem in stock guests: a file system with DAX on a file of the host, and what
//! is left of it when a guest is killed.

use super::Place;
use super::Scenario;
use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::ended::check;
use crate::guest::Device;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::lab::has_guest_kernel;
use crate::vmm::Running;
use crate::vmm::Vmm;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

pub(super) const PMEM_DAX: Scenario = Scenario {
    name: "pmem_dax_kill",
    what: "a guest mounts a virtio-pmem device with DAX, writes and syncs, from several programs \
           at once, and is killed with its VMM; another guest, which runs all the while and may \
           only read, finds every byte, and so does the host; what that guest stores has no \
           effect on the file",
    limit: Duration::from_secs(150),
    place: |vmm| match vmm {
        Vmm::PortalVmm => Place::Inside,
        Vmm::Qemu => Place::OnHost,
        Vmm::OpenVmm if has_guest_kernel() => Place::Inside,
        Vmm::OpenVmm => Place::Nowhere(
            "its pmem is a region of a BAR, which Debian 6.1's driver does not know: set \
             PORTAL_LAB_GUEST_KERNEL=linux-image-6.12-cloud-amd64",
        ),
    },
    run: pmem_dax,
};

/// Bytes of the file: a file system of [`FS_KIB`] KiB, then raw space.
pub(super) const FILE: u64 = 32 << 20;
pub(super) const FS_KIB: u64 = 16 << 10;
/// Where in the file, in MiB, the guest writes past the file system, and how much.
pub(super) const RAW_AT: u64 = 24;
const RAW_BYTES: usize = 1 << 20;
/// The byte in which the host says that the writer is dead.
const TOLD_AT: u64 = 28 << 20;
pub(super) const MODULES: &[&str] = &["virtio_pci", "virtio_pmem", "nd_pmem"];

pub(super) fn guest(name: &str, file: &Path, writable: bool) -> Guest {
    Guest::new(name).modules(MODULES).device(Device::Pmem {
        file: file.to_owned(),
        writable,
    })
}

/// A step ends well that mounts the device and shows how.
pub(super) fn mounts_with_dax(running: &mut Running, step: &str, lab: &Lab) -> Passed {
    let said = running.passed(0, step, lab.until)?;
    check(said.contains("dax"), || format!("not DAX: {said:?}"))
}

fn pmem_dax(lab: &Lab, vmm: Vmm) -> Passed {
    let file = lab.scratch("shared.img");
    let created = fs::File::create(&file).and_then(|file| file.set_len(FILE));
    created.map_err(NotPassed::of_file(&file))?;
    let mount = "mkdir -p /mnt && mount -t ext2 -o";
    let sums = "sha256sum /mnt/data /mnt/beside1 /mnt/beside2 /mnt/beside3 /mnt/beside4";
    let writer = guest("writer", &file, true)
        .step("make", 30, &format!("mke2fs -b 4096 /dev/pmem0 {FS_KIB}"))
        .step(
            "mount",
            30,
            &format!("{mount} dax /dev/pmem0 /mnt && grep pmem0 /proc/mounts"),
        )
        .step(
            "write",
            60,
            // Flushes of several programs meet in the device's queue.
            &format!(
                "dd if=/dev/urandom of=/mnt/data bs=1M count=8 2>/dev/null && sync && \
                 for n in 1 2 3 4; do (dd if=/dev/urandom of=/mnt/beside$n bs=64k count=8 \
                 conv=fsync 2>/dev/null || echo no $n) & done; wait; sync; {sums}"
            ),
        )
        .step(
            "raw",
            60,
            &format!(
                "dd if=/dev/zero bs=1M count=1 2>/dev/null | tr '\\0' 'P' | \
                 dd of=/dev/pmem0 bs=1M seek={RAW_AT} conv=fsync 2>/dev/null && echo flushed"
            ),
        )
        .line("sleep 600");
    // The kernel forgets what it read of a device when nobody has it open any more.
    let told = format!(
        "until [ \"$(dd if=/dev/pmem0 bs=1 skip={TOLD_AT} count=1 2>/dev/null)\" = K ]; \
         do sleep 0.2; done"
    );
    let reader = guest("reader", &file, false)
        .step("told", 120, &told)
        .step(
            "mount",
            30,
            &format!("{mount} ro,dax /dev/pmem0 /mnt && echo mounted"),
        )
        .step("read", 60, sums)
        .step(
            "spoil",
            30,
            &format!(
                "dd if=/dev/zero of=/dev/pmem0 bs=4096 count=1 seek={} conv=fsync; true",
                RAW_AT * 256
            ),
        );
    let mut other = vmm.start_one(lab, &reader, &[])?;
    other.says(0, "##begin told", 1, lab.until)?;
    let mut running = vmm.start_one(lab, &writer, &[])?;
    running.passed(0, "make", lab.until)?;
    mounts_with_dax(&mut running, "mount", lab)?;
    let written = running.passed(0, "write", lab.until)?;
    running.passed(0, "raw", lab.until)?;
    running.process.kill();
    let bytes = fs::read(&file).map_err(NotPassed::of_file(&file))?;
    let at = (RAW_AT << 20) as usize;
    let raw = bytes.get(at..at + RAW_BYTES).unwrap_or_default();
    check(
        !raw.is_empty() && raw.iter().all(|byte| *byte == b'P'),
        || "the host has not what was flushed".to_owned(),
    )?;
    let told = fs::File::options().write(true).open(&file);
    told.and_then(|told| told.write_all_at(b"K", TOLD_AT))
        .map_err(NotPassed::of_file(&file))?;
    let bytes = fs::read(&file).map_err(NotPassed::of_file(&file))?;
    let mut running = other;
    running.passed(0, "mount", lab.until)?;
    let read = running.passed(0, "read", lab.until)?;
    check(read == written, || {
        format!("wrote {written:?}, read {read:?}")
    })?;
    running.ended(0, "spoil", lab.until)?;
    running.ends_well(lab.until)?;
    let after = fs::read(&file).map_err(NotPassed::of_file(&file))?;
    check(after == bytes, || {
        "a guest that may only read has changed the file".to_owned()
    })
}
