//! The programs and files that tests run: of this workspace, of Debian, and an
//! OpenVMM that the environment names.
//!
//! The same list is made in two places: on the host, where missing things are built
//! or fetched, and inside L1, where they are at fixed paths.

use crate::lab::Artifacts;
use crate::lab::Kernel;
use crate::lab::LabError;
use crate::lab::file_error;
use serde::Deserialize;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

/// Where L1 has everything.
pub const INSIDE: &str = "/lab";
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Paths of everything that a test starts or hands to a guest.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Debian's kernel, its modules, busybox, and QEMU.
    pub debian: Artifacts,
    /// The `portal` command.
    pub portal: PathBuf,
    /// The static `portal-guest`.
    pub portal_guest: PathBuf,
    /// Executables with `portal_vmm`'s own tests, by the name that they have in L1.
    pub kvm_tests: Vec<PathBuf>,
    /// OpenVMM, where `PORTAL_OPENVMM` names one.
    pub openvmm: Option<PathBuf>,
    /// DPDK's `igb_uio.ko` for the guests' kernel, where `PORTAL_LAB_IGB_UIO` names one.
    pub igb_uio: Option<PathBuf>,
    /// `portal-lab`, which runs tests inside L1.
    pub lab: PathBuf,
}

impl Programs {
    /// Finds, fetches and builds them on this host, but for `lab`, which is there.
    ///
    /// `PORTAL_STATIC` and `PORTAL_GUEST_STATIC` name a `portal` and a static
    /// `portal-guest` that are there already.
    ///
    /// # Errors
    /// [`LabError::Missing`] for what cannot be had here, [`LabError::Build`] when
    /// cargo fails.
    pub fn on_host(lab: &Path) -> Result<Self, LabError> {
        let debian = Artifacts::prepare()?;
        let portal = portal()?;
        let portal_guest = match named("PORTAL_GUEST_STATIC") {
            Some(path) => path,
            None => build(&["--package=portal_guest_program"], true)?.join("portal-guest"),
        };
        Ok(Self {
            debian,
            portal,
            portal_guest,
            kvm_tests: Vec::new(),
            openvmm: named("PORTAL_OPENVMM"),
            igb_uio: named("PORTAL_LAB_IGB_UIO"),
            lab: lab.to_owned(),
        })
    }

    /// Builds `portal_vmm`'s tests and puts them into `folder`, without what only a
    /// debugger reads.
    ///
    /// # Errors
    /// [`LabError::Build`] when cargo or `strip` fails.
    pub fn with_kvm_tests(mut self, folder: &Path) -> Result<Self, LabError> {
        // The whole workspace, as `cargo test` builds it: nothing is built twice.
        let what = ["test", "--workspace", "--no-run", "--message-format=json"];
        let failed = |why: String| LabError::Build {
            what: what.join(" "),
            why,
        };
        let out = cargo()
            .args(what)
            .args(["--quiet", "--locked"])
            .stderr(Stdio::inherit())
            .output()
            .map_err(|e| failed(e.to_string()))?;
        if !out.status.success() {
            return Err(failed(out.status.to_string()));
        }
        fs::create_dir_all(folder).map_err(file_error(folder))?;
        for line in String::from_utf8_lossy(&out.stdout).lines() {
            let Ok(built) = serde_json::from_str::<Built>(line) else {
                continue;
            };
            let Some(executable) = built.executable else {
                continue;
            };
            if !built
                .target
                .src_path
                .starts_with(source_root().join("portal_vmm"))
            {
                continue;
            }
            let to = folder.join(format!("test-{}", built.target.name));
            let stripped = Command::new("strip")
                .arg("-o")
                .args([&to, &executable])
                .status();
            match stripped {
                Ok(status) if status.success() => self.kvm_tests.push(to),
                Ok(status) => return Err(failed(format!("strip: {status}"))),
                Err(error) => return Err(failed(format!("strip: {error}"))),
            }
        }
        Ok(self)
    }

    /// Where they are inside L1.
    pub fn inside() -> Self {
        let at = |name: &str| Path::new(INSIDE).join(name);
        let kernel = Kernel {
            image: at("kernel"),
            modules: at("modules"),
        };
        Self {
            debian: Artifacts {
                qemu: at("qemu-system-x86_64"),
                kernel: kernel.clone(),
                guest_kernel: kernel,
                busybox: "/bin/busybox".into(),
            },
            portal: at("portal"),
            portal_guest: at("portal-guest"),
            kvm_tests: tests_inside(),
            openvmm: Some(at("openvmm")).filter(|path| path.exists()),
            igb_uio: Some(at("modules/igb_uio.ko")).filter(|path| path.exists()),
            lab: at("portal-lab"),
        }
    }
}

/// The `portal` command: `PORTAL_STATIC`, else built.
///
/// # Errors
/// [`LabError::Build`].
pub fn portal() -> Result<PathBuf, LabError> {
    match named("PORTAL_STATIC") {
        Some(path) => Ok(path),
        None => Ok(build(&["--package=portal"], false)?.join("portal")),
    }
}

/// Cargo's target folder.
pub fn target_folder() -> PathBuf {
    named("CARGO_TARGET_DIR").unwrap_or_else(|| source_root().join("target"))
}

fn named(key: &str) -> Option<PathBuf> {
    let value = std::env::var_os(key).filter(|v| !v.is_empty());
    value.map(PathBuf::from)
}

/// What cargo says of something that it built.
#[derive(Deserialize)]
struct Built {
    target: Target,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    src_path: PathBuf,
}

fn tests_inside() -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(INSIDE).join("tests"));
    let mut found: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// The workspace that this was built from.
fn source_root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(source_root());
    cargo
}

/// Builds binaries in release; returns their folder. A static build has a target
/// folder of its own, because its flags differ from those of every other build.
fn build(what: &[&str], fixed: bool) -> Result<PathBuf, LabError> {
    let target = target_folder();
    let mut cargo = cargo();
    cargo
        .args(["build", "--quiet", "--locked", "--release"])
        .args(what);
    let folder = if fixed {
        let target = target.join("static");
        cargo
            .args(["--target", TARGET, "--target-dir"])
            .arg(&target)
            .env("RUSTFLAGS", "-Ctarget-feature=+crt-static -Cstrip=symbols");
        target.join(TARGET).join("release")
    } else {
        target.join("release")
    };
    let failed = |why: String| LabError::Build {
        what: what.join(" "),
        why,
    };
    let status = cargo.status().map_err(|e| failed(e.to_string()))?;
    match status.success() {
        true => Ok(folder),
        false => Err(failed(status.to_string())),
    }
}

/// The shared libraries that a program needs, with its loader, as `ldd` lists them.
/// Empty for a static program.
pub(crate) fn libraries(program: &Path) -> Vec<PathBuf> {
    let Ok(out) = Command::new("ldd").arg(program).output() else {
        return Vec::new();
    };
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .filter_map(|line| {
            let word = match line.split_once("=>") {
                Some((_, path)) => path,
                None => line,
            };
            word.split_whitespace().next().map(PathBuf::from)
        })
        .filter(|path| path.is_absolute())
        .collect()
}
