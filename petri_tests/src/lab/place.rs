//! Where a test runs, and what it has there.

use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::programs::Programs;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

/// A file system in memory, on any Linux.
const MEMORY: &str = "/dev/shm";

/// What a test has: programs, a folder that is kept, and a time to be done by.
#[derive(Debug)]
pub struct Lab {
    /// What it starts.
    pub programs: Programs,
    /// Its own folder: consoles, logs, configurations.
    pub folder: PathBuf,
    /// A folder with a path that is short enough for sockets.
    pub sockets: PathBuf,
    /// A folder on a file system in memory, gone when the test ends.
    pub memory: tempfile::TempDir,
    /// Every wait ends here.
    pub until: Instant,
    /// Whether this is L1, with a `/dev/kvm` for Linux guests.
    pub inside: bool,
    scratch: tempfile::TempDir,
}

impl Lab {
    /// A test's place, in an empty `folder`.
    ///
    /// # Errors
    /// [`NotPassed::Failed`] when the folder cannot be made.
    pub fn new(programs: Programs, folder: &Path, limit: Duration, inside: bool) -> Passed<Self> {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder).map_err(NotPassed::of_file(folder))?;
        let folder = fs::canonicalize(folder).map_err(NotPassed::of_file(folder))?;
        let scratch = tempfile::Builder::new()
            .prefix("lab")
            .tempdir()
            .map_err(NotPassed::of_file(&std::env::temp_dir()))?;
        Ok(Self {
            programs,
            folder,
            sockets: scratch.path().to_owned(),
            memory: tempfile::tempdir_in(MEMORY).map_err(NotPassed::of_file(Path::new(MEMORY)))?,
            until: Instant::now() + limit,
            inside,
            scratch,
        })
    }

    /// A file that is gone when the test ends: for large things.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Removes what nobody will read: RAM disks.
    pub fn tidy(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|e| e == "initrd") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}
