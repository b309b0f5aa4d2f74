//! A C program, compiled here with gcc against the header and the static
//! library, exchanges spans with this process through a region file.

use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::Storage;
use hv_shmem::backing::View;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::name::Name;
use hv_shmem::own_section::RingSpec;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::region::RingError;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::SubmitEntry;
use hv_shmem::ring::SubmitReceiver;
use hv_shmem::ring::SubmitSender;
use hv_shmem::section::SectionConfig;
use hv_shmem::span::Access;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;
use uuid::Uuid;

const RUST: PeerId = PeerId(0);
const C: PeerId = PeerId(1);
const COUNT: u64 = 500;

/// The static library that cargo built with this test.
fn library() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let deps = exe.parent().unwrap();
    let profile = deps.parent().unwrap();
    let mut found: Vec<PathBuf> = [deps, profile]
        .iter()
        .flat_map(|d| std::fs::read_dir(d).unwrap())
        .map(|e| e.unwrap().path())
        .filter(|p| {
            let name = p.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("libhv_shmem_c") && name.ends_with(".a")
        })
        .collect();
    found.sort_by_key(|p| std::fs::metadata(p).unwrap().modified().unwrap());
    found.pop().expect("cargo built libhv_shmem_c.a")
}

fn compile(to: &Path) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let done = Command::new("gcc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1"])
        .arg("-I")
        .arg(here.join("../include"))
        .arg(here.join("tests/exchange.c"))
        .arg(library())
        .args(["-lpthread", "-ldl", "-lm", "-o"])
        .arg(to)
        .output()
        .expect("gcc is installed");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

#[test]
fn a_c_program_exchanges_spans_with_this_process() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("exchange");
    compile(&program);

    let path = folder.path().join("region");
    let spec = RegionSpec::new(Name::new("c").unwrap(), 1 << 20, 2);
    let config = BackingConfig {
        storage: Storage::File(path.clone()),
        ..BackingConfig::default()
    };
    let backing = Backing::create(&spec, &config).unwrap();
    let host_mem = backing.map(View::OWNER).unwrap().mem();
    let mut host = HostPages::format(host_mem, &spec, Uuid::from_u128(0xC0)).unwrap();
    let mut admit = |peer, name| {
        let name = Name::new(name).unwrap();
        host.admit(peer, name, PeerKind::HostProcess, Rights::ALL, 0)
            .unwrap()
    };
    let (mine, theirs) = (admit(RUST, "rust"), admit(C, "c"));
    let mem = backing.map(View::peer(RUST)).unwrap().mem();
    let region = PortalRegion::attach(mem, AttachOptions::default()).unwrap();
    let sizes = SectionConfig {
        directory: 8,
        ring_bytes: 64 << 10,
    };
    let mut own = region.join(RUST, mine, sizes).unwrap();
    let arena = own.arena().unwrap();
    let place = own
        .create_ring(RingSpec {
            id: 1,
            to: C,
            kind: RingKind::Submit,
            layout: RingLayout::Inline,
            slot_size: 64,
            slots: 8,
        })
        .unwrap();
    let mut sender = SubmitSender::new(place).unwrap();

    let mut child = Command::new(&program)
        .arg(&path)
        .arg(theirs.to_string())
        .arg(COUNT.to_string())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut wait = |what: &str| {
        assert!(Instant::now() < deadline, "{what} took too long");
        if let Some(status) = child.try_wait().unwrap() {
            panic!("the C program ended early, while {what}: {status}");
        }
        std::thread::yield_now();
    };
    let mut receiver = loop {
        match own.accept_ring(C, 2) {
            Ok(place) => break SubmitReceiver::new(place).unwrap(),
            Err(RingError::NotThere { .. } | RingError::Region(_)) => wait("accepting"),
            Err(e) => panic!("{e}"),
        }
    };
    loop {
        if let Some(line) = own.cursor(C, 1).unwrap() {
            sender.set_cursor(line).unwrap();
            break;
        }
        wait("its cursor");
    }
    let mut returns = own.create_return_ring(C, 256).unwrap();
    let mut resolver = own.resolver().unwrap();
    let mut home = None;
    for number in 0..COUNT {
        let length = (number * 37 % 20_000 + 1) as usize;
        let bytes: Vec<u8> = (0..length)
            .map(|i| (i as u64 * 31 + number) as u8)
            .collect();
        if home.is_none() {
            home = own.accept_return_ring(C).ok();
        }
        if let Some(home) = &mut home {
            arena.take_returns(home).unwrap();
            let _ = home.ring().flush();
        }
        let span = arena.alloc(length as u64).unwrap();
        arena.view(&span).unwrap().write(0, &bytes).unwrap();
        arena.grant(&span, C).unwrap();
        let entry = SubmitEntry {
            opcode: 1,
            flags: 0,
            user_data: number,
            span,
            arg: 0,
        };
        while sender.try_send(&entry).is_err() {
            wait("sending");
        }
        let _ = sender.flush();
        let answer = loop {
            match receiver.try_recv().unwrap() {
                Some(answer) => break answer,
                None => wait("receiving"),
            }
        };
        let _ = receiver.flush();
        assert_eq!((answer.user_data, answer.arg), (number, length as u64));
        let view = resolver.resolve(&answer.span, Access::Read).unwrap();
        let mut got = vec![0; length];
        view.read(0, &mut got).unwrap();
        assert!(got.iter().zip(&bytes).all(|(g, b)| *g == !*b), "{number}");
        returns.give_back(&answer.span).unwrap();
        let _ = returns.flush();
        if number == 100
            && let Ok(Some(line)) = own.cursor(C, hv_shmem::arena::RETURN_RING)
        {
            returns.ring().set_cursor(line).unwrap();
        }
    }
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert!(region.section(C).is_err(), "it closed its section");
    if let Some(home) = &mut home {
        arena.take_returns(home).unwrap();
    }
    let mut live = 0;
    arena.for_each_live(|_, _| live += 1);
    assert_eq!(live, 0, "every span came home");
}
