//! TRUST.md, T13: truncation and hole punching. "Every seal tested; unsealed
//! file under traffic: only that region faults."

#![expect(unsafe_code, reason = "maps memory that is no region")]

mod harness;
#[path = "harness/child.rs"]
mod process;
#[path = "harness/random.rs"]
mod random;

use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::Mapping;
use hv_shmem::backing::Storage;
use hv_shmem::backing::View;
use hv_shmem::backing::fault_guard;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::mem::SharedMem;
use hv_shmem::name::Name;
use hv_shmem::own_section::RingSpec;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::ring::InlineReceiver;
use hv_shmem::ring::InlineSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::section::SectionConfig;
use random::Random;
use rustix::fs::FallocateFlags;
use rustix::fs::MemfdFlags;
use rustix::fs::SealFlags;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use uuid::Uuid;

const SIZE: u64 = 256 << 10;

fn spec(sectioned: bool) -> RegionSpec {
    RegionSpec::new(Name::new("t13").unwrap(), SIZE, 2).sectioned(sectioned)
}

/// Everything that a hostile holder of an fd may try; how much of it worked.
fn attempts(fd: BorrowedFd<'_>, len: u64) -> u64 {
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let tried = [
        rustix::fs::ftruncate(fd, len / 2),
        rustix::fs::ftruncate(fd, 0),
        rustix::fs::ftruncate(fd, len * 2),
        rustix::fs::fallocate(fd, FallocateFlags::empty(), len, 4096),
        rustix::fs::fallocate(fd, punch, 0, 4096),
        rustix::fs::fallocate(fd, FallocateFlags::ZERO_RANGE, 0, 4096),
        rustix::io::pwrite(fd, b"x", 0).map(|_| ()),
        rustix::io::pwrite(fd, b"x", len).map(|_| ()),
        rustix::fs::fcntl_add_seals(fd, SealFlags::WRITE),
    ];
    tried.iter().filter(|t| t.is_ok()).count() as u64
}

const SEALS: &str = "every change that a seal forbids, by a holder of a writable fd";

#[test]
fn t13_every_seal() {
    let cases = harness::cases(4);
    let mut failures = 0;
    for case in 0..cases {
        let sectioned = case % 2 == 1;
        let backing = Backing::create(&spec(sectioned), &BackingConfig::default()).unwrap();
        let mem = backing.map(View::OWNER).unwrap().mem();
        mem.write(SIZE / 2, b"live data");
        backing.seal_writers().unwrap();
        for part in backing.parts() {
            let Ok((fd, _)) = backing.part_fd(part) else {
                continue;
            };
            let len = rustix::fs::fstat(fd).unwrap().st_size as u64;
            failures += attempts(fd, len);
            // A writable mapping is what FUTURE_WRITE is about.
            failures += u64::from(backing.map(View::OWNER).is_ok());
        }
        let mut kept = [0; 9];
        mem.read(SIZE / 2, &mut kept);
        failures += u64::from(&kept != b"live data");
        // Mappings made before go on working.
        mem.write(SIZE / 2, b"more data");
        mem.read(SIZE / 2, &mut kept);
        failures += u64::from(&kept != b"more data");
    }
    harness::report("T13", SEALS, None, cases, failures);
}

#[test]
fn control_t13_every_seal() {
    let cases = harness::cases(4).min(1000);
    let mut failures = 0;
    for _ in 0..cases {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("unsealed", flags).unwrap();
        rustix::fs::ftruncate(&fd, SIZE).unwrap();
        failures += attempts(fd.as_fd(), SIZE);
    }
    harness::report("T13", SEALS, Some("the seals"), cases, failures);
}

#[test]
fn size_seals_hold_before_the_writers_are_sealed() {
    let backing = Backing::create(&spec(true), &BackingConfig::default()).unwrap();
    for part in backing.parts() {
        let Ok((fd, _)) = backing.part_fd(part) else {
            continue;
        };
        let seals = rustix::fs::fcntl_get_seals(fd).unwrap();
        assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW));
        assert!(rustix::fs::ftruncate(fd, 0).is_err());
    }
}

const TRUNCATED: &str = "a region's unsealed file truncated under traffic";

#[test]
fn t13_truncated_file() {
    let cases = harness::cases(60);
    let seed = harness::seed();
    let status = process::spawn(&format!("guarded {cases} {seed}"))
        .wait()
        .unwrap();
    let failures = u64::from(!status.success());
    harness::report("T13", TRUNCATED, None, cases, failures);
}

#[test]
fn control_t13_truncated_file() {
    let cases = harness::cases(60).min(10);
    let seed = harness::seed();
    let failures = (0..cases)
        .filter(|case| {
            !process::spawn(&format!("bare 1 {}", seed + case))
                .wait()
                .unwrap()
                .success()
        })
        .count() as u64;
    harness::report("T13", TRUNCATED, Some("the fault guard"), cases, failures);
}

/// The guard answers for mappings of regions only.
#[test]
fn a_bus_error_elsewhere_still_kills() {
    use std::os::unix::process::ExitStatusExt;
    let status = process::spawn("elsewhere").wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
}

fn fault_elsewhere() {
    fault_guard::install().unwrap();
    fault_guard::install().unwrap();
    let (_backing, mapping) = map(Storage::Memfd);
    let fd = rustix::fs::memfd_create("short", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, 4096).unwrap();
    let backing = std::fs::File::from(fd);
    // SAFETY: a new mapping; the access behind the file's end is the point.
    unsafe {
        use rustix::mm::MapFlags;
        use rustix::mm::ProtFlags;
        let (prot, flags) = (ProtFlags::READ, MapFlags::SHARED);
        let null = std::ptr::null_mut();
        let base = rustix::mm::mmap(null, 8192, prot, flags, &backing, 0).unwrap();
        base.cast::<u8>().add(4096).read_volatile();
    }
    mapping.check().unwrap();
}

#[test]
#[ignore = "runs as a child of the tests above"]
fn child() {
    let Some(job) = process::job() else { return };
    if job == "elsewhere" {
        return fault_elsewhere();
    }
    let mut words = job.split(' ');
    let guarded = words.next() == Some("guarded");
    let cases: u64 = words.next().unwrap().parse().unwrap();
    let mut random = Random(words.next().unwrap().parse().unwrap());
    if guarded {
        fault_guard::install().unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    for case in 0..cases {
        truncate_under_traffic(&folder.path().join(format!("{case}")), &mut random);
    }
}

/// One file-backed and one memfd region under traffic; the file is cut. The
/// other region has to go on without a scratch, and the owner of the cut one
/// has to be told.
fn truncate_under_traffic(path: &Path, random: &mut Random) {
    let file = map(Storage::File(path.into()));
    let other = map(Storage::Memfd);
    let stop = AtomicBool::new(false);
    let (done_file, done_other) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|s| {
        let lost = s.spawn(|| traffic(&file.1, &stop, &done_file));
        let well = s.spawn(|| traffic(&other.1, &stop, &done_other));
        wait_past(&done_file, 10);
        std::thread::sleep(Duration::from_micros(random.below(500)));
        // Not behind the last byte that the traffic touches.
        let cut = random.below(0x8000);
        std::fs::File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(cut)
            .unwrap();
        assert!(file.0.check().is_err(), "the backing knows");
        wait_past(&done_other, done_other.load(Ordering::Relaxed) + 100);
        while file.1.check().is_ok() && !lost.is_finished() {
            std::hint::spin_loop();
        }
        stop.store(true, Ordering::Relaxed);
        // Zeros in the page where the file ends may be noticed before any fault.
        let told = lost.join().unwrap().is_err() || file.1.check().is_err();
        assert!(told, "the user of the lost region knows");
        well.join().unwrap().expect("the other region is unharmed");
    });
    let mut gone = [0; 8];
    file.1.mem().read(SIZE - 8, &mut gone);
    assert!(file.1.check().is_err(), "the mapping knows");
    assert_eq!(gone, [0; 8]);
    assert!(other.1.check().is_ok());
    assert!(other.0.check().is_ok());
    std::fs::remove_file(path).unwrap();
}

fn map(storage: Storage) -> (Backing, Mapping) {
    let config = BackingConfig {
        storage,
        ..BackingConfig::default()
    };
    let backing = Backing::create(&spec(false), &config).unwrap();
    let mapping = backing.map(View::OWNER).unwrap();
    (backing, mapping)
}

fn wait_past(count: &AtomicU64, limit: u64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while count.load(Ordering::Relaxed) < limit {
        assert!(Instant::now() < deadline, "the traffic stopped");
        std::thread::yield_now();
    }
}

/// Formats the region, then sends messages through a ring of it and checks each,
/// until told to stop or until something is wrong.
fn traffic(mapping: &Mapping, stop: &AtomicBool, done: &AtomicU64) -> Result<(), String> {
    let (a, b) = (PeerId(0), PeerId(1));
    let mut host = HostPages::format(mapping.mem(), &spec(false), Uuid::from_u128(9))
        .map_err(|e| e.to_string())?;
    let region =
        PortalRegion::attach(mapping.mem(), AttachOptions::default()).map_err(|e| e.to_string())?;
    let config = SectionConfig {
        directory: 4,
        ring_bytes: 8 << 10,
    };
    for peer in [a, b] {
        let name = Name::new("p").unwrap();
        host.admit(peer, name, PeerKind::HostProcess, Rights::ALL, 1)
            .map_err(|e| e.to_string())?;
    }
    let mut to = region.join(b, 1, config).map_err(|e| e.to_string())?;
    let mut from = region.join(a, 1, config).map_err(|e| e.to_string())?;
    let ring = RingSpec {
        id: 1,
        to: b,
        kind: RingKind::Stream,
        layout: RingLayout::Inline,
        slot_size: 64,
        slots: 16,
    };
    let place = from.create_ring(ring).map_err(|e| e.to_string())?;
    let mut sender = InlineSender::new(place).map_err(|e| e.to_string())?;
    let place = to.accept_ring(a, 1).map_err(|e| e.to_string())?;
    let mut receiver = InlineReceiver::new(place).map_err(|e| e.to_string())?;
    if let Some(cursor) = from.cursor(b, 1).map_err(|e| e.to_string())? {
        let _ = sender.set_cursor(cursor);
    }
    let mut number = 0u64;
    let mut idle = 0;
    while !stop.load(Ordering::Relaxed) {
        if sender.try_send(&number.to_le_bytes()).is_ok() {
            let _ = sender.flush();
        }
        let mut got = [0; 56];
        match receiver.try_recv(&mut got).map_err(|e| e.to_string())? {
            Some(_) if got[..8] == number.to_le_bytes() => {
                number += 1;
                idle = 0;
                done.store(number, Ordering::Relaxed);
            }
            Some(_) => return Err(format!("message {number} came as {:?}", &got[..8])),
            None if idle > 10_000 => return Err("nothing comes any more".into()),
            None => idle += 1,
        }
        from.beat();
        if !to.is_current() {
            return Err("declared dead".into());
        }
    }
    Ok(())
}
