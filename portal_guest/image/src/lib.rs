//! Turns a WARP agent crate into the flat image that `portal_vmm` boots, from a
//! build script:
//!
//! ```no_run
//! // In build.rs of the program that starts the partition; `agent` is a folder
//! // with a crate that has `portal_warp::entry!(..)` in it.
//! let image = portal_warp_image::Agent::new("agent/Cargo.toml")
//!     .build()
//!     .unwrap_or_else(|error| panic!("{error}"));
//! println!("cargo::rustc-env=AGENT_IMAGE={}", image.display());
//! // And in the program: static AGENT: &[u8] = include_bytes!(env!("AGENT_IMAGE"));
//! ```
//!
//! Steps: `cargo rustc --crate-type staticlib` for the crate (own target folder
//! inside `OUT_DIR`, so that the outer build's locks are not met), the C compiler
//! as linker with this crate's linker script, then [`flat`]. Needs nothing but
//! Rust's own target and gcc or clang with GNU ld (`CC` names another one).
//!
//! Trust: this runs in a build and trusts its inputs. Left out: images of more
//! than 3 MiB, dynamic linking, thread-local storage.

mod build;
mod flat;

pub use build::Agent;
pub use flat::flat;

use std::path::PathBuf;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// An environment variable that Cargo sets for build scripts is missing.
    #[error("{0} is not set: call this from a build script, or set every folder yourself")]
    Environment(&'static str),
    /// A file or folder could not be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A program could not be started.
    #[error("cannot run `{program}`: {error}; the image needs Cargo and a C compiler as linker")]
    Program {
        /// The program.
        program: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// A program ran and failed.
    #[error("`{command}` failed ({status}):\n{output}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        output: String,
    },
    /// The crate was built but its static library is not where it must be.
    #[error("{} was built without a static library {}", manifest.display(), library.display())]
    Library {
        /// The crate's manifest.
        manifest: PathBuf,
        /// The file that is missing.
        library: PathBuf,
    },
    /// The linked file is not an ELF64 image made with this linker script.
    #[error("the linked file is no WARP image: {0}")]
    Layout(String),
}
