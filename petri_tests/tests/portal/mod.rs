//! The `portal` program that the lab's machine gets.

use std::path::PathBuf;
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A `portal` that needs no library: the lab's machine has none. `PORTAL_STATIC`
/// names one; without it, it is built here.
pub(crate) fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("PORTAL_STATIC") {
        return path.into();
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    // A target folder of its own: this runs while another build may hold the lock.
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("static");
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--package=portal",
        ])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target)
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .current_dir(root)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "cargo build ended with {status}");
    target.join(TARGET).join("release/portal")
}
