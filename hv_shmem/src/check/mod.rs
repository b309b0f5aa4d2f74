//! `check`: an fsck for regions. Every invariant of the header, the tables, the
//! sections, the directories, the rings and the arenas; each break of one is a
//! [`Finding`] with a stable code, a severity, a place, and what can be done.
//!
//! [`check`] looks at memory; [`check_file`] at a file, which may be damaged so
//! that it cannot even be mapped. Repairing is for a region that nobody uses:
//! with `repair`, live peers are leftovers of a host that is gone.
//!
//! Repairs never invent data. They make what is left consistent and give up
//! what cannot be trusted: a damaged directory entry becomes free, a damaged
//! section blank, a damaged peer entry free under a new epoch.
//!
//! Distrusted: every byte. Left out: what spans hold.

mod file;
mod header;
mod rings;
mod sections;
mod tables;

pub use file::check_file;
pub use header::Mended;
pub use header::mend as mend_header;

use crate::header::Header;
use crate::layout::PeerId;
use crate::mem::OutOfBounds;
use crate::mem::SharedMem;
use std::fmt;
use std::string::String;
use std::vec::Vec;

/// Findings kept; more are counted only. A hostile file can break every word of
/// its arenas, and nobody reads that list.
pub const MAX_FINDINGS: usize = 10_000;

/// What kind of break a finding is. The text is stable: scripts match it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Code {
    /// `file.truncated`: the file is shorter than its region.
    FileTruncated,
    /// `header.unreadable`: no region, another version, unknown features.
    HeaderUnreadable,
    /// `header.damaged`: checksum or fields are wrong.
    HeaderDamaged,
    /// `table.torn`: a peer entry was left half-written.
    TableTorn,
    /// `table.entry`: a peer entry cannot be meant.
    TableEntry,
    /// `table.state`: the state table has a state of a peer that is not there.
    TableState,
    /// `table.orphan`: a peer is alive though there is no host.
    TableOrphan,
    /// `section.header`: a section header cannot be meant.
    SectionHeader,
    /// `section.missing`: a ready peer without a section.
    SectionMissing,
    /// `section.future`: a section of an epoch or generation to come.
    SectionFuture,
    /// `section.state`: an unknown section state.
    SectionState,
    /// `section.usage`: bump marks that contradict the directory or the sizes.
    SectionUsage,
    /// `directory.entry`: an entry cannot be meant, or was left half-written.
    DirectoryEntry,
    /// `directory.stale`: an entry of another epoch than its section.
    DirectoryStale,
    /// `directory.duplicate`: two entries for the same ring.
    DirectoryDuplicate,
    /// `directory.overlap`: two rings over the same bytes.
    DirectoryOverlap,
    /// `ring.index`: a ring's words contradict each other.
    RingIndex,
    /// `arena.fault`: an arena's words contradict each other.
    ArenaFault,
}

impl Code {
    /// Every code there is.
    pub const ALL: [Self; 18] = [
        Self::FileTruncated,
        Self::HeaderUnreadable,
        Self::HeaderDamaged,
        Self::TableTorn,
        Self::TableEntry,
        Self::TableState,
        Self::TableOrphan,
        Self::SectionHeader,
        Self::SectionMissing,
        Self::SectionFuture,
        Self::SectionState,
        Self::SectionUsage,
        Self::DirectoryEntry,
        Self::DirectoryStale,
        Self::DirectoryDuplicate,
        Self::DirectoryOverlap,
        Self::RingIndex,
        Self::ArenaFault,
    ];

    /// The stable text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FileTruncated => "file.truncated",
            Self::HeaderUnreadable => "header.unreadable",
            Self::HeaderDamaged => "header.damaged",
            Self::TableTorn => "table.torn",
            Self::TableEntry => "table.entry",
            Self::TableState => "table.state",
            Self::TableOrphan => "table.orphan",
            Self::SectionHeader => "section.header",
            Self::SectionMissing => "section.missing",
            Self::SectionFuture => "section.future",
            Self::SectionState => "section.state",
            Self::SectionUsage => "section.usage",
            Self::DirectoryEntry => "directory.entry",
            Self::DirectoryStale => "directory.stale",
            Self::DirectoryDuplicate => "directory.duplicate",
            Self::DirectoryOverlap => "directory.overlap",
            Self::RingIndex => "ring.index",
            Self::ArenaFault => "arena.fault",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is wrong; somebody may want to know.
    Note,
    /// Works, but not as it should.
    Warning,
    /// An invariant is broken; the part is not usable.
    Error,
    /// The region is not usable.
    Fatal,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Fatal => "fatal",
        })
    }
}

/// Where a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The file as a whole.
    File,
    /// The header.
    Header,
    /// A peer's word in the state table.
    StateTable(u16),
    /// A peer's entry in the peer table.
    PeerTable(PeerId),
    /// A peer's section header.
    Section(PeerId),
    /// An entry of a peer's directory.
    Directory(PeerId, u32),
    /// A ring, by sender and entry.
    Ring(PeerId, u32),
    /// A peer's arena.
    Arena(PeerId),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => write!(f, "file"),
            Self::Header => write!(f, "header"),
            Self::StateTable(peer) => write!(f, "state table, peer {peer}"),
            Self::PeerTable(peer) => write!(f, "peer table, peer {peer}"),
            Self::Section(peer) => write!(f, "section of peer {peer}"),
            Self::Directory(peer, index) => {
                write!(f, "directory of peer {peer}, entry {index}")
            }
            Self::Ring(peer, index) => write!(f, "ring in entry {index} of peer {peer}"),
            Self::Arena(peer) => write!(f, "arena of peer {peer}"),
        }
    }
}

/// What can be done about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing that `check` knows.
    None,
    /// `check` with repair would do this.
    Possible(&'static str),
    /// This was done.
    Done(&'static str),
}

/// One break of an invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind.
    pub code: Code,
    /// How bad.
    pub severity: Severity,
    /// Where.
    pub place: Place,
    /// What exactly: field, value and limit.
    pub what: String,
    /// What can be, or was, done.
    pub remedy: Remedy,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            code,
            severity,
            place,
            what,
            remedy,
        } = self;
        write!(f, "{severity} {code}: {place}: {what}")?;
        match remedy {
            Remedy::None => Ok(()),
            Remedy::Possible(what) => write!(f, " (repair: {what})"),
            Remedy::Done(what) => write!(f, " (repaired: {what})"),
        }
    }
}

/// How to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckOptions {
    /// Nobody uses the region: words that move are held against each other, and
    /// live peers are leftovers.
    pub still: bool,
    /// Repair what can be repaired. Only with `still` and a writable mapping.
    pub repair: bool,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The findings, at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Findings beyond that, counted only.
    pub more: u64,
    /// Peers, rings and arenas that were looked at.
    pub looked_at: LookedAt,
}

/// How much a check covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LookedAt {
    /// Entries of the peer table.
    pub peers: u32,
    /// Sections that were formatted.
    pub sections: u32,
    /// Rings.
    pub rings: u32,
    /// Arenas.
    pub arenas: u32,
    /// Live spans in them.
    pub spans: u64,
}

impl Report {
    /// The worst severity that was not repaired; `None` when nothing is left.
    pub fn worst_left(&self) -> Option<Severity> {
        self.findings
            .iter()
            .filter(|f| !matches!(f.remedy, Remedy::Done(_)))
            .map(|f| f.severity)
            .max()
    }

    /// Whether no invariant is broken (any more).
    pub fn is_sound(&self) -> bool {
        self.worst_left().is_none_or(|w| w < Severity::Error) && self.more == 0
    }

    /// Findings that were repaired.
    pub fn repaired(&self) -> usize {
        self.findings
            .iter()
            .filter(|f| matches!(f.remedy, Remedy::Done(_)))
            .count()
    }

    fn push(&mut self, finding: Finding) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }
}

/// A check under way.
struct Checker<'a, M> {
    mem: &'a M,
    header: &'a Header,
    options: CheckOptions,
    report: Report,
}

impl<M: SharedMem> Checker<'_, M> {
    /// Notes a finding that has no remedy.
    fn find(&mut self, code: Code, severity: Severity, place: Place, what: impl fmt::Display) {
        self.note(code, severity, place, what, Remedy::None);
    }

    /// Notes a finding and, when repairing, carries the remedy out.
    fn find_and(
        &mut self,
        (code, severity, place): (Code, Severity, Place),
        what: impl fmt::Display,
        remedy: &'static str,
        repair: impl FnOnce(&M),
    ) {
        let remedy = if self.options.repair {
            repair(self.mem);
            Remedy::Done(remedy)
        } else {
            Remedy::Possible(remedy)
        };
        self.note(code, severity, place, what, remedy);
    }

    fn note(
        &mut self,
        code: Code,
        severity: Severity,
        place: Place,
        what: impl fmt::Display,
        remedy: Remedy,
    ) {
        self.report.push(Finding {
            code,
            severity,
            place,
            what: std::format!("{what}"),
            remedy,
        });
    }
}

/// Checks the region in `mem` (whole, from its first byte) behind a good
/// `header`.
///
/// # Errors
/// [`OutOfBounds`] when `mem` is shorter than the region.
pub fn check<M: SharedMem>(
    mem: &M,
    header: &Header,
    options: CheckOptions,
) -> Result<Report, OutOfBounds> {
    mem.window(0, header.layout.size)?;
    let mut checker = Checker {
        mem,
        header,
        options: CheckOptions {
            repair: options.repair && options.still,
            ..options
        },
        report: Report::default(),
    };
    let peers = checker.tables();
    let survey = crate::survey::Survey::read(mem, header)?;
    checker.sections(&survey, &peers)?;
    checker.rings(&survey)?;
    Ok(checker.report)
}
