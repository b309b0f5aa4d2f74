//! Backings: the kernel objects that hold a region's bytes, and their mappings.
//!
//! | storage | shapes | who may spoil it, and what stands against that |
//! |---|---|---|
//! | memfd | flat, sectioned | size seals from the start; write seals once the owner has mapped |
//! | huge pages | flat, sectioned | as memfd; pages are reserved when mapped, never `MAP_NORESERVE` |
//! | file | flat | cannot be sealed: locked by its host, blocks allocated at creation, truncation detected ([`Backing::check`]) and contained ([`fault_guard`]) |
//! | device memory | flat | the VMM that gave the device: [`Backing::open_device`] |
//!
//! A *sectioned* backing has one fd for the host pages, one for the common
//! section and one a peer. [`Backing::map`] puts them side by side, so that the
//! region code sees one contiguous memory either way; what a [`View`] does not
//! own is mapped read-only. A *flat* backing is one fd: the same views exist,
//! but they bind only the process that made them.
//!
//! Source: `TRUST.md`, T13, T14 and "Facts to build on". Distrusted: every other
//! holder of an fd. Left out: handing fds to other processes (the switchboard),
//! guests' second-stage mappings (the VMM).

mod create;
mod device;
pub mod fault_guard;
pub(crate) mod file;
mod huge;
mod mapping;
mod numa;
mod share;

pub use device::DeviceMemory;
pub use file::OpenAs;
pub use huge::PoolState;
pub use mapping::MappedMem;
pub use mapping::Mapping;
pub use share::SharedPart;

use crate::layout::HUGE_PAGE;
use crate::layout::Layout;
use crate::layout::LayoutError;
use crate::layout::PeerId;
use crate::region::RegionError;
use rustix::fs::SealFlags;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// What holds the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Storage {
    /// Anonymous memory behind an fd.
    #[default]
    Memfd,
    /// The same in 2 MiB pages from the host's pool.
    HugePages,
    /// A new file at this path; it must not exist yet.
    File(PathBuf),
}

/// How to make a backing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackingConfig {
    /// What holds the bytes.
    pub storage: Storage,
    /// Take the memory from this NUMA node only.
    pub numa_node: Option<u32>,
    /// Touch all pages when the owner maps, so that a lack of memory is an
    /// error then and not a signal later.
    pub populate: bool,
}

/// A part of a region with a writer of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// State table, header, peer table: the host writes.
    HostPages,
    /// Everybody with the right writes.
    Common,
    /// This peer writes.
    Section(PeerId),
    /// What alignment leaves over at the end: nobody's. A sectioned backing has no
    /// memory there; of a flat one, who writes all sections writes it too.
    Tail,
}

/// What a process may write in its mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// The host pages.
    pub host_pages: bool,
    /// The common section.
    pub common: bool,
    /// Output sections.
    pub sections: WritableSections,
}

/// Which output sections a mapping may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WritableSections {
    /// None.
    None,
    /// One's own.
    Own(PeerId),
    /// All: for the one process that owns the region and maps it into
    /// partitions.
    All,
}

impl View {
    /// Writes nothing.
    pub const OBSERVER: Self = Self {
        host_pages: false,
        common: false,
        sections: WritableSections::None,
    };
    /// Writes everything: the process that owns the region.
    pub const OWNER: Self = Self {
        host_pages: true,
        common: true,
        sections: WritableSections::All,
    };

    /// A peer: its own section and the common one.
    pub const fn peer(peer: PeerId) -> Self {
        Self {
            host_pages: false,
            common: true,
            sections: WritableSections::Own(peer),
        }
    }

    /// Whether the view writes that part.
    pub fn writes(&self, part: Part) -> bool {
        match part {
            Part::HostPages => self.host_pages,
            Part::Common => self.common,
            Part::Section(peer) => match self.sections {
                WritableSections::None => false,
                WritableSections::Own(own) => own == peer,
                WritableSections::All => true,
            },
            Part::Tail => self.sections == WritableSections::All,
        }
    }
}

/// Why there is no backing, or no mapping of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackingError {
    /// The specification has no layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A system call failed.
    #[error("{what}{}: {source}", at_path(path))]
    Io {
        /// What was being done.
        what: &'static str,
        /// The file, when there is one.
        path: Option<PathBuf>,
        /// What the kernel said.
        source: io::Error,
    },
    /// The pool of huge pages is too small.
    #[error("{need} huge pages of 2 MiB needed, but {pool}; as root: echo {} > /proc/sys/vm/nr_hugepages", pool.total + need.saturating_sub(pool.available()))]
    HugePages {
        /// Pages needed.
        need: u64,
        /// What the pool has.
        pool: PoolState,
    },
    /// A region that huge pages cannot hold.
    #[error("a {} region of {size} bytes has parts that are no whole huge pages; it needs {limit} bytes or more", if *sectioned { "sectioned" } else { "flat" })]
    HugeAlign {
        /// Size of the region in bytes.
        size: u64,
        /// Whether one fd a section was asked for.
        sectioned: bool,
        /// Smallest size that works, in bytes.
        limit: u64,
    },
    /// One file is one fd.
    #[error("{}: a file holds a flat region; leave `sectioned` off", path.display())]
    FileSectioned {
        /// The file.
        path: PathBuf,
    },
    /// A directory, a FIFO, a device.
    #[error("{} is no regular file", path.display())]
    NotAFile {
        /// What it is called.
        path: PathBuf,
    },
    /// The process has no file descriptor left.
    #[error(
        "a region of {parts} parts takes a file descriptor each, and the limit is reached; raise it (ulimit -n)"
    )]
    TooManyFiles {
        /// Parts of the region.
        parts: usize,
    },
    /// Another process is the region's host, or checks it.
    #[error("{} is in use by another process that hosts or checks it", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The storage is shorter than the region: cut off while in use, or never
    /// whole.
    #[error("{} has {have} bytes, the region in it takes {need}: it was truncated", path.as_ref().map_or_else(|| "the backing".into(), |p| p.display().to_string()))]
    Truncated {
        /// The file, when there is one.
        path: Option<PathBuf>,
        /// Bytes there.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// Pages went away under this mapping; zeros stand in their place.
    #[error(
        "{pages} pages of the region went away while it was in use; it is lost to this process"
    )]
    Faulted {
        /// Pages replaced so far.
        pages: u64,
    },
    /// The bytes are no region.
    #[error("{}{source}", path.as_ref().map_or_else(String::new, |p| format!("{}: ", p.display())))]
    Region {
        /// The file, when there is one.
        path: Option<PathBuf>,
        /// What is wrong with them.
        source: RegionError,
    },
    /// The parts handed over do not make up a region.
    #[error("{part:?} is not among the parts of this backing")]
    NoSuchPart {
        /// The part.
        part: Part,
    },
    /// A device that maps nothing as small as the region.
    #[error(
        "the region has {len} bytes; its device maps multiples of {granule} bytes, at most {HUGE_PAGE}"
    )]
    Granule {
        /// Size of the region in bytes.
        len: u64,
        /// What the device maps at once, in bytes.
        granule: u64,
    },
    /// More live mappings than this process can watch.
    #[error("{limit} mappings are live; a process holds no more")]
    TooManyMappings {
        /// The limit.
        limit: usize,
    },
}

fn at_path(path: &Option<PathBuf>) -> String {
    path.as_ref()
        .map_or_else(String::new, |p| format!(" {}", p.display()))
}

impl BackingError {
    pub(crate) fn io(what: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Io {
            what,
            path: None,
            source: source.into(),
        }
    }
}

/// One fd and what it holds.
#[derive(Debug)]
struct Piece {
    /// The bytes of the region that lie in the fd, from its byte 0.
    range: Range<u64>,
    /// `None` for a flat backing: all parts.
    part: Option<Part>,
    fd: OwnedFd,
    /// Where in the fd the bytes begin.
    at: u64,
    /// Whether the fd was opened for writing.
    writable: bool,
}

/// A region's storage.
#[derive(Debug)]
pub struct Backing {
    layout: Layout,
    storage: Storage,
    numa_node: Option<u32>,
    populate: bool,
    /// What mappings have to be multiples of: a page, unless a device wants more.
    granule: u64,
    /// Whether `fstat` tells how many bytes there are; a device has them all.
    measured: bool,
    pieces: Vec<Piece>,
}

impl Backing {
    /// Where the parts of the region lie.
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What holds the bytes.
    pub const fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Whether each part has an fd of its own, so that others' parts are
    /// read-only by mapping (and not by agreement alone).
    pub fn is_sectioned(&self) -> bool {
        self.pieces.iter().any(|p| p.part.is_some())
    }

    /// Maps the whole region at one contiguous address, 2 MiB-aligned, with the
    /// parts that `view` does not write read-only.
    ///
    /// # Errors
    /// [`BackingError::HugePages`] when the pool is short: no page is touched
    /// before the kernel has promised them all. [`BackingError::Truncated`],
    /// [`BackingError::Io`].
    pub fn map(&self, view: View) -> Result<Mapping, BackingError> {
        self.check()?;
        mapping::map(self, view)
    }

    /// Looks whether the storage still has all its bytes. Cheap enough for a
    /// watchdog: one `fstat` an fd.
    ///
    /// # Errors
    /// [`BackingError::Truncated`].
    pub fn check(&self) -> Result<(), BackingError> {
        if !self.measured {
            return Ok(());
        }
        for piece in &self.pieces {
            let stat = rustix::fs::fstat(&piece.fd).map_err(|e| BackingError::io("fstat", e))?;
            let have = stat.st_size.max(0) as u64;
            let need = piece.range.end - piece.range.start;
            if have < need {
                let path = self.path();
                return Err(BackingError::Truncated { path, have, need });
            }
        }
        Ok(())
    }

    /// Seals every piece of a memfd backing against writers to come, hole
    /// punching and further seals. Mappings made before go on working: for a
    /// process that owns the region and has mapped all that it will ever map
    /// writable.
    ///
    /// # Errors
    /// [`BackingError::Io`]; a file cannot be sealed.
    pub fn seal_writers(&self) -> Result<(), BackingError> {
        self.pieces.iter().try_for_each(seal_writers)
    }

    /// Forbids further seals on every piece of a memfd backing, and nothing
    /// else: for a process that hands writable fds to peers that it distrusts.
    /// Without this, any of them seals the memory against writers to come, and
    /// nobody can join any more.
    ///
    /// # Errors
    /// [`BackingError::Io`]; a file cannot be sealed.
    pub fn seal_seals(&self) -> Result<(), BackingError> {
        self.pieces.iter().try_for_each(|piece| {
            rustix::fs::fcntl_add_seals(&piece.fd, SealFlags::SEAL)
                .map_err(|e| BackingError::io("seal against seals", e))
        })
    }

    /// As [`Self::seal_writers`] for one part of a sectioned backing, after its
    /// writer has mapped it. A successor cannot map a section sealed like this:
    /// it needs the mapping of the process that sealed it.
    ///
    /// # Errors
    /// [`BackingError::NoSuchPart`], [`BackingError::Io`].
    pub fn seal_part(&self, part: Part) -> Result<(), BackingError> {
        seal_writers(self.piece(part)?)
    }

    /// The fd that holds a part, and where in it the part begins.
    ///
    /// # Errors
    /// [`BackingError::NoSuchPart`].
    pub fn part_fd(&self, part: Part) -> Result<(BorrowedFd<'_>, u64), BackingError> {
        let piece = self.piece(part)?;
        let at = piece.at + self.range(part).start - piece.range.start;
        Ok((piece.fd.as_fd(), at))
    }

    /// The bytes of a part, from the region's start.
    pub fn range(&self, part: Part) -> Range<u64> {
        let l = &self.layout;
        match part {
            Part::HostPages => l.host.clone(),
            Part::Common => l.common.clone(),
            Part::Section(peer) => l.section(peer),
            Part::Tail => {
                // Inside the region by `Layout::compute`.
                let end = l.sections_at() + l.section_size * u64::from(l.max_peers);
                end..l.size
            }
        }
    }

    /// All parts that have bytes, in order.
    pub fn parts(&self) -> impl Iterator<Item = Part> + '_ {
        [Part::HostPages, Part::Common]
            .into_iter()
            .chain(self.layout.peers().map(Part::Section))
            .chain([Part::Tail])
            .filter(|&p| !self.range(p).is_empty())
    }

    fn piece(&self, part: Part) -> Result<&Piece, BackingError> {
        self.pieces
            .iter()
            .find(|p| p.part.is_none_or(|held| held == part))
            .ok_or(BackingError::NoSuchPart { part })
    }

    fn path(&self) -> Option<PathBuf> {
        match &self.storage {
            Storage::File(path) => Some(path.clone()),
            _ => None,
        }
    }
}

fn seal_writers(piece: &Piece) -> Result<(), BackingError> {
    rustix::fs::fcntl_add_seals(&piece.fd, SealFlags::FUTURE_WRITE | SealFlags::SEAL)
        .map_err(|e| BackingError::io("seal against writers", e))
}
