//! A handle whose type is known by its id only.

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;

/// A place where things can be put.
pub trait ResourceKind {
    /// Name of the kind, for messages.
    const NAME: &'static str;
}

/// A PCI function of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PciDevice {}

impl ResourceKind for PciDevice {
    const NAME: &'static str = "pci device";
}

/// Memory that a partition sees at an address of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappedMemory {}

impl ResourceKind for MappedMemory {
    const NAME: &'static str = "mapped memory";
}

/// A handle that fits a kind.
pub trait HandleOf<K: ResourceKind>: Serialize + DeserializeOwned {
    /// Names this type of handle among those of the kind. Never changes: it is
    /// in configuration files and saved states.
    const ID: &'static str;
}

/// Any handle of kind `K`, with the id that says which.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound = "")]
pub struct Resource<K> {
    id: String,
    handle: serde_json::Value,
    #[serde(skip)]
    kind: PhantomData<fn() -> K>,
}

impl<K: ResourceKind> Resource<K> {
    /// Wraps a handle.
    ///
    /// # Errors
    /// When the handle has a value that JSON does not (none here has).
    pub fn new<H: HandleOf<K>>(handle: &H) -> Result<Self, serde_json::Error> {
        let handle = serde_json::to_value(handle)?;
        Ok(Resource {
            id: H::ID.to_owned(),
            handle,
            kind: PhantomData,
        })
    }

    /// Which type of handle it is.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The handle, if it is of type `H`.
    ///
    /// # Errors
    /// An unknown key, a missing one or a value of another type.
    pub fn handle<H: HandleOf<K>>(&self) -> Result<Option<H>, serde_json::Error> {
        if self.id != H::ID {
            return Ok(None);
        }
        H::deserialize(&self.handle).map(Some)
    }
}

impl<K> Clone for Resource<K> {
    fn clone(&self) -> Self {
        Resource {
            id: self.id.clone(),
            handle: self.handle.clone(),
            kind: PhantomData,
        }
    }
}

impl<K: ResourceKind> std::fmt::Debug for Resource<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resource")
            .field("kind", &K::NAME)
            .field("id", &self.id)
            .field("handle", &self.handle)
            .finish()
    }
}
