//! `portal region`: file-backed regions from the command line.

mod check;
mod create;
mod show;

use crate::cli;
use crate::exit::Failure;
use crate::exit::Kind;
use crate::exit::Outcome;
use hv_shmem::backing::BackingError;
use hv_shmem::region::RegionError;

/// Carries out a `portal region` command.
///
/// # Errors
/// [`Kind::Input`] for a file that is not there or holds no region, [`Kind::Host`]
/// for a host without room, [`Kind::Region`] for a region that breaks an
/// invariant.
pub(crate) fn run(command: &cli::Region) -> Outcome {
    match command {
        cli::Region::Create(args) => create::run(args),
        cli::Region::Show { path, json } => show::run(path, *json),
        cli::Region::Check { path, repair, json } => check::run(path, *repair, *json),
    }
}

/// What kind of failure a backing's is.
pub(crate) fn failure(error: &BackingError) -> Failure {
    let kind = match error {
        BackingError::Io { source, .. } => match source.kind() {
            std::io::ErrorKind::StorageFull
            | std::io::ErrorKind::QuotaExceeded
            | std::io::ErrorKind::FileTooLarge => Kind::Host,
            _ => Kind::Input,
        },
        BackingError::HugePages { .. } | BackingError::TooManyMappings { .. } => Kind::Host,
        BackingError::Truncated { .. } | BackingError::Faulted { .. } => Kind::Region,
        BackingError::Region {
            source: RegionError::Header(_),
            ..
        } => Kind::Region,
        _ => Kind::Input,
    };
    Failure::new(kind, error)
}
