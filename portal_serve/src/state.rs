//! What of the switchboard outlives its process: a folder with a file of records for
//! each region, and, where no service manager keeps descriptors, its memory.
//!
//! ```text
//! DIR/lock              held by the daemon that serves from here
//! DIR/NAME.state        the region's header, then a record of 128 bytes an id
//! DIR/NAME.memory       a flat region's memory
//! DIR/NAME.memory.N     a piece of a sectioned one's
//! ```
//!
//! A record is written with one `pwrite` inside one page, before anybody is told of
//! what it says; a process that is killed leaves it old or new, never half. Each has
//! a checksum all the same. What peers were is taken from here, never from the
//! region's memory, which a peer of a flat region can write.
//!
//! The folder is this user's alone: who reads it has every token.

use crate::ServeError;
use crc::CRC_32_ISO_HDLC;
use crc::Crc;
use hv_shmem::header::HEADER_BYTES;
use hv_shmem::header::Header;
use hv_shmem::layout::PeerId;
use hv_shmem::name::NAME_BYTES;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerIdentity;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::PeerRecord;
use hv_shmem::peers::PeerState;
use hv_shmem::peers::Rights;
use portal_protocol::Token;
use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;

const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// First bytes of a file of records, behind the header; the last is the version.
const MAGIC: [u8; 8] = *b"PRTLST\0\x01";
const MAGIC_AT: u64 = HEADER_BYTES as u64;

/// Where records begin, and their size: none crosses a page.
const RECORDS_AT: u64 = 4096;
const RECORD: usize = 128;

/// By which socket a peer came, and what it takes to know it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The compatibility socket: it cannot come back, but its process may live on.
    Qemu(Option<Process>),
    /// The Portal socket: who has the token may come back.
    Portal(Token),
}

/// A process, told apart from a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Clock ticks from boot to its start.
    pub(crate) started: u64,
}

impl Process {
    /// The process of this number as it is now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // proc_pid_stat(5): the name is in brackets and may hold anything; the
        // start is the 22nd field, the 20th after it.
        let (_, fields) = stat.rsplit_once(')')?;
        let started = fields.split_ascii_whitespace().nth(19)?.parse().ok()?;
        let pid = u32::try_from(pid).ok()?;
        Some(Self { pid, started })
    }

    /// Whether it is still there.
    pub(crate) fn lives(&self) -> bool {
        i32::try_from(self.pid).ok().and_then(Self::of) == Some(*self)
    }
}

/// One id: its epoch, and who has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) peer: PeerRecord,
    /// Where its peer came from, while it lives.
    pub(crate) origin: Option<Origin>,
}

impl Record {
    fn to_bytes(self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        let mut put = |at: usize, value: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + value.len()) {
                place.copy_from_slice(value);
            }
        };
        put(4, &self.peer.epoch.to_le_bytes());
        put(8, &(self.peer.state as u32).to_le_bytes());
        if let Some(who) = &self.peer.who {
            put(12, &who.rights.bits().to_le_bytes());
            put(16, &who.vectors.to_le_bytes());
            put(20, &[who.kind as u8]);
            put(32, who.name.padded());
        }
        match self.origin {
            None => {}
            Some(Origin::Qemu(process)) => {
                put(21, &[1]);
                if let Some(process) = process {
                    put(24, &process.pid.to_le_bytes());
                    put(80, &process.started.to_le_bytes());
                }
            }
            Some(Origin::Portal(token)) => {
                put(21, &[2]);
                put(64, &token.0);
            }
        }
        let sum = CRC.checksum(bytes.get(4..).unwrap_or_default());
        if let Some(place) = bytes.get_mut(..4) {
            place.copy_from_slice(&sum.to_le_bytes());
        }
        bytes
    }

    /// `Ok(None)` for an id that was never used.
    fn of_bytes(id: PeerId, bytes: &[u8; RECORD]) -> Result<Option<Self>, &'static str> {
        if bytes.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        fn at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
            let mut value = [0; N];
            if let Some(from) = bytes.get(at..at + N) {
                value.copy_from_slice(from);
            }
            value
        }
        let number = |offset| u32::from_le_bytes(at(bytes, offset));
        if number(0) != CRC.checksum(bytes.get(4..).unwrap_or_default()) {
            return Err("its checksum does not match");
        }
        let state = PeerState::from_u32(number(8)).ok_or("its state means nothing")?;
        let who = if state.is_live() {
            Some(PeerIdentity {
                name: Name::from_padded(&at::<NAME_BYTES>(bytes, 32)).map_err(|_| "no name")?,
                kind: PeerKind::from_u8(at::<1>(bytes, 20)[0]).ok_or("its kind means nothing")?,
                rights: Rights::from_bits(number(12)).ok_or("its rights mean nothing")?,
                vectors: number(16),
            })
        } else {
            None
        };
        let process = Process {
            pid: number(24),
            started: u64::from_le_bytes(at(bytes, 80)),
        };
        let origin = match at::<1>(bytes, 21)[0] {
            0 => None,
            1 => Some(Origin::Qemu(Some(process).filter(|p| p.pid != 0))),
            2 => Some(Origin::Portal(Token(at(bytes, 64)))),
            _ => return Err("its origin means nothing"),
        };
        Ok(Some(Self {
            peer: PeerRecord {
                id,
                epoch: number(4),
                state,
                who,
            },
            origin: origin.filter(|_| who.is_some()),
        }))
    }
}

/// The folder, locked.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: OwnedFd,
}

impl Folder {
    /// Makes the folder if it is not there, for this user alone, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, ServeError> {
        let fail = |what| state_error(path, what);
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(fail("make")(errno)),
        }
        let lock = path.join("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&lock, flags, Mode::RUSR | Mode::WUSR).map_err(fail("open"))?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: fd,
            }),
            Err(Errno::WOULDBLOCK) => Err(ServeError::SecondMaster {
                path: path.to_owned(),
            }),
            Err(errno) => Err(fail("lock")(errno)),
        }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The records of a region, if it was served from here before.
    pub(crate) fn records(&self, region: &Name) -> Result<Option<(Header, Records)>, ServeError> {
        let path = self.file(&format!("{region}.state"));
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(state_error(&path, "open")(errno)),
        };
        let damaged = |reason: String| ServeError::State {
            path: path.clone(),
            reason,
        };
        let mut start = [0; HEADER_BYTES + MAGIC.len()];
        let got = rustix::io::pread(&fd, &mut start, 0).map_err(state_error(&path, "read"))?;
        let (header, magic) = start.split_at(HEADER_BYTES);
        let header = header.first_chunk::<HEADER_BYTES>();
        let (Some(header), true) = (header, got == start.len() && magic == MAGIC) else {
            return Err(damaged("it is no state of this version".to_owned()));
        };
        let header = Header::from_bytes(header).map_err(|e| damaged(e.to_string()))?;
        Ok(Some((header, Records { fd, path })))
    }

    /// Makes the records of a new region. They appear whole or not at all.
    pub(crate) fn make_records(&self, header: &Header) -> Result<Records, ServeError> {
        let path = self.file(&format!("{}.state", header.name));
        let fresh = self.file(&format!("{}.state.new", header.name));
        let fail = |what| state_error(&path, what);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = rustix::fs::open(&fresh, flags, mode).map_err(fail("make"))?;
        let len = RECORDS_AT + u64::from(header.layout.max_peers) * RECORD as u64;
        allocate(&fd, len).map_err(fail("allocate"))?;
        let mut start = header.to_bytes().to_vec();
        start.extend(MAGIC);
        debug_assert_eq!(MAGIC_AT as usize + MAGIC.len(), start.len());
        rustix::io::pwrite(&fd, &start, 0).map_err(fail("write"))?;
        rustix::fs::rename(&fresh, &path).map_err(fail("rename"))?;
        Ok(Records { fd, path })
    }
}

/// Gives a new file all its blocks, where the file system can.
pub(crate) fn allocate(fd: &OwnedFd, len: u64) -> Result<(), Errno> {
    match rustix::fs::fallocate(fd, rustix::fs::FallocateFlags::empty(), 0, len) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => rustix::fs::ftruncate(fd, len),
        other => other,
    }
}

/// The records of one region.
#[derive(Debug)]
pub(crate) struct Records {
    fd: OwnedFd,
    path: PathBuf,
}

impl Records {
    /// All of them, in order.
    pub(crate) fn read(&self, peers: u16) -> Result<Vec<Record>, ServeError> {
        let mut all = vec![0; usize::from(peers) * RECORD];
        let got = rustix::io::pread(&self.fd, &mut all, RECORDS_AT)
            .map_err(state_error(&self.path, "read"))?;
        let damaged = |reason| ServeError::State {
            path: self.path.clone(),
            reason,
        };
        if got != all.len() {
            let reason = format!(
                "it has {got} bytes of records; {peers} ids take {}",
                all.len()
            );
            return Err(damaged(reason));
        }
        let (chunks, _) = all.as_chunks::<RECORD>();
        let mut records = Vec::new();
        for (id, bytes) in (0..).zip(chunks) {
            let record = Record::of_bytes(PeerId(id), bytes);
            let record =
                record.map_err(|what| damaged(format!("the record of id {id}: {what}")))?;
            records.extend(record);
        }
        Ok(records)
    }

    pub(crate) fn write(&self, record: &Record) -> Result<(), Errno> {
        let at = RECORDS_AT + u64::from(record.peer.id.0) * RECORD as u64;
        rustix::io::pwrite(&self.fd, &record.to_bytes(), at).map(|_| ())
    }
}

pub(crate) fn state_error(path: &Path, what: &'static str) -> impl Fn(Errno) -> ServeError {
    move |errno| ServeError::StateAccess {
        path: path.to_owned(),
        what,
        errno,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(origin: Option<Origin>) -> Record {
        Record {
            peer: PeerRecord {
                id: PeerId(3),
                epoch: 7,
                state: PeerState::Quiescing,
                who: Some(PeerIdentity {
                    name: Name::new("a-peer").expect("a name"),
                    kind: PeerKind::Partition,
                    rights: Rights::READ,
                    vectors: 2,
                }),
            },
            origin,
        }
    }

    #[test]
    fn records_come_back_as_they_were() {
        let me = Process::of(i32::try_from(std::process::id()).expect("a pid"));
        assert!(me.expect("I live").lives());
        for origin in [
            None,
            Some(Origin::Qemu(None)),
            Some(Origin::Qemu(me)),
            Some(Origin::Portal(Token([9; 16]))),
        ] {
            let record = record(origin);
            let read = Record::of_bytes(PeerId(3), &record.to_bytes());
            assert_eq!(read, Ok(Some(record)));
        }
        assert_eq!(Record::of_bytes(PeerId(0), &[0; RECORD]), Ok(None));
    }

    #[test]
    fn a_changed_bit_is_an_error() {
        let bytes = record(Some(Origin::Portal(Token([1; 16])))).to_bytes();
        for bit in 0..RECORD * 8 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::of_bytes(PeerId(3), &changed).is_err(), "bit {bit}");
        }
    }
}
