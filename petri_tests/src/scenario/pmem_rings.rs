//! Rings in a file on a file system with DAX, between guests of which one is killed in
//! the middle.
//!
//! virtio-pmem tells no peer of another one: the test is the region's host, and finds
//! the region in the image of the guests' file system by its header.

use super::Place;
use super::Scenario;
use super::exchange::BYTES;
use super::exchange::same_bytes;
use super::group::report;
use super::pmem::FILE;
use super::pmem::FS_KIB;
use super::pmem::PMEM_DAX;
use super::pmem::RAW_AT;
use super::pmem::guest;
use super::pmem::mounts_with_dax;
use super::returns::ENDLESS;
use super::returns::cut;
use super::returns::is_told;
use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::ended::check;
use crate::lab::Lab;
use crate::vmm::Vmm;
use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::DeviceMemory;
use hv_shmem::backing::MappedMem;
use hv_shmem::backing::OpenAs;
use hv_shmem::backing::Storage;
use hv_shmem::backing::View;
use hv_shmem::header::MAGIC;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::HEADER_AT;
use hv_shmem::layout::PAGE;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

pub(super) const PMEM_EXCHANGE: Scenario = Scenario {
    name: "pmem_dax_exchange",
    what: "two guests map the same file of a virtio-pmem device with DAX and exchange bytes \
           through rings in it; one is killed with its VMM in the middle: the other is told, \
           what the dead one had flushed is there for it and for the host, and it receives \
           64 MiB from a successor, hashes equal",
    limit: Duration::from_secs(150),
    place: |vmm| match vmm {
        Vmm::Qemu => Place::OnHost,
        Vmm::PortalVmm | Vmm::OpenVmm => (PMEM_DAX.place)(vmm),
    },
    run: exchange,
};

/// Where in the device, in MiB, the host leaves a region for the guests, and its size.
const REGION_AT: u64 = 16;
const REGION_MIB: u64 = 8;
const PAGE_BYTES: usize = PAGE as usize;
/// The number of the guest that is killed, and of its successor.
const MORTAL: PeerId = PeerId(1);

/// What the mortal flushes: lines of eight bytes, so that no two pages are alike. It
/// writes in a file that is there, because two file systems on one device must not
/// allocate.
pub(super) const KEPT: std::ops::Range<u32> = 1_000_000..1_131_072;

fn failed(error: impl std::fmt::Display) -> NotPassed {
    NotPassed::failed(format!("the region on the device: {error}"))
}

fn name(of: &str) -> Passed<Name> {
    Name::new(of).map_err(failed)
}

/// The bytes of a region with peers 0 and 1 let in.
fn region(lab: &Lab) -> Passed<Vec<u8>> {
    let spec = RegionSpec::new(name("lake")?, REGION_MIB << 20, 4).sectioned(false);
    let path = lab.scratch("lake.region");
    let config = BackingConfig {
        storage: Storage::File(path.clone()),
        ..BackingConfig::default()
    };
    let backing = Backing::create(&spec, &config).map_err(failed)?;
    let mapping = backing.map(View::OWNER).map_err(failed)?;
    let id = uuid::Uuid::from_u128(0x706d_656d);
    let mut pages = HostPages::format(mapping.mem(), &spec, id).map_err(failed)?;
    for (peer, who) in [(PeerId(0), "a"), (MORTAL, "b")] {
        let kind = PeerKind::Partition;
        let admitted = pages.admit(peer, name(who)?, kind, Rights::ALL, 0);
        admitted.map_err(failed)?;
    }
    fs::read(&path).map_err(NotPassed::of_file(&path))
}

/// The host's pages of the region in the file system of `image`. They lie in the first
/// twelve blocks of a file, which a new file system has given one after the other.
fn host(image: &Path) -> Passed<HostPages<MappedMem>> {
    let bytes = fs::read(image).map_err(NotPassed::of_file(image))?;
    let mut files = bytes
        .chunks(PAGE_BYTES)
        .take(FS_KIB as usize * 1024 / PAGE_BYTES);
    let magic = MAGIC.to_le_bytes();
    let region = files
        .position(|page| page.starts_with(&magic))
        .and_then(|page| (page as u64 * PAGE).checked_sub(HEADER_AT))
        .ok_or_else(|| failed("no header in the file system"))?;
    let file = fs::File::options().read(true).write(true).open(image);
    let device = DeviceMemory {
        path: image.to_owned(),
        fd: file.map_err(NotPassed::of_file(image))?.into(),
        at: region,
        len: REGION_MIB << 20,
        granule: PAGE,
    };
    let backing = Backing::open_device(device, OpenAs::Host).map_err(failed)?;
    let mapping = backing.map(View::OWNER).map_err(failed)?;
    let region = PortalRegion::attach(mapping.mem(), AttachOptions::default());
    let region = region.map_err(failed)?;
    let peers: Result<Vec<_>, _> = region.layout().peers().map(|p| region.peer(p)).collect();
    let peers = peers.map_err(failed)?;
    HostPages::resume(mapping.mem(), region.header().clone(), peers).map_err(failed)
}

/// Whether every page of what was flushed is somewhere in `image`.
pub(super) fn has_kept(image: &Path) -> Passed {
    let bytes = fs::read(image).map_err(NotPassed::of_file(image))?;
    let pages: HashSet<&[u8]> = bytes.chunks(PAGE_BYTES).collect();
    let kept: String = KEPT.map(|line| format!("{line}\n")).collect();
    let missing = kept.as_bytes().chunks(PAGE_BYTES);
    let missing = missing.filter(|&page| !pages.contains(page)).count();
    check(missing == 0, || {
        format!("the host lacks {missing} pages of what was flushed")
    })
}

fn exchange(lab: &Lab, vmm: Vmm) -> Passed {
    let path = lab.scratch("shared.img");
    let file = fs::File::create(&path).map_err(NotPassed::of_file(&path))?;
    let region = region(lab)?;
    file.set_len(FILE)
        .and_then(|()| file.write_all_at(&region, REGION_AT << 20))
        .map_err(NotPassed::of_file(&path))?;
    let mount = "mkdir -p /mnt && mount -t ext2 -o dax,noatime /dev/pmem0 /mnt && \
                 grep /mnt /proc/mounts";
    let program = "portal-guest --at /mnt/lake";
    let sum = "sha256sum /mnt/kept";
    let survivor = guest("survivor", &path, true)
        .step(
            "make",
            60,
            &format!(
                "mke2fs -b 4096 /dev/pmem0 {FS_KIB} >/dev/null && {mount} && \
                 dd if=/dev/pmem0 of=/mnt/lake bs=1M skip={REGION_AT} count={REGION_MIB} && \
                 dd if=/dev/zero of=/mnt/kept bs=1M count=1 && \
                 sync && echo P | dd of=/dev/pmem0 bs=1M seek={RAW_AT} conv=fsync"
            ),
        )
        // Says when it has received a part.
        .step("cut", 100, &cut(&format!("{program} --peer 0")))
        .step("kept", 30, sum)
        .step("recv", 90, &format!("{program} --peer 0 --json recv"));
    let marked = format!(
        "until [ \"$(dd if=/dev/pmem0 bs=1 skip={} count=1 2>/dev/null)\" = P ]; \
         do sleep 0.2; done",
        RAW_AT << 20
    );
    let (first, last) = (KEPT.start, KEPT.end - 1);
    let mortal = guest("mortal", &path, true)
        .step("wait", 60, &format!("{marked}; {mount}"))
        .step(
            "flush",
            30,
            &format!(
                "seq {first} {last} | dd of=/mnt/kept bs=4k conv=notrunc,fsync 2>/dev/null && {sum}"
            ),
        )
        .step(
            "send",
            100,
            &format!("{program} --peer {MORTAL} send --bytes {ENDLESS}"),
        );
    let successor = guest("successor", &path, true)
        .step("kept", 30, &format!("{mount} && {sum}"))
        .step(
            "send",
            90,
            &format!("{program} --peer {MORTAL} --json send --bytes 64MiB"),
        );
    let mut survivor = vmm.start_one(lab, &survivor, &[])?;
    // One boots after the other.
    survivor.says(0, "##begin make", 1, lab.until)?;
    let mut mortal = vmm.start_one(lab, &mortal, &[])?;
    for (running, step) in [(&mut survivor, "make"), (&mut mortal, "wait")] {
        mounts_with_dax(running, step, lab)?;
    }
    let flushed = mortal.passed(0, "flush", lab.until)?;
    survivor.says(0, "##middle", 1, lab.until)?;
    mortal.process.kill();
    has_kept(&path)?;
    let mut host = host(&path)?;
    host.retire(MORTAL).map_err(failed)?;
    is_told(&mut survivor, 0, lab)?;
    let who = name("successor")?;
    let admitted = host.admit(MORTAL, who, PeerKind::Partition, Rights::ALL, 0);
    let epoch = admitted.map_err(failed)?;
    let mut successor = vmm.start_one(lab, &successor, &[])?;
    let seen = [
        survivor.passed(0, "kept", lab.until)?,
        successor.passed(0, "kept", lab.until)?,
    ];
    check(seen.iter().all(|seen| seen.ends_with(&flushed)), || {
        format!("flushed {flushed:?}, the others see {seen:?}")
    })?;
    let sent = report(&successor.passed(0, "send", lab.until)?)?;
    let received = report(&survivor.passed(0, "recv", lab.until)?)?;
    same_bytes(&received, &sent, BYTES)?;
    check(sent["place"]["epoch"] == epoch, || {
        format!("the successor's place: {sent}")
    })?;
    for mut running in [survivor, successor] {
        running.ends_well(lab.until)?;
    }
    Ok(())
}
