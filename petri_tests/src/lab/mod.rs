//! The lab: a stock Debian machine under QEMU's TCG, whose emulated SVM gives it a
//! full `/dev/kvm` with nested paging ("L1"). What runs in it are ordinary static
//! programs of this workspace, and the guests that those start ("L2").
//!
//! Clocks under TCG mean nothing: the lab proves behaviour, not speed.
//!
//! Nothing is downloaded into the source tree: [`Artifacts`] keeps Debian's kernel
//! and busybox in a cache folder.

mod artifacts;
mod emulator;
mod initramfs;
mod machine;
mod modules;
mod place;
mod stand_in;

pub use artifacts::Artifacts;
pub use artifacts::Kernel;
pub use artifacts::has_guest_kernel;
pub use initramfs::Initramfs;
pub use machine::Job;
pub use machine::JobResult;
pub use machine::Machine;
pub use machine::MachineReport;
pub use modules::BUILT_IN;
pub use modules::in_load_order;
pub use place::Lab;
pub use stand_in::stand_in;

use std::path::PathBuf;

/// Why the lab cannot run, or did not.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The host lacks something that the lab could not get for itself. Tests say
    /// so on one line and are skipped.
    #[error("the lab cannot run here: {what}; {remedy}")]
    Missing {
        /// What is not there.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A kernel module is not in the package, or is no ELF file.
    #[error("kernel module {name}: {why}")]
    Module {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A program of this workspace does not build.
    #[error("cargo build {what}: {why}")]
    Build {
        /// What was to be built.
        what: String,
        /// How cargo ended.
        why: String,
    },
    /// The machine ended before its jobs did: its kernel died, or its emulator.
    #[error("the machine ended before its jobs did; its console: {console}")]
    Died {
        /// Where its console's output is.
        console: PathBuf,
    },
    /// The machine stood still: no job wrote anything any more.
    #[error("the machine stood still; its console: {console}, and where its CPUs were beside it")]
    Still {
        /// Where its console's output is.
        console: PathBuf,
    },
    /// The machine did not end in time, or failed.
    #[error("{what}; its console: {console}")]
    Machine {
        /// What happened.
        what: String,
        /// Where its console's output is.
        console: PathBuf,
    },
}

impl LabError {
    /// What happened to a machine, without where it is told.
    pub fn short(&self) -> String {
        match self {
            Self::Died { .. } => "it died".to_owned(),
            Self::Still { .. } => "it stood still".to_owned(),
            Self::Machine { what, .. } => what.clone(),
            other => other.to_string(),
        }
    }

    /// Whether this host cannot run the lab at all (and the test is skipped).
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

pub(crate) fn file_error(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> LabError {
    let path = path.into();
    move |source| LabError::File { path, source }
}
