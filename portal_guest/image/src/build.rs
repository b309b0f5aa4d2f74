//! Runs Cargo for the agent crate, then the linker.

use crate::ImageError;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// The one target that WARP is for.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const SCRIPT: &str = include_str!("../link.ld");
/// For the crate itself and everything that is linked with it; build scripts and
/// procedural macros on the way are not touched, since the target is named.
const RUST_FLAGS: [&str; 4] = [
    "--cfg=warp_image",
    "-Cpanic=abort",
    "-Crelocation-model=static",
    "-Cforce-unwind-tables=no",
];

/// An agent crate, on its way to an image.
#[derive(Debug, Clone)]
pub struct Agent {
    manifest: PathBuf,
    features: Vec<String>,
    folder: Option<PathBuf>,
}

impl Agent {
    /// The crate with this `Cargo.toml`, relative to the package whose build
    /// script runs.
    pub fn new(manifest: impl Into<PathBuf>) -> Self {
        Self {
            manifest: manifest.into(),
            features: Vec::new(),
            folder: None,
        }
    }

    /// Turns a feature of the crate on.
    pub fn feature(mut self, name: impl Into<String>) -> Self {
        self.features.push(name.into());
        self
    }

    /// Builds in this folder instead of `OUT_DIR`.
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Builds the image and gives its path. Tells Cargo which files to watch.
    ///
    /// # Errors
    /// [`ImageError`] with the command that failed and what it said.
    pub fn build(&self) -> Result<PathBuf, ImageError> {
        let folder = match &self.folder {
            Some(folder) => folder.clone(),
            None => variable("OUT_DIR")?,
        };
        let manifest = if self.manifest.is_absolute() {
            self.manifest.clone()
        } else {
            variable("CARGO_MANIFEST_DIR")?.join(&self.manifest)
        };
        let text = read(&manifest)?;
        let name = library_name(&String::from_utf8_lossy(&text)).ok_or_else(|| {
            ImageError::Layout(format!("{}: no package name", manifest.display()))
        })?;
        let library = self.compile(&manifest, &folder, &name)?;
        let linked = link(&library, &folder, &name)?;
        let image = crate::flat(&read(&linked)?)?;
        let path = folder.join(format!("{name}.img"));
        write(&path, &image)?;
        // Only build scripts get this variable; elsewhere nobody reads directives.
        if std::env::var_os("CARGO_CFG_TARGET_ARCH").is_some() {
            watch(&manifest, &library.with_extension("d"))?;
        }
        Ok(path)
    }

    fn compile(&self, manifest: &Path, folder: &Path, name: &str) -> Result<PathBuf, ImageError> {
        let target = folder.join("warp");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .args(["rustc", "--lib", "--crate-type", "staticlib", "--release"])
            .args([
                "--target",
                TARGET,
                "--config",
                "profile.release.panic='abort'",
            ])
            .arg("--manifest-path")
            .arg(manifest)
            .arg("--target-dir")
            .arg(&target);
        if !self.features.is_empty() {
            command.arg("--features").arg(self.features.join(","));
        }
        // The outer build's flags, wrappers (clippy) and profile are for the host.
        for key in [
            "RUSTFLAGS",
            "CARGO_BUILD_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET_DIR",
            "RUSTC_WORKSPACE_WRAPPER",
            "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
            "CARGO_PRIMARY_PACKAGE",
            "CLIPPY_ARGS",
            "CLIPPY_CONF_DIR",
            "RUSTC",
            "RUSTDOC",
            "TARGET",
            "PROFILE",
            "OPT_LEVEL",
            "DEBUG",
        ] {
            command.env_remove(key);
        }
        command.env("CARGO_ENCODED_RUSTFLAGS", RUST_FLAGS.join("\u{1f}"));
        run(command)?;
        let library = target
            .join(TARGET)
            .join("release")
            .join(format!("lib{name}.a"));
        if !library.is_file() {
            return Err(ImageError::Library {
                manifest: manifest.into(),
                library,
            });
        }
        Ok(library)
    }
}

fn link(library: &Path, folder: &Path, name: &str) -> Result<PathBuf, ImageError> {
    let script = folder.join("warp.ld");
    write(&script, SCRIPT.as_bytes())?;
    let linked = folder.join(format!("{name}.elf"));
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(compiler);
    command
        .args(["-nostdlib", "-nostartfiles", "-static", "-no-pie"])
        .args(["-Wl,--gc-sections", "-Wl,--build-id=none"])
        .args(["-Wl,-z,noexecstack", "-Wl,-z,norelro"])
        .arg("-T")
        .arg(&script)
        .arg("-o")
        .arg(&linked)
        .arg(library);
    run(command)?;
    Ok(linked)
}

/// Tells Cargo to run the build script again when a file changes that the image
/// is made of: what the compiler listed, or the crate's folder.
fn watch(manifest: &Path, listed: &Path) -> Result<(), ImageError> {
    println!("cargo::rerun-if-env-changed=CC");
    println!("cargo::rerun-if-changed={}", manifest.display());
    let text = read(listed)?;
    let text = String::from_utf8_lossy(&text);
    let files = text
        .lines()
        .filter_map(|line| line.split_once(".a: "))
        .flat_map(|(_, files)| split_escaped(files));
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    Ok(())
}

/// Splits at spaces that no backslash stands before, as Cargo's `.d` files have it.
fn split_escaped(files: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut chars = files.chars();
    while let Some(c) = chars.next() {
        match (c, out.last_mut()) {
            ('\\', Some(last)) => last.extend(chars.next()),
            (' ', _) => out.push(String::new()),
            (c, Some(last)) => last.push(c),
            (_, None) => {}
        }
    }
    out.retain(|file| !file.is_empty());
    out
}

/// The name of a package's library: `[lib] name`, else `[package] name`, with
/// underscores.
fn library_name(manifest: &str) -> Option<String> {
    let mut section = "";
    let mut package = None;
    let mut library = None;
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if let Some((key, value)) = line.split_once('=')
            && key.trim() == "name"
        {
            let value = value.trim().trim_matches('"').replace('-', "_");
            match section {
                "[package]" => package = Some(value),
                "[lib]" => library = Some(value),
                _ => {}
            }
        }
    }
    library.or(package)
}

fn run(mut command: Command) -> Result<(), ImageError> {
    let output = command.output().map_err(|error| ImageError::Program {
        program: command.get_program().to_string_lossy().into_owned(),
        error,
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(ImageError::Failed {
        command: format!("{command:?}"),
        status: output.status,
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn variable(name: &'static str) -> Result<PathBuf, ImageError> {
    std::env::var_os(name)
        .map(PathBuf::from)
        .ok_or(ImageError::Environment(name))
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    std::fs::read(path).map_err(|error| ImageError::File {
        path: path.into(),
        error,
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    std::fs::write(path, bytes).map_err(|error| ImageError::File {
        path: path.into(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn library_name_follows_cargo() {
        let plain = "[package]\nname = \"my-agent\"\n[dependencies]\nname = \"x\"\n";
        assert_eq!(library_name(plain).as_deref(), Some("my_agent"));
        let named = "[lib]\nname = \"other\"\n[package]\nname = \"my-agent\"\n";
        assert_eq!(library_name(named).as_deref(), Some("other"));
        assert_eq!(library_name("[dependencies]\n"), None);
    }

    #[test]
    fn listed_files_may_have_spaces() {
        assert_eq!(split_escaped("/a /b\\ c  /d"), ["/a", "/b c", "/d"]);
    }

    #[test]
    fn a_missing_crate_is_an_error_that_names_it() {
        let error = Agent::new("/nowhere/Cargo.toml")
            .folder("/tmp")
            .build()
            .unwrap_err();
        assert!(error.to_string().contains("/nowhere/Cargo.toml"), "{error}");
    }
}
