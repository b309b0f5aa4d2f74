//! `portal region create`: a file with an empty region in it.

use super::failure;
use crate::cli;
use crate::exit::Failure;
use crate::exit::Kind;
use crate::exit::Outcome;
use crate::print;
use bytesize::ByteSize;
use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::BackingError;
use hv_shmem::backing::Storage;
use hv_shmem::backing::View;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::Layout;
use hv_shmem::layout::LayoutError;
use hv_shmem::layout::RegionSpec;
use hv_shmem::name::Name;
use std::fs::File;
use std::fs::TryLockError;
use std::io::Read as _;
use std::path::Path;
use std::path::PathBuf;
use uuid::Uuid;

/// Makes the file, formats it and writes it out.
///
/// # Errors
/// [`Kind::Usage`] names the option that cannot be, [`Kind::Input`] a path that
/// cannot be written, [`Kind::Host`] a disk without room.
pub(super) fn run(args: &cli::RegionCreate) -> Outcome {
    let path = &args.path;
    let spec = RegionSpec::new(name(args)?, args.size, args.peers)
        .common(args.common)
        .durable(true);
    let layout = Layout::compute(&spec).map_err(|e| usage(&e))?;
    // With --force it is made beside the old one, which stays if that fails.
    let place = match args.force {
        true => beside(path)?,
        false => path.clone(),
    };
    let config = BackingConfig {
        storage: Storage::File(place.clone()),
        ..BackingConfig::default()
    };
    let backing = Backing::create(&spec, &config).map_err(|e| not_made(&e, args))?;
    let made = format(&backing, &spec).and_then(|()| match args.force {
        true => std::fs::rename(&place, path).map_err(|e| cannot_replace(path, &e)),
        false => Ok(()),
    });
    if made.is_err() {
        // A file that no one could attach to helps nobody.
        let _ = std::fs::remove_file(&place);
    }
    made?;
    let section = ByteSize(layout.section_size).display().iec();
    print::line(format!(
        "{}: region {} of {}, {} peers with {section} each",
        path.display(),
        spec.name,
        ByteSize(spec.size).display().iec(),
        spec.max_peers,
    ));
    Ok(())
}

fn format(backing: &Backing, spec: &RegionSpec) -> Outcome {
    let mapping = backing.map(View::OWNER).map_err(|e| failure(&e))?;
    HostPages::format(mapping.mem(), spec, new_uuid()?)
        .map_err(|e| Failure::new(Kind::Failed, e))?;
    backing.sync().map_err(|e| failure(&e))
}

fn usage(error: &LayoutError) -> Failure {
    let failure = Failure::new(Kind::Usage, error);
    match error {
        LayoutError::Size { .. } => failure.hint("sizes: 64KiB, 1MiB, 64MiB, 1GiB, ..."),
        LayoutError::Sections { .. } => failure.hint("give it fewer --peers or more --size"),
        _ => failure,
    }
}

/// The name given, or one made of the file's.
fn name(args: &cli::RegionCreate) -> Result<Name, Failure> {
    if let Some(name) = &args.name {
        return Name::new(name).map_err(|e| Failure::new(Kind::Usage, format!("--name: {e}")));
    }
    let stem = args.path.file_stem().unwrap_or_default().to_string_lossy();
    let plain: String = stem
        .chars()
        .filter(char::is_ascii_graphic)
        .take(hv_shmem::name::NAME_BYTES)
        .collect();
    Name::new(&plain).map_err(|_| {
        let what = format!("{} gives no name for the region", args.path.display());
        Failure::new(Kind::Usage, what).hint("give it one: --name shared")
    })
}

fn not_made(error: &BackingError, args: &cli::RegionCreate) -> Failure {
    let path = args.path.display();
    let failure = failure(error);
    if failure.kind == Kind::Host {
        let size = ByteSize(args.size).display().iec();
        let what = format!("{path}: no room for a region of {size}: {error}");
        return Failure::new(Kind::Host, what)
            .hint("free some, give it less --size, or another path");
    }
    match args.path.exists() && !args.force {
        true => failure.hint("choose another path, or replace the file with --force"),
        false => failure,
    }
}

fn cannot_replace(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        Kind::Input,
        format!("cannot replace {}: {why}", path.display()),
    )
}

/// Where the new file is made that is to replace `path`, which must be a file that
/// nobody hosts, or nothing.
fn beside(path: &Path) -> Result<PathBuf, Failure> {
    match std::fs::symlink_metadata(path) {
        Err(_) => {}
        Ok(found) if !found.is_file() => {
            return Err(cannot_replace(path, &"it is no file"));
        }
        Ok(_) => {
            let old = File::open(path).map_err(|e| cannot_replace(path, &e))?;
            if matches!(old.try_lock(), Err(TryLockError::WouldBlock)) {
                let why = "another process hosts or checks the region in it";
                return Err(cannot_replace(path, &why).hint("stop that process first"));
            }
        }
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(path.with_file_name(format!(".{name}.{}", std::process::id())))
}

/// A random UUID (RFC 9562, version 4).
pub(crate) fn new_uuid() -> Result<Uuid, Failure> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(|e| Failure::new(Kind::Host, format!("cannot read /dev/urandom: {e}")))?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}
