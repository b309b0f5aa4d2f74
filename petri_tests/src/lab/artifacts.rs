//! What the lab needs of Debian: a cloud kernel with its modules, busybox, QEMU.
//!
//! Kernel and busybox are unpacked (not installed) into a cache folder:
//! `PORTAL_LAB_CACHE`, else `$XDG_CACHE_HOME/portal-lab`, else
//! `~/.cache/portal-lab`. QEMU has to be installed; as root the lab does that.

use super::LabError;
use super::file_error;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

/// The kernel package that depends on the newest cloud kernel.
const KERNEL: &str = "linux-image-cloud-amd64";
const QEMU: &str = "qemu-system-x86_64";

/// Files of other people that the lab runs on.
#[derive(Debug, Clone)]
pub struct Artifacts {
    /// The QEMU program.
    pub qemu: PathBuf,
    /// A bzImage.
    pub kernel: PathBuf,
    /// The folder with that kernel's modules (`.ko` files, at any depth).
    pub modules: PathBuf,
    /// A static busybox.
    pub busybox: PathBuf,
}

impl Artifacts {
    /// Finds everything, getting what is missing from Debian.
    ///
    /// # Errors
    /// [`LabError::Missing`] when something cannot be had here.
    pub fn prepare() -> Result<Self, LabError> {
        let cache = cache_folder()?;
        fs::create_dir_all(&cache).map_err(file_error(&cache))?;
        // One process at a time: tests run side by side.
        let lock = fs::File::create(cache.join("lock")).map_err(file_error(&cache))?;
        lock.lock().map_err(file_error(&cache))?;

        let qemu = qemu()?;
        let busybox = cache.join("busybox/bin/busybox");
        if !busybox.exists() {
            unpack("busybox-static", &cache, "busybox")?;
        }
        let kernel_root = cache.join("kernel");
        if !kernel_root.exists() {
            unpack(&newest_kernel()?, &cache, "kernel")?;
        }
        let kernel = only_entry(&kernel_root.join("boot"), "vmlinuz-")?;
        let modules = only_entry(&kernel_root.join("lib/modules"), "")?;
        Ok(Self {
            qemu,
            kernel,
            modules,
            busybox,
        })
    }
}

fn cache_folder() -> Result<PathBuf, LabError> {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    if let Some(folder) = from("PORTAL_LAB_CACHE") {
        return Ok(folder.into());
    }
    if let Some(folder) = from("XDG_CACHE_HOME") {
        return Ok(Path::new(&folder).join("portal-lab"));
    }
    match from("HOME") {
        Some(home) => Ok(Path::new(&home).join(".cache/portal-lab")),
        None => Err(missing(
            "no cache folder (HOME is not set)",
            "set PORTAL_LAB_CACHE",
        )),
    }
}

fn missing(what: impl Into<String>, remedy: &str) -> LabError {
    LabError::Missing {
        what: what.into(),
        remedy: remedy.to_owned(),
    }
}

fn qemu() -> Result<PathBuf, LabError> {
    if let Some(found) = in_path(QEMU) {
        return Ok(found);
    }
    let _ = quiet(Command::new("apt-get").args(["update", "-qq"]));
    let _ = quiet(
        Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .arg("qemu-system-x86")
            .env("DEBIAN_FRONTEND", "noninteractive"),
    );
    in_path(QEMU).ok_or_else(|| missing(format!("no {QEMU}"), "apt-get install qemu-system-x86"))
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// The name of the package that holds the newest cloud kernel.
fn newest_kernel() -> Result<String, LabError> {
    let depends = || {
        let out = Command::new("apt-cache").args(["depends", KERNEL]).output();
        let out = String::from_utf8(out.ok()?.stdout).ok()?;
        out.split_whitespace()
            .find(|word| word.starts_with("linux-image-") && *word != KERNEL)
            .map(str::to_owned)
    };
    depends()
        .or_else(|| {
            let _ = quiet(Command::new("apt-get").args(["update", "-qq"]));
            depends()
        })
        .ok_or_else(|| missing(format!("no package {KERNEL}"), "a Debian host has it"))
}

/// Downloads a package and unpacks it into `cache/name`, whole or not at all.
fn unpack(package: &str, cache: &Path, name: &str) -> Result<(), LabError> {
    let scratch = tempfile::tempdir_in(cache).map_err(file_error(cache))?;
    let download = || {
        quiet(
            Command::new("apt-get")
                .args(["download", "-qq", package])
                .current_dir(&scratch),
        )
    };
    if !download() {
        let _ = quiet(Command::new("apt-get").args(["update", "-qq"]));
        if !download() {
            return Err(missing(
                format!("package {package} cannot be downloaded"),
                "check `apt-get download` by hand",
            ));
        }
    }
    let deb = only_entry(scratch.path(), package)?;
    let into = scratch.path().join("unpacked");
    if !quiet(Command::new("dpkg").arg("-x").arg(&deb).arg(&into)) {
        return Err(missing(
            format!("{} cannot be unpacked", deb.display()),
            "check `dpkg -x` by hand",
        ));
    }
    let target = cache.join(name);
    fs::rename(&into, &target).map_err(file_error(target))
}

/// The one entry of `folder` whose name starts with `prefix` and is not a folder
/// beside the file looked for.
fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf, LabError> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(file_error(folder))?
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(prefix))
        .map(|e| e.path())
        .collect();
    found.sort();
    found.pop().ok_or_else(|| {
        missing(
            format!("{} has no {prefix}*", folder.display()),
            "remove the cache folder",
        )
    })
}

fn quiet(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}
