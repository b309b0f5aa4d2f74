//! A region's memory: one flat memfd for regions that QEMU may join, because it
//! takes one fd; one a section where sections are enforced.
//!
//! Size seals keep a client from truncating it under the others, and a seal on
//! seals keeps it from sealing the others out. In a flat region, that a client writes
//! only its own section is agreement, not mapping: hole punching and stray writes are
//! possible (a flat backing relies on checks alone). A client without the right to
//! write gets an fd that is open for reading only.
//!
//! Memory that is to outlive this process is held by the service manager as well, as
//! it is, seals and all; where there is none that does that, it is in files, which
//! have no seals.

use crate::RegionConfig;
use crate::ServeError;
use crate::state::Folder;
use crate::state::Record;
use crate::state::Records;
use crate::state::allocate;
use crate::state::state_error;
use crate::store;
use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::BackingError;
use hv_shmem::backing::MappedMem;
use hv_shmem::backing::Part;
use hv_shmem::backing::SharedPart;
use hv_shmem::backing::View;
use hv_shmem::backing::fault_guard;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::Layout;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use uuid::Uuid;

/// What holds the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// Memory that is gone with its last holder.
    Sealed,
    /// The same, which the service manager holds as well.
    Stored,
    /// Files in the state folder.
    Files,
}

/// The memory of one region.
#[derive(Debug)]
pub(crate) struct Memory {
    backing: Backing,
    held: Held,
}

/// Memory, the host's pages in it, and what is known of the region's ids.
pub(crate) struct Opened {
    pub(crate) memory: Memory,
    pub(crate) pages: HostPages<MappedMem>,
    /// Where changes are kept, if anywhere.
    pub(crate) records: Option<Records>,
    /// Ids that were used before.
    pub(crate) known: Vec<Record>,
}

impl Memory {
    /// Makes and formats the memory of a region, or takes up what is kept of it.
    /// `stored` is what a service manager kept.
    pub(crate) fn open(
        config: &RegionConfig,
        folder: Option<&Folder>,
        stored: Vec<(Option<Part>, OwnedFd)>,
    ) -> Result<Opened, ServeError> {
        let spec = config.spec()?;
        let kept = match folder {
            Some(folder) => folder.records(&config.name)?,
            None => None,
        };
        let (Some(folder), Some((header, records))) = (folder, kept) else {
            return Self::make(config, folder);
        };
        if header.spec() != spec {
            let found = header.spec();
            return Err(failed(config)(format!(
                "the state in {} has it with {} bytes, {} peers, {} common, sections {}; serve it \
                 like that, or remove {0}",
                folder.file(&format!("{}.*", config.name)).display(),
                found.size,
                found.max_peers,
                found.common,
                if found.sectioned {
                    "enforced"
                } else {
                    "advisory"
                },
            )));
        }
        let held = if stored.is_empty() {
            Held::Files
        } else {
            Held::Stored
        };
        let parts = match held {
            Held::Files => open_files(config, folder, &header.layout)?,
            _ => Some(stored.into_iter().map(shared).collect()),
        };
        // The records outlived the memory: a service manager that kept nothing, or
        // files that somebody removed. The region is a new one.
        let Some(parts) = parts else {
            return Self::make(config, Some(folder));
        };
        let known = records.read(header.layout.max_peers)?;
        let fail = failed(config);
        let backing = Backing::assemble(header.layout.clone(), parts);
        let backing = backing.map_err(|e| fail(e.to_string()))?;
        let this = Self { backing, held };
        let mem = this.map(config)?;
        let pages = HostPages::resume(mem, header, known.iter().map(|record| record.peer))
            .map_err(|e| fail(e.to_string()))?;
        Ok(Opened {
            memory: this,
            pages,
            records: Some(records),
            known,
        })
    }

    fn make(config: &RegionConfig, folder: Option<&Folder>) -> Result<Opened, ServeError> {
        let fail = failed(config);
        let spec = config.spec()?;
        let sealed = || -> Result<Backing, BackingError> {
            let backing = Backing::create(&spec, &BackingConfig::default())?;
            backing.seal_seals()?;
            Ok(backing)
        };
        let (backing, held) = match folder {
            None => (sealed().map_err(|e| fail(e.to_string()))?, Held::Sealed),
            Some(_) if store::is_there() => {
                let backing = sealed().map_err(|e| fail(e.to_string()))?;
                for piece in backing.held() {
                    let fd = backing.share_piece(piece, true);
                    let fd = fd.map_err(|e| fail(e.to_string()))?;
                    store::keep(&config.name, piece, &fd)?;
                }
                (backing, Held::Stored)
            }
            Some(folder) => {
                let layout = Layout::compute(&spec).map_err(|e| fail(e.to_string()))?;
                let parts = make_files(config, folder, &layout)?;
                let backing = Backing::assemble(layout, parts);
                (backing.map_err(|e| fail(e.to_string()))?, Held::Files)
            }
        };
        let this = Self { backing, held };
        let pages = HostPages::format(this.map(config)?, &spec, fresh_uuid()?)
            .map_err(|e| fail(e.to_string()))?;
        // Last: without records the files are remains.
        let records = match folder {
            Some(folder) => Some(folder.make_records(pages.header())?),
            None => None,
        };
        Ok(Opened {
            memory: this,
            pages,
            records,
            known: Vec::new(),
        })
    }

    /// Maps what the host writes.
    fn map(&self, config: &RegionConfig) -> Result<MappedMem, ServeError> {
        let fail = failed(config);
        if self.held == Held::Files {
            // A file has no seals: who truncates it spoils this region, not this
            // process.
            fault_guard::install().map_err(|e| fail(e.to_string()))?;
        }
        let view = View {
            host_pages: true,
            ..View::OBSERVER
        };
        let mapping = self.backing.map(view).map_err(|e| fail(e.to_string()))?;
        Ok(mapping.mem())
    }

    /// Whether a peer that may write may truncate it as well.
    pub(crate) fn is_unsealed(&self) -> bool {
        self.held == Held::Files
    }

    /// What holds the bytes, for people.
    pub(crate) fn describe(&self) -> String {
        let held = match self.held {
            Held::Sealed => "sealed memory",
            Held::Stored => "sealed memory, kept by the service manager",
            Held::Files => "files in the state folder",
        };
        let shape = if self.backing.is_sectioned() {
            "one descriptor a section"
        } else {
            "one descriptor"
        };
        format!("{held}, {shape}")
    }

    /// The fd that clients of the compatibility socket get.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.backing.part_fd(Part::HostPages).ok().map(|(fd, _)| fd)
    }

    /// The pieces that have an fd.
    pub(crate) fn pieces(&self) -> Vec<Option<Part>> {
        self.backing.held().collect()
    }

    /// An fd of a piece, to be sent.
    pub(crate) fn piece(&self, piece: Option<Part>, write: bool) -> Result<OwnedFd, Errno> {
        self.backing
            .share_piece(piece, write)
            .map_err(|error| match error {
                BackingError::Io { source, .. } => {
                    Errno::from_io_error(&source).unwrap_or(Errno::IO)
                }
                _ => Errno::BADF,
            })
    }
}

fn failed(config: &RegionConfig) -> impl Fn(String) -> ServeError + use<> {
    let name = config.name;
    move |reason| ServeError::Region { name, reason }
}

fn shared((part, fd): (Option<Part>, OwnedFd)) -> SharedPart {
    SharedPart {
        part,
        writable: true,
        fd,
    }
}

/// The pieces of a region's memory, with their bytes.
fn pieces_of(config: &RegionConfig, layout: &Layout) -> Vec<(Option<Part>, u64)> {
    if !config.sectioned {
        return vec![(None, layout.size)];
    }
    let len = |range: &std::ops::Range<u64>| range.end - range.start;
    let host = (Some(Part::HostPages), len(&layout.host));
    let common = (Some(Part::Common), len(&layout.common));
    let sections = layout.peers();
    let sections = sections.map(|peer| (Some(Part::Section(peer)), layout.section_size));
    let all = [host, common].into_iter().chain(sections);
    all.filter(|(_, len)| *len > 0).collect()
}

fn file_of(config: &RegionConfig, folder: &Folder, piece: Option<Part>) -> PathBuf {
    let name = config.name;
    folder.file(&match piece {
        Some(piece) => format!("{name}.memory.{}", store::word(piece)),
        None => format!("{name}.memory"),
    })
}

fn make_files(
    config: &RegionConfig,
    folder: &Folder,
    layout: &Layout,
) -> Result<Vec<SharedPart>, ServeError> {
    let mut parts = Vec::new();
    for (piece, len) in pieces_of(config, layout) {
        let path = file_of(config, folder, piece);
        match rustix::fs::unlink(&path) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(state_error(&path, "remove")(errno)),
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = rustix::fs::open(&path, flags, mode).map_err(state_error(&path, "make"))?;
        allocate(&fd, len).map_err(state_error(&path, "allocate"))?;
        parts.push(shared((piece, fd)));
    }
    Ok(parts)
}

/// `None` when one is missing.
fn open_files(
    config: &RegionConfig,
    folder: &Folder,
    layout: &Layout,
) -> Result<Option<Vec<SharedPart>>, ServeError> {
    let mut parts = Vec::new();
    for (piece, _) in pieces_of(config, layout) {
        let path = file_of(config, folder, piece);
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => parts.push(shared((piece, fd))),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(state_error(&path, "open")(errno)),
        }
    }
    Ok(Some(parts))
}

fn fresh_uuid() -> Result<Uuid, ServeError> {
    let mut bytes = [0; 16];
    let flags = rustix::rand::GetRandomFlags::empty();
    // So few bytes come whole (getrandom(2)).
    rustix::rand::getrandom(&mut bytes, flags).map_err(ServeError::os("get random bytes"))?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}
