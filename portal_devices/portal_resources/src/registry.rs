//! From a resource to the thing, by the resolver that its id names.

use crate::Invalid;
use crate::resource::HandleOf;
use crate::resource::Resource;
use crate::resource::ResourceKind;
use std::collections::BTreeMap;
use std::marker::PhantomData;

/// Why a resource did not become a thing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// Nobody registered for this id.
    #[error("no {kind} is called {id:?}; there are: {known}")]
    Unknown {
        /// The kind.
        kind: &'static str,
        /// The id.
        id: String,
        /// The ids that are registered.
        known: String,
    },
    /// Two resolvers for one id.
    #[error("{kind} {id:?} is registered already")]
    Twice {
        /// The kind.
        kind: &'static str,
        /// The id.
        id: &'static str,
    },
    /// The handle does not read.
    #[error("{kind} {id:?}: {error}")]
    Handle {
        /// The kind.
        kind: &'static str,
        /// The id.
        id: String,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// A value in the handle does not fit.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The resolver failed.
    #[error("{0}")]
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

type Resolver<K, C, T> = Box<dyn Fn(&Resource<K>, &mut C) -> Result<T, ResolveError> + Send + Sync>;

/// The resolvers of one kind: `C` is what the host gives to each (its address
/// space, its switchboard), `T` is what it wants back.
pub struct Registry<K, C, T> {
    by_id: BTreeMap<&'static str, Resolver<K, C, T>>,
    kind: PhantomData<fn() -> K>,
}

impl<K: ResourceKind + 'static, C, T> Registry<K, C, T> {
    /// Knows no ids yet.
    pub fn new() -> Self {
        Registry {
            by_id: BTreeMap::new(),
            kind: PhantomData,
        }
    }

    /// Adds the resolver for handles of type `H`.
    ///
    /// # Errors
    /// [`ResolveError::Twice`].
    pub fn register<H: HandleOf<K>>(
        &mut self,
        resolve: impl Fn(H, &mut C) -> Result<T, ResolveError> + Send + Sync + 'static,
    ) -> Result<(), ResolveError> {
        if self.by_id.contains_key(H::ID) {
            return Err(ResolveError::Twice {
                kind: K::NAME,
                id: H::ID,
            });
        }
        let resolver = move |resource: &Resource<K>, context: &mut C| {
            let handle = resource
                .handle::<H>()
                .map_err(|error| ResolveError::Handle {
                    kind: K::NAME,
                    id: resource.id().to_owned(),
                    error,
                })?;
            match handle {
                Some(handle) => resolve(handle, context),
                None => Err(unknown::<K>(resource.id(), std::iter::once(H::ID))),
            }
        };
        self.by_id.insert(H::ID, Box::new(resolver));
        Ok(())
    }

    /// The registered ids, in order.
    pub fn ids(&self) -> impl Iterator<Item = &'static str> {
        self.by_id.keys().copied()
    }

    /// Makes the thing.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn resolve(&self, resource: &Resource<K>, context: &mut C) -> Result<T, ResolveError> {
        match self.by_id.get(resource.id()) {
            Some(resolver) => resolver(resource, context),
            None => Err(unknown::<K>(resource.id(), self.ids())),
        }
    }
}

fn unknown<K: ResourceKind>(id: &str, known: impl Iterator<Item = &'static str>) -> ResolveError {
    let known: Vec<_> = known.collect();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    ResolveError::Unknown {
        kind: K::NAME,
        id: id.to_owned(),
        known,
    }
}

impl<K: ResourceKind + 'static, C, T> Default for Registry<K, C, T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: ResourceKind, C, T> std::fmt::Debug for Registry<K, C, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("kind", &K::NAME)
            .field("ids", &self.by_id.keys().collect::<Vec<_>>())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FixedRegionHandle;
    use crate::IvshmemV1Handle;
    use crate::MappedMemory;
    use crate::PciDevice;

    fn registry() -> Registry<PciDevice, Vec<String>, u16> {
        let mut registry = Registry::new();
        registry
            .register(|handle: IvshmemV1Handle, seen: &mut Vec<String>| {
                handle.check()?;
                seen.push(handle.region.clone());
                Ok(handle.vectors)
            })
            .expect("the first of its id");
        registry
    }

    fn parse(text: &str) -> Resource<PciDevice> {
        serde_json::from_str(text).expect("id and handle")
    }

    #[test]
    fn a_handle_goes_through_text_to_its_resolver() {
        let handle = IvshmemV1Handle {
            vectors: 7,
            ..IvshmemV1Handle::new("lake")
        };
        let resource = Resource::<PciDevice>::new(&handle).expect("serialises");
        let text = serde_json::to_string(&resource).expect("serialises");
        let mut seen = Vec::new();
        let vectors = registry()
            .resolve(&parse(&text), &mut seen)
            .expect("resolves");
        assert_eq!((vectors, seen), (7, vec!["lake".to_owned()]));
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let text = |json: &str| {
            registry()
                .resolve(&parse(json), &mut Vec::new())
                .expect_err("is wrong")
                .to_string()
        };
        assert_eq!(
            text(r#"{"id":"ivshmen","handle":{}}"#),
            r#"no pci device is called "ivshmen"; there are: ivshmem-v1"#
        );
        let unknown = text(r#"{"id":"ivshmem-v1","handle":{"region":"a","vector":2}}"#);
        assert!(unknown.contains("unknown field `vector`"), "{unknown}");
        let high = text(r#"{"id":"ivshmem-v1","handle":{"region":"a","vectors":4000}}"#);
        assert_eq!(high, "vectors is 4000: it has to be 0 to 2048");
    }

    #[test]
    fn an_id_has_one_resolver_and_a_kind_its_own_ids() {
        let twice = registry().register(|_: IvshmemV1Handle, _: &mut Vec<String>| Ok(0));
        assert!(matches!(
            twice,
            Err(ResolveError::Twice {
                id: "ivshmem-v1",
                ..
            })
        ));
        let handle = FixedRegionHandle::new("lake", 1 << 36);
        let fixed = Resource::<MappedMemory>::new(&handle).expect("serialises");
        assert_eq!(
            fixed.handle::<FixedRegionHandle>().expect("reads"),
            Some(handle)
        );
    }
}
