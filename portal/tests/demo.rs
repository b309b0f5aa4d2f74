//! `portal demo` with the real binary and, where this host has it, real KVM.

mod binary;

use binary::Ran;
use binary::portal_in;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;

/// Held by each test that runs partitions: they want both cores for themselves.
static CORES: Mutex<()> = Mutex::new(());

/// Whether partitions can run here; says so once where they cannot.
fn can_run() -> bool {
    let doctor = portal_in(Path::new("."), &["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&doctor.out).unwrap();
    let usable = report["usable"] == true;
    if !usable {
        eprintln!("skipped: {}", doctor.err.trim());
    }
    usable
}

/// Bytes that repeat at no power of two.
fn letters(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

fn send(bytes: &[u8]) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("f"), bytes).unwrap();
    portal_in(folder.path(), &["demo", "--file", "f", "--json"])
}

#[test]
fn files_of_every_awkward_size_arrive_whole() {
    if !can_run() {
        return;
    }
    let _cores = CORES.lock().unwrap_or_else(PoisonError::into_inner);
    const MIB: usize = 1 << 20;
    for len in [0, 1, MIB - 1, MIB, MIB + 1, 10 * MIB + 3] {
        let bytes = letters(len);
        let ran = send(&bytes);
        assert_eq!(ran.code, 0, "{len}: {ran:?}");
        let sent: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        let hash = blake3::hash(&bytes).to_hex().to_string();
        assert_eq!(sent["guest"], hash, "{len}");
        assert_eq!(sent["host"], hash, "{len}");
        assert_eq!(sent["equal"], true);
        assert_eq!(sent["bytes"], len);
        assert_eq!(sent["spans"], len.div_ceil(MIB));
    }
}

#[test]
fn the_table_for_programs_has_every_row() {
    if !can_run() {
        return;
    }
    let _cores = CORES.lock().unwrap_or_else(PoisonError::into_inner);
    let ran = portal_in(Path::new("."), &["demo", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 5);
    for row in rows {
        for figure in ["portal", "baseline", "ratio"] {
            assert!(row[figure].as_f64().unwrap() > 0.0, "{figure} of {row}");
        }
    }
    let latency = report["latency"].as_array().unwrap();
    assert_eq!(latency.len(), 3);
    for row in latency {
        let at = |key: &str| row[key].as_u64().unwrap();
        assert!(at("min") > 0 && at("samples") > 0, "{row}");
        assert!(at("min") <= at("p50") && at("p50") <= at("p99") && at("p99") <= at("max"));
    }
}

#[test]
fn the_table_for_people_has_a_picture() {
    if !can_run() {
        return;
    }
    let _cores = CORES.lock().unwrap_or_else(PoisonError::into_inner);
    let ran = portal_in(Path::new("."), &["demo"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    for words in [
        "partition A",
        "ioeventfd",
        "Portal",
        "baseline",
        "ratio",
        "p99",
    ] {
        assert!(ran.out.contains(words), "{words:?} not in:\n{}", ran.out);
    }
}

#[test]
fn files_that_cannot_be_sent_are_input_errors() {
    let here = Path::new(".");
    for (path, told) in [
        ("/no/such/file", "cannot open /no/such/file"),
        ("/", "is no regular file"),
        ("/dev/zero", "is no regular file"),
    ] {
        let ran = portal_in(here, &["demo", "--file", path]);
        assert_eq!(ran.code, 3, "{ran:?}");
        assert!(ran.err.contains(told), "{ran:?}");
    }
}

#[test]
fn without_a_sandbox_it_says_so_aloud() {
    if !can_run() {
        return;
    }
    let _cores = CORES.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("f"), "letters").unwrap();
    let ran = portal_in(folder.path(), &["demo", "--file", "f", "--no-sandbox"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("WARNING: no sandbox"), "{ran:?}");
}
