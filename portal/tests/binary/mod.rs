//! Running the real `portal` binary, shared by the tests of its commands.

use std::path::Path;
use std::process::Command;
use std::process::Output;

/// What a run of the binary said and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Exit code; -1 when a signal ended it.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs `portal` with `args` in `folder`.
pub(crate) fn portal_in(folder: &Path, args: &[&str]) -> Ran {
    Command::new(env!("CARGO_BIN_EXE_portal"))
        .args(args)
        .current_dir(folder)
        .output()
        .expect("the binary starts")
        .into()
}
