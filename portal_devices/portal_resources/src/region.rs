//! What a region is made from.

use crate::Invalid;
use hv_shmem::layout::Layout;
use hv_shmem::layout::LayoutError;
use hv_shmem::layout::RegionSpec;
use hv_shmem::name::Name;
use serde::Deserialize;
use serde::Serialize;
use std::path::PathBuf;

/// Peers of a region that says nothing about it.
const PEERS: u16 = 16;

/// A region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionHandle {
    /// Name: 1 to 32 bytes of printable ASCII without blanks and `/`.
    pub name: String,
    /// Bytes: a power of two, 64 KiB or more.
    pub size: u64,
    /// Where the memory comes from.
    #[serde(default)]
    pub backing: BackingHandle,
    /// Peer slots, 1 to 1024.
    #[serde(default = "default_peers")]
    pub max_peers: u16,
    /// Bytes of the common read-write section; a multiple of the page size.
    #[serde(default)]
    pub common: u64,
    /// One file a section, so that other peers' sections are read-only by
    /// mapping.
    #[serde(default = "yes")]
    pub sectioned: bool,
}

/// Where a region's memory comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, tag = "type")]
pub enum BackingHandle {
    /// Anonymous memory with seals.
    #[default]
    Memfd,
    /// The same from the host's pool of huge pages.
    HugePages {
        /// Which pool.
        #[serde(default)]
        page: HugePages,
        /// NUMA node to take them from; any when absent.
        #[serde(default)]
        node: Option<u32>,
    },
    /// A file, which outlives the run.
    File {
        /// Its path.
        path: PathBuf,
    },
}

/// Size of a huge page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HugePages {
    /// 2 MiB.
    #[default]
    #[serde(rename = "2MiB")]
    Mib2,
    /// 1 GiB.
    #[serde(rename = "1GiB")]
    Gib1,
}

impl HugePages {
    /// Bytes of a page.
    pub const fn bytes(self) -> u64 {
        match self {
            HugePages::Mib2 => 2 << 20,
            HugePages::Gib1 => 1 << 30,
        }
    }
}

const fn default_peers() -> u16 {
    PEERS
}

const fn yes() -> bool {
    true
}

impl RegionHandle {
    /// A sectioned region on a memfd for 16 peers.
    pub fn new(name: impl Into<String>, size: u64) -> Self {
        RegionHandle {
            name: name.into(),
            size,
            backing: BackingHandle::Memfd,
            max_peers: PEERS,
            common: 0,
            sectioned: true,
        }
    }

    /// Checks every value and the layout they make.
    ///
    /// # Errors
    /// [`Invalid`] names key, value and limit.
    pub fn check(&self) -> Result<RegionSpec, Invalid> {
        let name = Name::new(&self.name)
            .map_err(|error| Invalid::new("name", format!("{:?}", self.name), error.to_string()))?;
        let spec = RegionSpec::new(name, self.size, self.max_peers)
            .common(self.common)
            .sectioned(self.sectioned)
            .durable(matches!(self.backing, BackingHandle::File { .. }));
        Layout::compute(&spec).map_err(|error| {
            let (key, value) = match error {
                LayoutError::Size { value } => ("size", value),
                LayoutError::Peers { value } => ("max_peers", value.into()),
                LayoutError::Common { value, .. } => ("common", value),
                LayoutError::Sections { peers, .. } => ("max_peers", peers.into()),
            };
            Invalid::new(key, value, error.to_string())
        })?;
        if let BackingHandle::HugePages { page, .. } = &self.backing
            && !self.size.is_multiple_of(page.bytes())
        {
            let limit = format!("on huge pages it has to be a multiple of {}", page.bytes());
            return Err(Invalid::new("size", self.size, limit));
        }
        if let BackingHandle::File { path } = &self.backing
            && path.as_os_str().is_empty()
        {
            return Err(Invalid::new("backing.path", "empty", "name a file"));
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_short_form_has_defaults() {
        let handle: RegionHandle =
            toml::from_str("name = \"lake\"\nsize = 0x400_0000").expect("reads");
        assert_eq!(handle, RegionHandle::new("lake", 64 * MIB));
        let spec = handle.check().expect("is good");
        assert_eq!(
            (spec.max_peers, spec.sectioned, spec.durable),
            (16, true, false)
        );
    }

    #[test]
    fn backings_read_by_their_type() {
        let read = |backing: &str| {
            let text = format!("name = \"a\"\nsize = 2097152\nmax_peers = 2\nbacking = {backing}");
            toml::from_str::<RegionHandle>(&text).map(|handle| handle.backing)
        };
        assert_eq!(
            read("{ type = \"huge-pages\", page = \"1GiB\", node = 1 }").expect("reads"),
            BackingHandle::HugePages {
                page: HugePages::Gib1,
                node: Some(1)
            }
        );
        assert_eq!(
            read("{ type = \"file\", path = \"/a\" }").expect("reads"),
            BackingHandle::File { path: "/a".into() }
        );
        assert!(read("{ type = \"file\" }").is_err());
        assert!(read("{ type = \"file\", path = \"/a\", node = 1 }").is_err());
        assert!(read("{ type = \"tape\" }").is_err());
    }

    #[test]
    fn each_flaw_names_key_and_value() {
        let good = RegionHandle::new("lake", 64 * MIB);
        assert!(good.check().is_ok());
        let flaw = |handle: RegionHandle| {
            let invalid = handle.check().expect_err("is wrong");
            (invalid.key, invalid.value)
        };
        let of = |change: &dyn Fn(&mut RegionHandle)| {
            let mut handle = good.clone();
            change(&mut handle);
            flaw(handle)
        };
        assert_eq!(of(&|h| h.name = "a b".into()), ("name", "\"a b\"".into()));
        assert_eq!(of(&|h| h.name = String::new()), ("name", "\"\"".into()));
        assert_eq!(of(&|h| h.size = 3 * MIB), ("size", (3 * MIB).to_string()));
        assert_eq!(of(&|h| h.size = 4096), ("size", "4096".into()));
        assert_eq!(of(&|h| h.max_peers = 0), ("max_peers", "0".into()));
        assert_eq!(of(&|h| h.max_peers = 1024), ("max_peers", "1024".into()));
        assert_eq!(of(&|h| h.common = 4096), ("common", "4096".into()));
        let page = HugePages::Gib1;
        assert_eq!(
            of(&|h| h.backing = BackingHandle::HugePages { page, node: None }),
            ("size", (64 * MIB).to_string())
        );
        assert_eq!(
            of(&|h| h.backing = BackingHandle::File {
                path: PathBuf::new()
            })
            .0,
            "backing.path"
        );
    }
}
