//! Backings and mappings: who may write what, files, fds in other processes.

#[path = "harness/child.rs"]
mod process;

use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::BackingError;
use hv_shmem::backing::DeviceMemory;
use hv_shmem::backing::MappedMem;
use hv_shmem::backing::OpenAs;
use hv_shmem::backing::Part;
use hv_shmem::backing::Storage;
use hv_shmem::backing::View;
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
use hv_shmem::ring::BulkReceiver;
use hv_shmem::ring::BulkSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::section::SectionConfig;
use std::os::unix::process::ExitStatusExt;
use uuid::Uuid;

const A: PeerId = PeerId(0);
const B: PeerId = PeerId(1);

fn spec(sectioned: bool) -> RegionSpec {
    RegionSpec::new(Name::new("backed").unwrap(), 1 << 20, 5)
        .common(64 << 10)
        .sectioned(sectioned)
}

/// A formatted region with peers 0 and 1 admitted.
fn region(sectioned: bool, storage: Storage) -> (Backing, HostPages<MappedMem>) {
    let spec = spec(sectioned);
    let config = BackingConfig {
        storage,
        ..BackingConfig::default()
    };
    let backing = Backing::create(&spec, &config).unwrap();
    let mem = backing.map(View::OWNER).unwrap().mem();
    let mut host = HostPages::format(mem, &spec, Uuid::from_u128(7)).unwrap();
    for peer in [A, B] {
        let name = Name::new("peer").unwrap();
        host.admit(peer, name, PeerKind::HostProcess, Rights::ALL, 1)
            .unwrap();
    }
    (backing, host)
}

/// Two peers, each with its own view, send each other a message.
fn traffic(backing: &Backing) {
    let join = |peer: PeerId| {
        let mem = backing.map(View::peer(peer)).unwrap().mem();
        let region = PortalRegion::attach(mem, AttachOptions::default()).unwrap();
        let epoch = region.peer(peer).unwrap().epoch;
        let config = SectionConfig {
            directory: 4,
            ring_bytes: 16 << 10,
        };
        region.join(peer, epoch, config).unwrap()
    };
    let (mut a, mut b) = (join(A), join(B));
    let ring = RingSpec {
        id: 1,
        to: B,
        kind: RingKind::Stream,
        layout: RingLayout::Bulk,
        slot_size: 64,
        slots: 64,
    };
    let mut sender = BulkSender::new(a.create_ring(ring).unwrap()).unwrap();
    let mut receiver = BulkReceiver::new(b.accept_ring(A, 1).unwrap()).unwrap();
    sender.try_send(&[9; 64]).unwrap();
    let _ = sender.flush();
    let mut got = [0; 64];
    assert!(receiver.try_recv(&mut got).unwrap().is_some());
    assert_eq!(got, [9; 64]);
}

#[test]
fn flat_and_sectioned_memfds_carry_the_same_traffic() {
    for sectioned in [false, true] {
        let (backing, _host) = region(sectioned, Storage::Memfd);
        assert_eq!(backing.is_sectioned(), sectioned);
        traffic(&backing);
        backing.seal_writers().unwrap();
        // Nobody maps it writable any more.
        assert!(backing.map(View::peer(A)).is_err());
        backing.map(View::OBSERVER).unwrap();
    }
}

/// A test that starts a child at this moment gives it a copy of the lock until the
/// child's `exec`.
fn open_as_host(path: &std::path::Path) -> Backing {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        match Backing::open_file(path, OpenAs::Host) {
            Err(BackingError::Busy { .. }) if std::time::Instant::now() < until => {
                std::thread::yield_now();
            }
            other => return other.unwrap(),
        }
    }
}

/// A region at an offset of something that can only be mapped, as in `/dev/mem` or
/// at a region of a VFIO device.
#[test]
fn a_region_in_a_device_is_found_behind_its_offset() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("region");
    let (backing, _host) = region(false, Storage::File(path.clone()));
    const AT: u64 = 3 << 20;
    let device = folder.path().join("device");
    let node = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&device)
        .unwrap();
    node.set_len(AT + (1 << 20)).unwrap();
    let image = std::fs::read(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&node, &image, AT).unwrap();
    drop(backing);
    let memory = |at: u64, len: u64, granule: u64| DeviceMemory {
        path: device.clone(),
        fd: node.try_clone().unwrap().into(),
        at,
        len,
        granule,
    };
    let found = memory(AT, 1 << 20, 4096).header().unwrap();
    assert_eq!(found.name.as_str(), "backed");
    traffic(&Backing::open_device(memory(AT, 1 << 20, 4096), OpenAs::Peer).unwrap());

    let refused = Backing::open_device(memory(AT, 1 << 19, 4096), OpenAs::Peer).unwrap_err();
    assert!(
        matches!(refused, BackingError::Truncated { .. }),
        "{refused}"
    );
    let refused = memory(AT, 4096, 4096).header().unwrap_err();
    assert!(
        matches!(refused, BackingError::Truncated { .. }),
        "{refused}"
    );
    let refused = memory(0, 1 << 20, 4096).header().unwrap_err();
    assert!(refused.to_string().contains("holds no region"), "{refused}");
    // 1 MiB cannot be mapped from a node that maps 2 MiB at once.
    let small = Backing::open_device(memory(AT, 1 << 20, 2 << 20), OpenAs::Peer).unwrap();
    let refused = small.map(View::peer(A)).unwrap_err();
    assert!(matches!(refused, BackingError::Granule { .. }), "{refused}");
}

#[test]
fn a_region_file_outlives_its_host_and_has_one_host_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("region");
    let (backing, host) = region(false, Storage::File(path.clone()));
    traffic(&backing);
    assert!(matches!(
        Backing::open_file(&path, OpenAs::Host),
        Err(BackingError::Busy { .. })
    ));
    let peer = Backing::open_file(&path, OpenAs::Peer).unwrap();
    traffic(&peer);
    backing.sync().unwrap();
    drop((backing, host));

    let again = open_as_host(&path);
    let mem = again.map(View::OWNER).unwrap().mem();
    let host = HostPages::take_over(mem).unwrap();
    assert_eq!(host.header().generation, 2);

    // There is a file already; it has to be whole; it has to be a region.
    let config = BackingConfig {
        storage: Storage::File(path.clone()),
        ..BackingConfig::default()
    };
    let refused = Backing::create(&spec(false), &config).unwrap_err();
    assert!(refused.to_string().contains("File exists"), "{refused}");
    let refused = Backing::create(&spec(true), &config).unwrap_err();
    assert!(matches!(refused, BackingError::FileSectioned { .. }));
    drop(again);
    for len in [0, 100, 0x1080, 0x8000] {
        let short = folder.path().join(format!("short{len}"));
        std::fs::copy(&path, &short).unwrap();
        std::fs::File::options()
            .write(true)
            .open(&short)
            .unwrap()
            .set_len(len)
            .unwrap();
        let refused = Backing::open_file(&short, OpenAs::Peer).unwrap_err();
        assert!(
            matches!(refused, BackingError::Truncated { have, .. } if have == len),
            "{len}: {refused}"
        );
    }
    for open_as in [OpenAs::Observer, OpenAs::Peer] {
        let refused = Backing::open_file(folder.path(), open_as).unwrap_err();
        let told = refused.to_string();
        assert!(
            told.contains("directory") || told.contains("regular"),
            "{told}"
        );
    }
    let foreign = folder.path().join("foreign");
    std::fs::write(&foreign, vec![b'x'; 1 << 20]).unwrap();
    let refused = Backing::open_file(&foreign, OpenAs::Observer).unwrap_err();
    assert!(refused.to_string().contains("holds no region"), "{refused}");
}

#[test]
fn fds_for_another_process_allow_its_own_section_only() {
    let (backing, _host) = region(true, Storage::Memfd);
    let shared = backing.share(View::peer(B)).unwrap();
    for part in &shared {
        let own = matches!(part.part, Some(Part::Common | Part::Section(B)));
        assert_eq!(part.writable, own, "{:?}", part.part);
        let wrote = rustix::io::pwrite(&part.fd, b"x", 0).is_ok();
        assert_eq!(wrote, own, "{:?}", part.part);
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        let punched = rustix::fs::fallocate(&part.fd, flags, 0, 4096).is_ok();
        assert_eq!(punched, own, "{:?}", part.part);
    }
    let there = Backing::from_shared(shared).unwrap();
    let mem = there.map(View::peer(B)).unwrap().mem();
    PortalRegion::attach(mem, AttachOptions::default())
        .unwrap()
        .join(
            B,
            1,
            SectionConfig {
                directory: 1,
                ring_bytes: 128,
            },
        )
        .unwrap();
    // Asking for more than the fds allow gets a read-only mapping of the rest.
    let mem = there.map(View::OWNER).unwrap().mem();
    assert_eq!(mem.len(), 1 << 20);
    let mut parts = backing.share(View::OBSERVER).unwrap();
    parts.pop();
    assert!(matches!(
        Backing::from_shared(parts),
        Err(BackingError::NoSuchPart { .. })
    ));
}

#[test]
fn writing_where_another_peer_writes_stops_the_writer_only() {
    for (part, dies) in [
        ("host", true),
        ("common", false),
        ("own", false),
        ("other", true),
        ("tail", true),
    ] {
        let status = process::spawn(part).wait().unwrap();
        assert_eq!(status.signal() == Some(libc::SIGSEGV), dies, "{part}");
        assert!(dies || status.success(), "{part}");
    }
}

#[test]
fn too_few_file_descriptors_are_an_error_and_leave_none_behind() {
    let status = process::spawn("few fds").wait().unwrap();
    assert!(status.success(), "{status}");
}

/// Lowers the limit one by one through the whole scenario (TRUST.md, T15).
fn few_fds() {
    use rustix::process::Resource;
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    let mut failed = 0;
    // Five sections, host pages, common section: seven fds.
    for spare in 0..12 {
        limit.current = Some(before as u64 + spare);
        rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
        match Backing::create(&spec(true), &BackingConfig::default()) {
            Ok(backing) => {
                if let Err(e) = backing.share(View::OBSERVER) {
                    assert!(e.to_string().contains("open files"), "{e}");
                }
            }
            Err(e @ BackingError::TooManyFiles { parts: 7 }) => {
                assert!(e.to_string().contains("ulimit"), "{e}");
                failed += 1;
            }
            Err(e) => panic!("{e}"),
        }
        assert_eq!(open(), before);
    }
    assert!((4..12).contains(&failed), "{failed}");
}

#[test]
#[ignore = "runs as a child of the tests above"]
fn child() {
    let Some(job) = process::job() else { return };
    if job == "few fds" {
        return few_fds();
    }
    let (backing, _host) = region(true, Storage::Memfd);
    let mem = backing.map(View::peer(B)).unwrap().mem();
    let part = match job.as_str() {
        "host" => Part::HostPages,
        "common" => Part::Common,
        "own" => Part::Section(B),
        "other" => Part::Section(A),
        _ => Part::Tail,
    };
    mem.write(backing.range(part).start, b"mine now");
}

#[test]
fn a_numa_node_is_taken_or_named_in_the_error() {
    let bound = |node| {
        let config = BackingConfig {
            numa_node: Some(node),
            populate: true,
            ..BackingConfig::default()
        };
        Backing::create(&spec(true), &config)
            .unwrap()
            .map(View::OWNER)
    };
    match bound(0) {
        Ok(_) => {}
        Err(e) if e.to_string().contains("Operation not permitted") => {
            println!("skipped: mbind is not allowed here");
            return;
        }
        Err(e) => panic!("{e}"),
    }
    for node in [63, 5000] {
        let refused = bound(node).unwrap_err().to_string();
        assert!(refused.contains("NUMA node"), "{refused}");
    }
}
