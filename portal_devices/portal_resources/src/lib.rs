//! Configuration handles: what a region or a device is made from, as data.
//!
//! A *handle* says what somebody wants (a region of 64 MiB on a memfd, an
//! ivshmem function for it); a *resolver* turns it into the thing. Handles are
//! plain `serde` structures that a configuration file, a command line or a
//! socket can carry, and a program that only writes handles links no device.
//!
//! ```text
//!   handle ── Resource::new ──▶ Resource<K> { id, handle } ── Registry::resolve ──▶ device
//!                                    │ ▲
//!                                 serialise
//! ```
//!
//! A *kind* ([`ResourceKind`]) is a place where things can be put (a PCI slot);
//! an *id* names one of the things that fit there. A VMM has one [`Registry`] a
//! kind, and a device joins by one `register` line; the VMM's own code does not
//! change.
//!
//! Specification: none. Distrusted: whoever wrote the handle, as far as mistakes
//! go: unknown keys are errors, and `check` names key, value and limit. Left
//! out: opening files, anything about the host.
//!
//! # Example
//!
//! ```
//! use portal_resources::{IvshmemV1Handle, PciDevice, Registry, Resource};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The VMM's side: what it hands to a resolver, what it wants back.
//! let mut registry: Registry<PciDevice, (), String> = Registry::new();
//! registry.register(|handle: IvshmemV1Handle, _: &mut ()| {
//!     handle.check()?;
//!     Ok(format!("ivshmem on {} with {} vectors", handle.region, handle.vectors))
//! })?;
//!
//! // The user's side.
//! let text = r#"{"id":"ivshmem-v1","handle":{"region":"lake","vectors":2}}"#;
//! let resource: Resource<PciDevice> = serde_json::from_str(text)?;
//! assert_eq!(registry.resolve(&resource, &mut ())?, "ivshmem on lake with 2 vectors");
//! # Ok(())
//! # }
//! ```

mod device;
mod region;
mod registry;
mod resource;

pub use device::DeniedWrites;
pub use device::FixedRegionHandle;
pub use device::GuestAccess;
pub use device::IvshmemV1Handle;
pub use device::IvshmemV2Handle;
pub use device::Mapping;
pub use device::PCI_SLOTS;
pub use device::PORTAL_PROTOCOL;
pub use device::PmemSource;
pub use device::VECTORS;
pub use device::VirtioPmemHandle;
pub use region::BackingHandle;
pub use region::HugePages;
pub use region::RegionHandle;
pub use registry::Registry;
pub use registry::ResolveError;
pub use resource::HandleOf;
pub use resource::MappedMemory;
pub use resource::PciDevice;
pub use resource::Resource;
pub use resource::ResourceKind;

/// A value that does not fit, with its key and its limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {value}: {limit}")]
pub struct Invalid {
    /// The key.
    pub key: &'static str,
    /// Its value, as text.
    pub value: String,
    /// What it has to be.
    pub limit: String,
}

impl Invalid {
    pub(crate) fn new(
        key: &'static str,
        value: impl std::fmt::Display,
        limit: impl Into<String>,
    ) -> Self {
        Invalid {
            key,
            value: value.to_string(),
            limit: limit.into(),
        }
    }
}
