//! What the lab needs of Debian: a cloud kernel with its modules, busybox, QEMU.
//!
//! Kernel and busybox are unpacked (not installed) into a cache folder:
//! `PORTAL_LAB_CACHE`, else `$XDG_CACHE_HOME/portal-lab`, else
//! `~/.cache/portal-lab`. QEMU has to be installed; as root the lab does that.
//!
//! `PORTAL_LAB_GUEST_KERNEL` names another kernel package of Debian, which guests run
//! in place of the lab's own: `linux-image-6.12-cloud-amd64`.

use super::LabError;
use super::file_error;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

/// The kernel package that depends on the newest cloud kernel of the release.
const KERNEL: &str = "linux-image-cloud-amd64";
const QEMU: &str = "qemu-system-x86_64";
/// Names the kernel package of guests.
const GUEST_KERNEL: &str = "PORTAL_LAB_GUEST_KERNEL";
/// Compressed modules that one `xz` is given.
const A_BATCH: usize = 500;

/// A kernel of Debian.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// A bzImage.
    pub image: PathBuf,
    /// The folder with its modules (`.ko` files, at any depth) and, where it has
    /// built some of those in, their list (`modules.builtin`).
    pub modules: PathBuf,
}

/// Files of other people that the lab runs on.
#[derive(Debug, Clone)]
pub struct Artifacts {
    /// The QEMU program.
    pub qemu: PathBuf,
    /// What L1 runs.
    pub kernel: Kernel,
    /// What guests run: the same, unless `PORTAL_LAB_GUEST_KERNEL` names another.
    pub guest_kernel: Kernel,
    /// A static busybox.
    pub busybox: PathBuf,
}

/// Whether guests run another kernel than the lab itself.
pub fn has_guest_kernel() -> bool {
    from(GUEST_KERNEL).is_some()
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
        let kernel = unpacked_kernel(KERNEL, &cache, "kernel")?;
        let guest_kernel = match from(GUEST_KERNEL) {
            Some(package) => {
                let package = package.to_string_lossy();
                if !package.starts_with("linux-image-") || package.contains('/') {
                    let what = format!("{GUEST_KERNEL}={package} is no kernel package");
                    return Err(missing(what, "name one as linux-image-6.12-cloud-amd64"));
                }
                unpacked_kernel(&package, &cache, &package)?
            }
            None => kernel.clone(),
        };
        Ok(Self {
            qemu,
            kernel,
            guest_kernel,
            busybox,
        })
    }
}

/// A variable of the environment that says something.
fn from(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|v| !v.is_empty())
}

/// The kernel of a package, unpacked into `cache/name`.
fn unpacked_kernel(package: &str, cache: &Path, name: &str) -> Result<Kernel, LabError> {
    let root = cache.join(name);
    if !root.exists() {
        unpack(&image_package(package)?, cache, name)?;
    }
    Ok(Kernel {
        image: only_entry(&root.join("boot"), "vmlinuz-")?,
        modules: only_entry(&root.join("lib/modules"), "")?,
    })
}

fn cache_folder() -> Result<PathBuf, LabError> {
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

/// The name of the package with the kernel that `package` stands for: the newest of
/// its kind, or itself.
fn image_package(package: &str) -> Result<String, LabError> {
    let depends = || {
        let out = Command::new("apt-cache")
            .args(["depends", package])
            .output();
        let out = out.ok().filter(|out| out.status.success())?;
        let out = String::from_utf8(out.stdout).ok()?;
        let mut words = out.split_whitespace();
        words.next()?;
        let image = words.find(|word| word.starts_with("linux-image-") && *word != package);
        Some(image.unwrap_or(package).to_owned())
    };
    depends()
        .or_else(|| {
            let _ = quiet(Command::new("apt-get").args(["update", "-qq"]));
            depends()
        })
        .ok_or_else(|| missing(format!("no package {package}"), "a Debian host has it"))
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
    decompress_modules(&into)?;
    let target = cache.join(name);
    fs::rename(&into, &target).map_err(file_error(target))
}

/// Replaces compressed modules (`.ko.xz`, from Debian's 6.12 on), which busybox cannot
/// load.
fn decompress_modules(folder: &Path) -> Result<(), LabError> {
    let mut compressed = Vec::new();
    files_below(folder, ".ko.xz", &mut compressed)?;
    for files in compressed.chunks(A_BATCH) {
        if !quiet(Command::new("xz").arg("-d").args(files)) {
            return Err(missing(
                "modules are compressed and cannot be decompressed",
                "apt-get install xz-utils",
            ));
        }
    }
    Ok(())
}

fn files_below(folder: &Path, end: &str, found: &mut Vec<PathBuf>) -> Result<(), LabError> {
    for entry in fs::read_dir(folder).map_err(file_error(folder))?.flatten() {
        let kind = entry.file_type();
        if kind.as_ref().is_ok_and(fs::FileType::is_dir) {
            files_below(&entry.path(), end, found)?;
        } else if entry.file_name().to_string_lossy().ends_with(end) {
            found.push(entry.path());
        }
    }
    Ok(())
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
