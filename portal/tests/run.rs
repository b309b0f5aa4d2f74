//! `portal run` with the real binary and real KVM: tasks, signals, faults, images.

mod binary;

use binary::Ran;
use binary::portal_in;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use std::io::BufRead as _;
use std::io::BufReader;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use std::time::Instant;

/// Longer than any run here takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Held by each test that runs partitions: they want both cores for themselves.
static CORES: Mutex<()> = Mutex::new(());

/// `mov eax, 7; out 0xF4, eax`: ends its partition with code 7.
const EXIT_7: &[u8] = &[0xB8, 7, 0, 0, 0, 0xE7, 0xF4];
/// `mov eax, 0; out 0xF4, eax`.
const EXIT_0: &[u8] = &[0xB8, 0, 0, 0, 0, 0xE7, 0xF4];
/// `ud2` with no IDT: a triple fault.
const FAULT: &[u8] = &[0x0F, 0x0B];
/// `jmp $`.
const SPIN: &[u8] = &[0xEB, 0xFE];

/// Runs `test` where partitions can run; says so once where they cannot.
fn with_partitions(test: impl FnOnce(&Path)) {
    let doctor = portal_in(Path::new("."), &["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&doctor.out).unwrap();
    if report["usable"] != true {
        eprintln!("skipped: {}", doctor.err.trim());
        return;
    }
    let _cores = CORES.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    test(folder.path());
}

fn image(folder: &Path, name: &str, code: &[u8]) {
    std::fs::write(folder.join(name), code).unwrap();
}

fn run(folder: &Path, text: &str, args: &[&str]) -> Ran {
    std::fs::write(folder.join("pair.toml"), text).unwrap();
    let mut all = vec!["run", "pair.toml"];
    all.extend(args);
    portal_in(folder, &all)
}

/// Starts `portal run`, waits for a line that holds `until`, sends `signal`, and
/// returns the exit code.
fn stopped(folder: &Path, text: &str, until: &str, signal: Signal) -> i32 {
    std::fs::write(folder.join("pair.toml"), text).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_portal"))
        .args(["run", "pair.toml"])
        .current_dir(folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    // Until its standard output ends, which is when it does.
    let mut seen = Vec::new();
    let mut signalled = false;
    let begin = Instant::now();
    loop {
        let left = PATIENCE.saturating_sub(begin.elapsed());
        match lines.recv_timeout(left) {
            Ok(line) => {
                if !signalled && line.contains(until) {
                    kill_process(Pid::from_child(&child), signal).unwrap();
                    signalled = true;
                }
                seen.push(line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("it does not end: {seen:?}");
            }
        }
    }
    let status = child.wait().unwrap();
    assert!(signalled, "ended without saying {until:?}: {status}");
    let told = seen.iter().any(|line| line.contains("stopped by the host"));
    assert!(told, "{seen:?}");
    status.code().unwrap_or(-1)
}

const TWO_WARPS: &str = r#"
[[region]]
name = "shared"
size = "32 MiB"
peers = 4

[[partition]]
name = "a"
guest = "warp"
device = [{ kind = "ivshmem", region = "shared" }]
task = [
    { do = "ping", peer = "b", rounds = 1000 },
    { do = "doorbell", peer = "b", rounds = 10 },
    { do = "stream", peer = "b", bytes = "8 MiB" },
]

[[partition]]
name = "b"
guest = "warp"
device = [{ kind = "ivshmem", region = "shared" }]
"#;

#[test]
fn tasks_are_done_in_order() {
    with_partitions(|folder| {
        let ran = run(folder, TWO_WARPS, &["--until-done"]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
        let at = |words: &str| {
            let found = ran.out.find(words);
            found.unwrap_or_else(|| panic!("{words:?} not in:\n{}", ran.out))
        };
        assert!(at("a: up, peer") < at("a -> b: 1 000 round trips through rings"));
        assert!(at("through rings") < at("a -> b: 10 round trips by doorbell"));
        assert!(at("by doorbell") < at("a -> b: 8 388 608 bytes"));
    });
}

#[test]
fn regions_at_fixed_addresses_work_too() {
    with_partitions(|folder| {
        let fixed = "kind = \"fixed\", gpa = 0x10_0000_0000";
        let text = TWO_WARPS.replace("kind = \"ivshmem\"", fixed).replace(
            "    { do = \"doorbell\", peer = \"b\", rounds = 10 },\n",
            "",
        );
        let ran = run(folder, &text, &["--until-done"]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
        assert!(ran.out.contains("a -> b: 8 388 608 bytes"), "{}", ran.out);
    });
}

#[test]
fn a_region_in_a_file_outlives_the_run_and_is_sound() {
    with_partitions(|folder| {
        let create = [
            "region", "create", "s.region", "--size", "32MiB", "--peers", "4",
        ];
        let mut named = create.to_vec();
        named.extend(["--name", "shared"]);
        assert_eq!(portal_in(folder, &named).code, 0);
        let backing = "peers = 4\nbacking = \"file\"\npath = \"s.region\"";
        let text = TWO_WARPS.replace("peers = 4", backing);
        for _ in 0..2 {
            let ran = run(folder, &text, &["--until-done"]);
            assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
            let check = portal_in(folder, &["region", "check", "s.region"]);
            assert_eq!(check.code, 0, "{check:?}");
        }
        let show = portal_in(folder, &["region", "show", "s.region"]);
        assert!(show.out.contains("dead"), "{}", show.out);
    });
}

#[test]
fn signals_stop_everything_cleanly() {
    with_partitions(|folder| {
        for signal in [Signal::INT, Signal::TERM] {
            let code = stopped(folder, TWO_WARPS, "Ctrl-C stops", signal);
            assert_eq!(code, 0, "{signal:?}");
        }
    });
}

#[test]
fn a_signal_breaks_a_long_task_off() {
    with_partitions(|folder| {
        let text = TWO_WARPS.replace("8 MiB", "8000 GiB");
        let code = stopped(folder, &text, "by doorbell", Signal::INT);
        assert_eq!(code, 0);
    });
}

#[test]
fn an_image_of_ones_own_ends_with_its_code() {
    with_partitions(|folder| {
        image(folder, "zero.bin", EXIT_0);
        image(folder, "seven.bin", EXIT_7);
        let text = "[[partition]]\nname = \"a\"\nram = \"2 MiB\"\nimage = \"zero.bin\"\n";
        let ran = run(folder, text, &[]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.out.contains("a: exited with code 0"), "{}", ran.out);
        let ran = run(folder, &text.replace("zero", "seven"), &[]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(
            ran.err.contains("partition \"a\" exited with code 7"),
            "{}",
            ran.err
        );
    });
}

#[test]
fn a_fault_stops_one_partition_and_leaves_the_others() {
    with_partitions(|folder| {
        image(folder, "fault.bin", FAULT);
        image(folder, "zero.bin", EXIT_0);
        let text = "[[partition]]\nname = \"bad\"\nram = \"2 MiB\"\nimage = \"fault.bin\"\n\
                    [[partition]]\nname = \"good\"\nram = \"2 MiB\"\nimage = \"zero.bin\"\n";
        let ran = run(folder, text, &[]);
        assert_eq!(ran.code, 5, "{ran:?}");
        assert!(ran.out.contains("good: exited with code 0"), "{}", ran.out);
        for words in ["partition \"bad\"", "vCPU 0", "RIP 0x100000"] {
            assert!(ran.err.contains(words), "{words:?} not in {}", ran.err);
        }
    });
}

#[test]
fn a_spinning_image_stops_on_request() {
    with_partitions(|folder| {
        image(folder, "spin.bin", SPIN);
        let text = "[[partition]]\nname = \"a\"\nram = \"2 MiB\"\nimage = \"spin.bin\"\n";
        let code = stopped(folder, text, "Ctrl-C stops", Signal::TERM);
        assert_eq!(code, 0);
    });
}

/// With each limit of open files, from what the program itself needs up to enough for
/// two partitions, three regions and all kinds of devices: the work is done, or an
/// error says that there are too few and what to do.
#[test]
fn with_too_few_descriptors_it_says_so_and_starts_nothing() {
    const MOST: u32 = 200;
    with_partitions(|folder| {
        let region = "\n[[region]]\nname = \"NAME\"\nsize = \"4 MiB\"\npeers = 4\n";
        let more = "region = \"shared\" }, { kind = \"ivshmem2\", region = \"two\" }, \
                    { kind = \"fixed\", region = \"three\", gpa = 0x10_0000_0000 }, \
                    { kind = \"pmem\", path = \"disk\" }]";
        let text = TWO_WARPS.replace("region = \"shared\" }]", more);
        let text = text.replace("32 MiB", "4 MiB").replace("8 MiB", "64 KiB");
        let text = text + &region.replace("NAME", "two") + &region.replace("NAME", "three");
        std::fs::write(folder.join("pair.toml"), text).unwrap();
        let disk = std::fs::File::create(folder.join("disk")).unwrap();
        disk.set_len(2 << 20).unwrap();
        let (mut refused, mut enough) = (0, 0);
        for limit in 5..MOST {
            let ran = Command::new("sh")
                .args(["-c", "ulimit -n $0 && exec \"$@\"", &limit.to_string()])
                .arg(env!("CARGO_BIN_EXE_portal"))
                .args(["run", "pair.toml", "--until-done"])
                .current_dir(folder)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&ran.stderr);
            match ran.status.code() {
                Some(0) => enough += 1,
                Some(1..=4) => {
                    refused += 1;
                    assert!(said.contains("ulimit -n"), "{limit}: {said}");
                }
                _ => panic!("{limit}: {ran:?}"),
            }
            if enough == 3 {
                assert!(refused > 10, "{refused}");
                return;
            }
        }
        panic!("{MOST} are still too few");
    });
}

/// A 64-bit ELF file whose code is `mov dx, 602h; mov al, 1; out dx, al`: a kernel
/// that resets its partition at once.
fn resets() -> Vec<u8> {
    const AT: u64 = 0x100_0000;
    const CODE: [u8; 7] = [0x66, 0xBA, 0x02, 0x06, 0xB0, 0x01, 0xEE];
    let mut file = vec![0; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7FELF\x02\x01\x01");
    put(0x10, &[2, 0, 62, 0, 1]);
    put(0x18, &AT.to_le_bytes());
    put(0x20, &64u64.to_le_bytes());
    put(0x34, &[64, 0, 56, 0, 1, 0]);
    put(64, &[1, 0, 0, 0, 5, 0, 0, 0]);
    for (at, value) in [
        (72, 0x200),
        (80, AT),
        (88, AT),
        (96, 7),
        (104, 7),
        (112, 0x1000),
    ] {
        put(at, &u64::to_le_bytes(value));
    }
    put(0x200, &CODE);
    file
}

/// Who resets itself and cannot start again is told of and gone; the other goes on.
#[test]
fn a_restart_that_fails_ends_one_partition_only() {
    with_partitions(|folder| {
        image(folder, "kernel", &resets());
        image(folder, "spin.bin", SPIN);
        let text = "[[partition]]\nname = \"again\"\nram = \"64 MiB\"\nkernel = \"kernel\"\n\
                    [[partition]]\nname = \"other\"\nram = \"2 MiB\"\nimage = \"spin.bin\"\n";
        std::fs::write(folder.join("pair.toml"), text).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_portal"))
            .args(["run", "pair.toml"])
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        let mut says = |what: &str| lines.any(|line| line.contains(what));
        assert!(says("again: reset itself, starts again"));
        std::fs::remove_file(folder.join("kernel")).unwrap();
        assert!(says(
            "partition \"again\" reset itself and cannot start again"
        ));
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(says("other: stopped by the host"));
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(3), "{ended:?}");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(
            said.contains("cannot start again: partition \"again\": kernel is"),
            "{said}"
        );
    });
}
