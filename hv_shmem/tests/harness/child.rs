//! Running a test's dangerous half in a process of its own.

use std::process::Child;
use std::process::Command;
use std::process::Stdio;

/// Starts the ignored test `child` of this same executable with `job` in its
/// environment.
pub(crate) fn spawn(job: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("PORTAL_CHILD", job)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The job of this process, when it is a child.
pub(crate) fn job() -> Option<String> {
    std::env::var("PORTAL_CHILD").ok()
}
