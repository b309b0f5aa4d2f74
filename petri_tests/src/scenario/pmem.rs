//! virtio-pmem in stock guests: a file system with DAX on a file of the host, and what
//! is left of it when a guest is killed.

use super::Place;
use super::Scenario;
use super::exchange::BYTES;
use super::exchange::same_bytes;
use super::group::report;
use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::ended::check;
use crate::guest::Device;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::vmm::Vmm;
use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::Storage;
use hv_shmem::backing::View;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

pub(super) const PMEM_DAX: Scenario = Scenario {
    name: "pmem_dax_kill",
    what: "a guest mounts a virtio-pmem device with DAX, writes and syncs and is killed with \
           its VMM; another guest, which may only read, finds every byte, and so does the \
           host; what that guest stores has no effect",
    limit: Duration::from_secs(150),
    place: |vmm| match vmm {
        Vmm::PortalVmm => Place::Inside,
        Vmm::Qemu => Place::Nowhere("the row's qemu guests have no virtio-pmem"),
        Vmm::OpenVmm => {
            Place::Nowhere("its pmem is a region of a BAR, which Debian 6.1's driver does not know")
        }
    },
    run: pmem_dax,
};

pub(super) const PMEM_EXCHANGE: Scenario = Scenario {
    name: "pmem_dax_exchange",
    what: "two guests map the same file of a virtio-pmem device with DAX and exchange 64 MiB \
           through rings in it, hashes equal",
    limit: Duration::from_secs(150),
    place: PMEM_DAX.place,
    run: exchange,
};

/// Bytes of the file: a file system of [`FS_KIB`] KiB, then raw space.
const FILE: u64 = 32 << 20;
const FS_KIB: u64 = 16 << 10;
/// Where in the file, in MiB, the guest writes past the file system, and how much.
const RAW_AT: u64 = 24;
const RAW_BYTES: usize = 1 << 20;
const MODULES: &[&str] = &["virtio_pci", "virtio_pmem", "nd_pmem"];

/// Where in the file, in MiB, the host leaves a region for the guests, and its size.
const REGION_AT: u64 = 16;
const REGION_MIB: u64 = 8;

fn guest(name: &str, file: &Path, writable: bool) -> Guest {
    Guest::new(name).modules(MODULES).device(Device::Pmem {
        file: file.to_owned(),
        writable,
    })
}

fn pmem_dax(lab: &Lab, vmm: Vmm) -> Passed {
    let file = lab.scratch("shared.img");
    let created = fs::File::create(&file).and_then(|file| file.set_len(FILE));
    created.map_err(NotPassed::of_file(&file))?;
    let mount = "mkdir -p /mnt && mount -t ext2 -o";
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
            "dd if=/dev/urandom of=/mnt/data bs=1M count=8 2>/dev/null && sync && \
             sha256sum /mnt/data",
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
    let mut running = vmm.start_one(lab, &writer, &[])?;
    running.passed(0, "make", lab.until)?;
    let mounted = running.passed(0, "mount", lab.until)?;
    check(mounted.contains("dax"), || format!("not DAX: {mounted:?}"))?;
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
    let reader = guest("reader", &file, false)
        .step(
            "mount",
            30,
            &format!("{mount} ro,dax /dev/pmem0 /mnt && echo mounted"),
        )
        .step("read", 60, "sha256sum /mnt/data")
        .step(
            "spoil",
            30,
            &format!(
                "dd if=/dev/zero of=/dev/pmem0 bs=4096 count=1 seek={} conv=fsync; true",
                RAW_AT * 256
            ),
        );
    let mut running = vmm.start_one(lab, &reader, &[])?;
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

/// A region in a file of its own, with peers 0 and 1 let in.
fn region(lab: &Lab) -> Passed<Vec<u8>> {
    let failed = |error: &dyn std::fmt::Display| NotPassed::failed(format!("region: {error}"));
    let name = Name::new("lake").map_err(|e| failed(&e))?;
    let spec = RegionSpec::new(name, REGION_MIB << 20, 4).sectioned(false);
    let path = lab.scratch("lake.region");
    let config = BackingConfig {
        storage: Storage::File(path.clone()),
        ..BackingConfig::default()
    };
    let backing = Backing::create(&spec, &config).map_err(|e| failed(&e))?;
    let mapping = backing.map(View::OWNER).map_err(|e| failed(&e))?;
    let id = uuid::Uuid::from_u128(0x706d_656d);
    let mut pages = HostPages::format(mapping.mem(), &spec, id).map_err(|e| failed(&e))?;
    for (peer, who) in [(0, "a"), (1, "b")] {
        let who = Name::new(who).map_err(|e| failed(&e))?;
        let kind = PeerKind::Partition;
        pages
            .admit(PeerId(peer), who, kind, Rights::ALL, 0)
            .map_err(|e| failed(&e))?;
    }
    fs::read(&path).map_err(NotPassed::of_file(&path))
}

fn exchange(lab: &Lab, vmm: Vmm) -> Passed {
    let path = lab.scratch("shared.img");
    let file = fs::File::create(&path).map_err(NotPassed::of_file(&path))?;
    let region = region(lab)?;
    file.set_len(FILE)
        .and_then(|()| file.write_all_at(&region, REGION_AT << 20))
        .map_err(NotPassed::of_file(&path))?;
    let mount = "mkdir -p /mnt && mount -t ext2 -o dax,noatime /dev/pmem0 /mnt";
    let program = "portal-guest --json --at /mnt/lake";
    let a = guest("a", &path, true)
        .step(
            "make",
            60,
            &format!(
                "mke2fs -b 4096 /dev/pmem0 {FS_KIB} >/dev/null && {mount} && \
                 dd if=/dev/pmem0 of=/mnt/lake bs=1M skip={REGION_AT} count={REGION_MIB} && \
                 sync && echo P | dd of=/dev/pmem0 bs=1M seek={RAW_AT} conv=fsync"
            ),
        )
        .step("recv", 90, &format!("{program} --peer 0 recv"));
    let marked = format!(
        "until [ \"$(dd if=/dev/pmem0 bs=1 skip={} count=1 2>/dev/null)\" = P ]; \
         do sleep 0.2; done",
        RAW_AT << 20
    );
    let b = guest("b", &path, true)
        .step("wait", 60, &format!("{marked}; {mount}"))
        .step(
            "send",
            90,
            &format!("{program} --peer 1 send --bytes 64MiB"),
        );
    let mut running = vmm.start(lab, &[a, b], &[])?;
    let Some(both) = running.first_mut() else {
        return Err(NotPassed::failed("nothing started"));
    };
    both.passed(0, "make", lab.until)?;
    both.passed(1, "wait", lab.until)?;
    let received = report(&both.passed(0, "recv", lab.until)?)?;
    let sent = report(&both.passed(1, "send", lab.until)?)?;
    same_bytes(&received, &sent, BYTES)?;
    both.ends_well(lab.until)
}
