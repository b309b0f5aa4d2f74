//! An initial RAM file system: files, folders and links in a "newc" archive.

use super::LabError;
use super::file_error;
use cpio::newc::Builder;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// What will be in the archive, in order.
#[derive(Debug, Default, Clone)]
pub struct Initramfs {
    entries: Vec<(String, u32, Vec<u8>)>,
    folders: BTreeSet<String>,
}

impl Initramfs {
    /// With busybox and a link to it for each of its commands that scripts of the
    /// lab use, and the usual empty folders.
    ///
    /// # Errors
    /// [`LabError::File`] when busybox cannot be read.
    pub fn with_busybox(busybox: &Path) -> Result<Self, LabError> {
        let mut this = Self::default();
        for folder in ["dev", "proc", "sys", "tmp", "root", "run", "mnt"] {
            this.folder(folder);
        }
        this.copy("bin/busybox", busybox)?;
        Ok(this)
    }

    /// A folder, with its parents.
    pub fn folder(&mut self, path: &str) {
        if path.is_empty() || !self.folders.insert(path.to_owned()) {
            return;
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
        self.entries.push((path.to_owned(), FOLDER, Vec::new()));
    }

    /// An executable file with these bytes.
    pub fn file(&mut self, path: &str, bytes: impl Into<Vec<u8>>) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
        self.entries.push((path.to_owned(), PROGRAM, bytes.into()));
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.entries.push((path.to_owned(), LINK, target.into()));
    }

    /// A copy of a file of the host.
    ///
    /// # Errors
    /// [`LabError::File`] when it cannot be read.
    pub fn copy(&mut self, path: &str, from: &Path) -> Result<(), LabError> {
        let bytes = fs::read(from).map_err(file_error(from))?;
        self.file(path, bytes);
        Ok(())
    }

    /// As [`Self::copy`], unless something is at `path` already.
    ///
    /// # Errors
    /// As [`Self::copy`].
    pub fn copy_once(&mut self, path: &str, from: &Path) -> Result<(), LabError> {
        match self.entries.iter().any(|entry| entry.0 == path) {
            true => Ok(()),
            false => self.copy(path, from),
        }
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// [`LabError::File`].
    pub fn write(&self, to: &Path) -> Result<(), LabError> {
        let mut out = Vec::new();
        let result = (|| {
            // Folders first: the kernel creates no parents.
            let (folders, others): (Vec<_>, Vec<_>) =
                self.entries.iter().partition(|e| e.1 == FOLDER);
            let mut folders = folders;
            folders.sort();
            for (inode, (path, mode, bytes)) in folders.into_iter().chain(others).enumerate() {
                let inode = u32::try_from(inode + 1).unwrap_or(u32::MAX);
                let len = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
                let header = Builder::new(path).ino(inode).mode(*mode);
                let mut writer = header.write(&mut out, len);
                writer.write_all(bytes)?;
                writer.finish()?;
            }
            cpio::newc::trailer(&mut out)?;
            fs::write(to, &out)
        })();
        result.map_err(file_error(to))
    }
}
