//! Running a test's dangerous half in a process of its own.

use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;

/// Runs the ignored test `child` of this same executable with `job` in its
/// environment.
#[expect(clippy::allow_attributes, reason = "each test file uses its part")]
#[allow(dead_code)]
pub(crate) fn run(job: &str) -> ExitStatus {
    spawn(job).wait().unwrap()
}

/// Starts it.
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
