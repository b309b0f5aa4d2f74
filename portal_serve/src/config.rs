//! What a daemon is to serve: pure parsing and checks, nothing is opened.

use crate::ServeError;
use hv_shmem::layout::Layout;
use hv_shmem::layout::RegionSpec;
use hv_shmem::name::Name;
use hv_shmem::peers::Rights;
use portal_ivshmem_server::Departures;
use portal_switchboard::Policy;
use std::path::PathBuf;

/// Peers of a region that says nothing about it; as `portal region create`.
const PEERS: u16 = 8;

/// Vectors of a peer when nothing is said; QEMU's device has as many.
const VECTORS: u16 = 1;

/// Most vectors of a peer: Windows' driver has no more.
pub const VECTORS_MAX: u16 = 64;

/// One region to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionConfig {
    /// Its name.
    pub name: Name,
    /// Bytes: a power of two, 64 KiB or more.
    pub size: u64,
    /// Peer ids, 1 to 1024.
    pub peers: u16,
    /// Vectors of each peer, 1 to 64; QEMU's `vectors=` has to be the same.
    pub vectors: u16,
    /// Bytes of a section that every peer may write; 0 for none.
    pub common: u64,
    /// Whether clients of the compatibility socket are told who is gone.
    pub departures: Departures,
    /// Whether each section has an fd of its own, so that others' are read-only
    /// by mapping. Such a region has no compatibility socket: QEMU takes one fd.
    pub sectioned: bool,
    /// The most that a partition may do; `None` keeps partitions out.
    pub partitions: Option<Rights>,
    /// The most that a host program may do; `None` keeps them out.
    pub programs: Option<Rights>,
    /// Where the compatibility socket is; the default place when `None`.
    pub socket: Option<PathBuf>,
}

impl RegionConfig {
    /// Reads `NAME,size=SIZE[,peers=N][,vectors=N][,common=SIZE]
    /// [,sections=advisory|enforced][,partitions=all|read|none]
    /// [,programs=all|read|none][,leaves=silent|announced][,socket=PATH]`.
    /// `socket` is the last key, and its path may hold commas. `size` reads a size
    /// in bytes.
    ///
    /// # Errors
    /// One sentence that names key, value and limit.
    pub fn parse(text: &str, size: impl Fn(&str) -> Option<u64>) -> Result<Self, String> {
        let (keys, socket) = match text.split_once(",socket=") {
            Some((_, "")) => return Err("socket= needs a path".to_owned()),
            Some((keys, path)) => (keys, Some(PathBuf::from(path))),
            None => (text, None),
        };
        let mut parts = keys.split(',');
        let name = parts.next().unwrap_or_default();
        let mut this = Self {
            name: Name::new(name).map_err(|e| format!("region name {name:?}: {e}"))?,
            size: 0,
            peers: PEERS,
            vectors: VECTORS,
            common: 0,
            departures: Departures::default(),
            sectioned: false,
            partitions: Some(Rights::ALL),
            programs: Some(Rights::ALL),
            socket,
        };
        let mut seen = Vec::new();
        for part in parts {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?} is no KEY=VALUE"))?;
            if seen.contains(&key) {
                return Err(format!("region {name}: {key}= is given twice"));
            }
            seen.push(key);
            let bytes = || size(value).ok_or_else(|| format!("{key}={value} is no size"));
            let number = || {
                value
                    .parse()
                    .map_err(|_| format!("{key}={value} is no number from 0 to 65535"))
            };
            match key {
                "size" => this.size = bytes()?,
                "common" => this.common = bytes()?,
                "peers" => this.peers = number()?,
                "vectors" => this.vectors = number()?,
                "leaves" => {
                    this.departures = match value {
                        "silent" => Departures::Silent,
                        "announced" => Departures::Announced,
                        _ => return Err(format!("leaves={value}; it is silent or announced")),
                    }
                }
                "sections" => {
                    this.sectioned = match value {
                        "enforced" => true,
                        "advisory" => false,
                        _ => return Err(format!("sections={value}; it is advisory or enforced")),
                    }
                }
                "partitions" => this.partitions = most(key, value)?,
                "programs" => this.programs = most(key, value)?,
                _ => {
                    return Err(format!(
                        "unknown key {key:?}; there are size, peers, vectors, common, sections, \
                         partitions, programs, leaves, socket"
                    ));
                }
            }
        }
        if this.size == 0 {
            return Err(format!("region {name}: size=SIZE is missing"));
        }
        if this.sectioned && this.socket.is_some() {
            return Err(format!(
                "region {name}: a region with sections=enforced has no socket= of its own: QEMU \
                 takes one file descriptor for the whole region; clients join by the Portal socket"
            ));
        }
        this.spec().map_err(|e| e.to_string())?;
        Ok(this)
    }

    /// The region's specification.
    ///
    /// # Errors
    /// [`ServeError::Region`] names value and limit.
    pub fn spec(&self) -> Result<RegionSpec, ServeError> {
        let wrong = |reason: String| ServeError::Region {
            name: self.name,
            reason,
        };
        if !(1..=VECTORS_MAX).contains(&self.vectors) {
            let vectors = self.vectors;
            return Err(wrong(format!(
                "vectors={vectors}; a peer has 1 to {VECTORS_MAX}"
            )));
        }
        let spec = RegionSpec::new(self.name, self.size, self.peers)
            .common(self.common)
            .sectioned(self.sectioned);
        Layout::compute(&spec).map_err(|e| wrong(e.to_string()))?;
        Ok(spec)
    }

    /// Fds that the region takes when every peer is there.
    pub(crate) fn files(&self) -> u64 {
        let pieces = if self.sectioned { 1 } else { 0 };
        u64::from(self.peers) * (1 + pieces + u64::from(self.vectors)) + 4
    }

    /// Who may join.
    pub(crate) fn policy(&self) -> Policy {
        Policy {
            partitions: self.partitions,
            host_processes: self.programs,
            ..Policy::default()
        }
    }
}

/// The rights that a word gives.
fn most(key: &str, value: &str) -> Result<Option<Rights>, String> {
    match value {
        "all" => Ok(Some(Rights::ALL)),
        "read" => Ok(Some(Rights::READ.and(Rights::RING))),
        "none" => Ok(None),
        _ => Err(format!("{key}={value}; it is all, read or none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RegionConfig, String> {
        RegionConfig::parse(text, |t| t.parse().ok())
    }

    #[test]
    fn defaults_and_every_key() {
        let short = parse("lake,size=1048576").expect("is good");
        assert_eq!((short.peers, short.vectors, short.common), (8, 1, 0));
        assert_eq!((short.size, short.socket), (1 << 20, None));
        let long = parse("sea,size=1048576,vectors=2,peers=3,common=4096,socket=/a,b=c");
        let long = long.expect("is good");
        assert_eq!((long.peers, long.vectors, long.common), (3, 2, 4096));
        assert_eq!(long.socket, Some(PathBuf::from("/a,b=c")), "commas stay");
    }

    #[test]
    fn mistakes_name_key_value_and_limit() {
        for (text, word) in [
            ("", "name"),
            ("lake", "size=SIZE is missing"),
            ("lake,size=big", "size=big"),
            ("lake,size=100000", "100000"),
            ("lake,size=1048576,peers=-1", "peers=-1"),
            ("lake,size=1048576,peers=1025", "1024"),
            ("lake,size=1048576,vectors=0", "1 to 64"),
            ("lake,size=1048576,vectors=65", "1 to 64"),
            ("lake,size=1048576,colour=red", "colour"),
            ("lake,size=1048576,leaves=loud", "silent or announced"),
            ("lake,size=1048576,sections=walls", "advisory or enforced"),
            ("lake,size=1048576,programs=some", "all, read or none"),
            ("lake,size=1048576,sections=enforced,socket=/a", "QEMU"),
            ("lake,size=1048576,peers", "KEY=VALUE"),
            ("lake,size=1048576,peers=2,peers=3", "peers= is given twice"),
            ("lake,size=1048576,socket=", "path"),
            ("a/b,size=1048576", "a/b"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
