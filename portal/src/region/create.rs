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
use hv_shmem::backing::Storage;
use hv_shmem::backing::View;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::Layout;
use hv_shmem::layout::LayoutError;
use hv_shmem::layout::RegionSpec;
use hv_shmem::name::Name;
use std::io::Read as _;
use std::path::Path;
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
    if args.force {
        remove(path)?;
    }
    let config = BackingConfig {
        storage: Storage::File(path.clone()),
        ..BackingConfig::default()
    };
    let backing = Backing::create(&spec, &config).map_err(|e| {
        let failure = failure(&e);
        match path.exists() && !args.force {
            true => failure.hint("choose another path, or replace the file with --force"),
            false => failure,
        }
    })?;
    let formatted = format(&backing, &spec);
    if formatted.is_err() {
        // A file that no one could attach to helps nobody.
        let _ = std::fs::remove_file(path);
    }
    formatted?;
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

fn remove(path: &Path) -> Outcome {
    let input = |what: String| Failure::new(Kind::Input, what);
    match std::fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(found) if !found.is_file() => Err(input(format!(
            "{} is no file; --force replaces only files",
            path.display()
        ))),
        Ok(_) => std::fs::remove_file(path)
            .map_err(|e| input(format!("cannot replace {}: {e}", path.display()))),
    }
}

/// A random UUID (RFC 9562, version 4).
pub(crate) fn new_uuid() -> Result<Uuid, Failure> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(|e| Failure::new(Kind::Host, format!("cannot read /dev/urandom: {e}")))?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}
