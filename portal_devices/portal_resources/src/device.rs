//! What a device is made from.

use crate::Invalid;
use crate::resource::HandleOf;
use crate::resource::MappedMemory;
use crate::resource::PciDevice;
use hv_shmem::layout::MAX_PEERS;
use hv_shmem::layout::PAGE;
use hv_shmem::name::Name;
use serde::Deserialize;
use serde::Serialize;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Vectors of a device that says nothing about it: the two that a ring pair
/// needs, and as many to spare.
const DEFAULT_VECTORS: u16 = 4;
/// Vectors that a device may have: none, up to MSI-X's limit.
pub const VECTORS: RangeInclusive<u16> = 0..=2048;
/// Device numbers on a PCI bus that are free for devices; 0 is the host bridge.
pub const PCI_SLOTS: RangeInclusive<u8> = 1..=31;
/// Protocol type of a region in Portal's format, of those that ivshmem v2 leaves
/// to users.
pub const PORTAL_PROTOCOL: u16 = 0x4000;
/// Guest physical addresses end here: 52 bits, the most that x86-64 has.
const GPA_END: u64 = 1 << 52;

/// What of the region a guest may write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mapping {
    /// Its own section and the common one; enforced in the second stage.
    #[default]
    Sectioned,
    /// Everything: for guests that bring their own protocol.
    Flat,
    /// Nothing.
    ReadOnly,
}

/// What a store to a part that is read-only to the guest comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeniedWrites {
    /// No effect; counted.
    #[default]
    Drop,
    /// The partition is stopped, with a message.
    Stop,
}

/// What a guest may do to the memory that it is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestAccess {
    /// Loads.
    #[serde(rename = "ro")]
    ReadOnly,
    /// Loads and stores, of a sectioned region in the peer's own parts.
    #[default]
    #[serde(rename = "rw")]
    ReadWrite,
}

/// A region behind BAR2 of an ivshmem v1 function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IvshmemV1Handle {
    /// Name of the region.
    pub region: String,
    /// MSI-X vectors to receive on; 0 makes the plain variant.
    #[serde(default = "default_vectors")]
    pub vectors: u16,
    /// INTx beside MSI-X, for guests whose driver knows nothing else. When
    /// absent: where the VMM has it and the function has doorbells.
    #[serde(default)]
    pub intx: Option<bool>,
    /// PCI device number, 1 to 31; the next free one when absent.
    #[serde(default)]
    pub slot: Option<u8>,
    /// Peer id to ask for; any when absent.
    #[serde(default)]
    pub peer: Option<u16>,
    /// What the guest may write.
    #[serde(default)]
    pub mapping: Mapping,
    /// What any other store comes to.
    #[serde(default)]
    pub denied_writes: DeniedWrites,
}

impl HandleOf<PciDevice> for IvshmemV1Handle {
    const ID: &'static str = "ivshmem-v1";
}

const fn default_vectors() -> u16 {
    DEFAULT_VECTORS
}

impl IvshmemV1Handle {
    /// With four vectors, INTx where there is, any slot, any peer id, sectioned.
    pub fn new(region: impl Into<String>) -> Self {
        IvshmemV1Handle {
            region: region.into(),
            vectors: DEFAULT_VECTORS,
            intx: None,
            slot: None,
            peer: None,
            mapping: Mapping::default(),
            denied_writes: DeniedWrites::default(),
        }
    }

    /// Whether the function gets INTx from a VMM that has it or not. A VMM that
    /// does not have it refuses a handle that asks for it.
    pub fn intx_with(&self, available: bool) -> bool {
        self.intx.unwrap_or(self.vectors > 0 && available)
    }

    /// Checks every value; returns the region's name.
    ///
    /// # Errors
    /// [`Invalid`] names key, value and limit.
    pub fn check(&self) -> Result<Name, Invalid> {
        let region = region(&self.region)?;
        if !VECTORS.contains(&self.vectors) {
            let limit = format!("it has to be {} to {}", VECTORS.start(), VECTORS.end());
            return Err(Invalid::new("vectors", self.vectors, limit));
        }
        if self.intx == Some(true) && self.vectors == 0 {
            return Err(Invalid::new(
                "intx",
                true,
                "a function with vectors = 0 has no doorbells",
            ));
        }
        slot(self.slot)?;
        peer(self.peer)?;
        Ok(region)
    }
}

/// A region behind BAR2 of an ivshmem v2 function, with its sections enforced
/// by mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IvshmemV2Handle {
    /// Name of the region.
    pub region: String,
    /// MSI-X vectors to receive on.
    #[serde(default = "default_vectors")]
    pub vectors: u16,
    /// Protocol type: class code bits 8 to 23.
    #[serde(default = "default_protocol")]
    pub protocol: u16,
    /// What the guest may write: its own and the common section, or nothing.
    #[serde(default)]
    pub access: GuestAccess,
    /// One-shot interrupts always; else the guest decides.
    #[serde(default)]
    pub one_shot: bool,
    /// PCI device number, 1 to 31; the next free one when absent.
    #[serde(default)]
    pub slot: Option<u8>,
    /// Peer id to ask for; any when absent.
    #[serde(default)]
    pub peer: Option<u16>,
    /// What a store to anybody else's part comes to.
    #[serde(default)]
    pub denied_writes: DeniedWrites,
}

impl HandleOf<PciDevice> for IvshmemV2Handle {
    const ID: &'static str = "ivshmem-v2";
}

const fn default_protocol() -> u16 {
    PORTAL_PROTOCOL
}

impl IvshmemV2Handle {
    /// With four vectors, Portal's protocol, read-write, any slot, any peer id.
    pub fn new(region: impl Into<String>) -> Self {
        IvshmemV2Handle {
            region: region.into(),
            vectors: DEFAULT_VECTORS,
            protocol: PORTAL_PROTOCOL,
            access: GuestAccess::default(),
            one_shot: false,
            slot: None,
            peer: None,
            denied_writes: DeniedWrites::default(),
        }
    }

    /// Checks every value; returns the region's name.
    ///
    /// # Errors
    /// [`Invalid`] names key, value and limit.
    pub fn check(&self) -> Result<Name, Invalid> {
        let region = region(&self.region)?;
        if self.vectors == 0 || !VECTORS.contains(&self.vectors) {
            let limit = format!("it has to be 1 to {}", VECTORS.end());
            return Err(Invalid::new("vectors", self.vectors, limit));
        }
        slot(self.slot)?;
        peer(self.peer)?;
        Ok(region)
    }
}

/// Persistent memory: a file, or a region whole, as a virtio-pmem device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VirtioPmemHandle {
    /// Path of a file that exists; a multiple of 2 MiB long. This or `region`.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// Name of the region. This or `path`.
    #[serde(default)]
    pub region: Option<String>,
    /// What the guest may do there.
    #[serde(default)]
    pub access: GuestAccess,
    /// PCI device number, 1 to 31; the next free one when absent.
    #[serde(default)]
    pub slot: Option<u8>,
    /// Peer id to ask for in the region; any when absent.
    #[serde(default)]
    pub peer: Option<u16>,
}

/// What a virtio-pmem device shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PmemSource {
    /// The file at this path.
    File(PathBuf),
    /// The region of this name.
    Region(Name),
}

impl HandleOf<PciDevice> for VirtioPmemHandle {
    const ID: &'static str = "virtio-pmem";
}

impl VirtioPmemHandle {
    /// A file, read-write, in any slot.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        VirtioPmemHandle {
            path: Some(path.into()),
            ..Self::default()
        }
    }

    /// A region, read-write, in any slot, with any peer id.
    pub fn region(name: impl Into<String>) -> Self {
        VirtioPmemHandle {
            region: Some(name.into()),
            ..Self::default()
        }
    }

    /// Checks every value; returns what is to be shown.
    ///
    /// # Errors
    /// [`Invalid`] names key, value and limit.
    pub fn check(&self) -> Result<PmemSource, Invalid> {
        slot(self.slot)?;
        peer(self.peer)?;
        match (&self.path, &self.region) {
            (Some(path), None) => Ok(PmemSource::File(path.clone())),
            (None, Some(name)) => region(name).map(PmemSource::Region),
            (None, None) => Err(Invalid::new("path", "absent", "it or region is needed")),
            (Some(path), Some(_)) => {
                let limit = "a device shows a path or a region, not both";
                Err(Invalid::new("path", path.display(), limit))
            }
        }
    }
}

/// A region at a guest physical address, without a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedRegionHandle {
    /// Name of the region.
    pub region: String,
    /// Guest physical address of its first byte; a multiple of 4096.
    pub gpa: u64,
    /// Peer id to ask for; any when absent.
    #[serde(default)]
    pub peer: Option<u16>,
    /// What the guest may write.
    #[serde(default)]
    pub mapping: Mapping,
    /// What any other store comes to.
    #[serde(default)]
    pub denied_writes: DeniedWrites,
}

impl HandleOf<MappedMemory> for FixedRegionHandle {
    const ID: &'static str = "region";
}

impl FixedRegionHandle {
    /// Sectioned, with any peer id.
    pub fn new(region: impl Into<String>, gpa: u64) -> Self {
        FixedRegionHandle {
            region: region.into(),
            gpa,
            peer: None,
            mapping: Mapping::default(),
            denied_writes: DeniedWrites::default(),
        }
    }

    /// Checks every value; returns the region's name.
    ///
    /// # Errors
    /// [`Invalid`] names key, value and limit.
    pub fn check(&self) -> Result<Name, Invalid> {
        let region = region(&self.region)?;
        if !self.gpa.is_multiple_of(PAGE) || self.gpa >= GPA_END {
            let limit = format!("it has to be a multiple of {PAGE} below {GPA_END:#x}");
            return Err(Invalid::new("gpa", format!("{:#x}", self.gpa), limit));
        }
        peer(self.peer)?;
        Ok(region)
    }
}

fn region(name: &str) -> Result<Name, Invalid> {
    Name::new(name).map_err(|error| Invalid::new("region", format!("{name:?}"), error.to_string()))
}

fn slot(number: Option<u8>) -> Result<(), Invalid> {
    match number {
        Some(slot) if !PCI_SLOTS.contains(&slot) => {
            let limit = format!("it has to be {} to {}", PCI_SLOTS.start(), PCI_SLOTS.end());
            Err(Invalid::new("slot", slot, limit))
        }
        _ => Ok(()),
    }
}

fn peer(id: Option<u16>) -> Result<(), Invalid> {
    match id {
        Some(id) if id >= MAX_PEERS => {
            let limit = format!("it has to be below {MAX_PEERS}");
            Err(Invalid::new("peer", id, limit))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_form_has_defaults() {
        let handle: IvshmemV1Handle = toml::from_str("region = \"lake\"").expect("reads");
        assert_eq!(handle, IvshmemV1Handle::new("lake"));
        assert!(handle.intx_with(true) && !handle.intx_with(false));
        assert_eq!(
            handle.check().map(|name| name.to_string()),
            Ok("lake".into())
        );
    }

    #[test]
    fn every_key_reads_and_no_other() {
        let text = "region = \"lake\"\nvectors = 0\nintx = false\nslot = 3\npeer = 9\n\
                    mapping = \"read-only\"\ndenied_writes = \"stop\"";
        let handle: IvshmemV1Handle = toml::from_str(text).expect("reads");
        assert_eq!(handle.slot, Some(3));
        assert_eq!(handle.mapping, Mapping::ReadOnly);
        assert_eq!(handle.denied_writes, DeniedWrites::Stop);
        assert!(handle.check().is_ok());
        let more = format!("{text}\nspeed = 11");
        let error = toml::from_str::<IvshmemV1Handle>(&more).expect_err("no such key");
        assert!(error.to_string().contains("speed"), "{error}");
        assert!(
            toml::from_str::<FixedRegionHandle>("region = \"a\"").is_err(),
            "gpa is missing"
        );
    }

    #[test]
    fn a_v2_handle_reads_and_is_checked() {
        let short: IvshmemV2Handle = toml::from_str("region = \"lake\"").expect("reads");
        assert_eq!(short, IvshmemV2Handle::new("lake"));
        assert_eq!(
            (short.protocol, short.access),
            (0x4000, GuestAccess::ReadWrite)
        );
        let text = "region = \"lake\"\nvectors = 0\naccess = \"ro\"\none_shot = true";
        let handle: IvshmemV2Handle = toml::from_str(text).expect("reads");
        assert_eq!(
            (handle.access, handle.one_shot),
            (GuestAccess::ReadOnly, true)
        );
        let invalid = handle.check().expect_err("there is no v2 without vectors");
        assert_eq!((invalid.key, invalid.value), ("vectors", "0".into()));
        assert!(toml::from_str::<IvshmemV2Handle>("region = \"a\"\nintx = true").is_err());
    }

    #[test]
    fn persistent_memory_is_a_file_or_a_region() {
        let of = |text: &str| {
            toml::from_str::<VirtioPmemHandle>(text)
                .expect("reads")
                .check()
        };
        let file = PmemSource::File("disk".into());
        assert_eq!(of("path = \"disk\"\naccess = \"ro\""), Ok(file));
        assert!(matches!(of("region = \"lake\""), Ok(PmemSource::Region(_))));
        for text in ["", "path = \"disk\"\nregion = \"lake\""] {
            assert_eq!(of(text).expect_err("one of them").key, "path");
        }
    }

    #[test]
    fn each_flaw_names_key_and_value() {
        let of = |change: &dyn Fn(&mut IvshmemV1Handle)| {
            let mut handle = IvshmemV1Handle::new("lake");
            change(&mut handle);
            let invalid = handle.check().expect_err("is wrong");
            (invalid.key, invalid.value)
        };
        assert_eq!(of(&|h| h.region = "/".into()), ("region", "\"/\"".into()));
        assert_eq!(of(&|h| h.vectors = 2049), ("vectors", "2049".into()));
        assert_eq!(of(&|h| h.slot = Some(0)), ("slot", "0".into()));
        assert_eq!(of(&|h| h.slot = Some(32)), ("slot", "32".into()));
        assert_eq!(of(&|h| h.peer = Some(1024)), ("peer", "1024".into()));
        assert_eq!(
            of(&|h| {
                h.vectors = 0;
                h.intx = Some(true);
            }),
            ("intx", "true".into())
        );
        for gpa in [1, 1 << 52, u64::MAX] {
            let invalid = FixedRegionHandle::new("lake", gpa)
                .check()
                .expect_err("is wrong");
            assert_eq!((invalid.key, invalid.value), ("gpa", format!("{gpa:#x}")));
        }
    }
}
