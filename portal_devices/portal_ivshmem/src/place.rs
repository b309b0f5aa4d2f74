//! From a place in a region to the function that shows it.

use crate::ConfigError;
use crate::DeniedWrite;
use crate::IvshmemV1;
use crate::IvshmemV1Config;
use crate::IvshmemV2;
use crate::IvshmemV2Config;
use crate::Window;
use crate::Writable;
use hv_shmem::layout::Layout;
use hv_shmem::layout::PeerId;
use portal_device::Device;

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// [`IvshmemV1`].
    V1 {
        /// As of [`IvshmemV1Config::intx`].
        intx: bool,
    },
    /// [`IvshmemV2`].
    V2 {
        /// As of [`IvshmemV2Config::protocol`].
        protocol: u16,
        /// As of [`IvshmemV2Config::one_shot`].
        one_shot: bool,
    },
}

/// A place in a region, whatever function shows it.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Own peer id.
    pub peer: PeerId,
    /// Length of the region in bytes.
    pub len: u64,
    /// Where its parts lie; `None` for memory that is one, or holds no region.
    pub layout: Option<&'a Layout>,
    /// What the guest may write. Every part, where there is no layout.
    pub writable: Writable,
    /// Vectors to hear on.
    pub vectors: u16,
    /// What a store to a read-only part comes to.
    pub denied_write: DeniedWrite,
}

impl Place<'_> {
    /// The parts of the region that the function will ask to have mapped.
    pub fn windows(&self) -> Vec<Window> {
        match self.layout {
            Some(layout) => Window::of(layout, self.peer, self.writable),
            None => Window::flat(self.len, self.writable.access()),
        }
    }

    /// The function.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn function(&self, model: Model) -> Result<Box<dyn Device>, ConfigError> {
        Ok(match model {
            Model::V1 { intx } => Box::new(IvshmemV1::new(IvshmemV1Config {
                peer: self.peer.0,
                region_len: self.len,
                windows: self.windows(),
                denied_write: self.denied_write,
                vectors: self.vectors,
                intx,
            })?),
            Model::V2 { protocol, one_shot } => Box::new(IvshmemV2::new(IvshmemV2Config {
                peer: self.peer,
                layout: self.layout.ok_or(ConfigError::NoLayout)?.clone(),
                vectors: self.vectors,
                protocol,
                base: None,
                writable: self.writable,
                one_shot,
                denied_write: self.denied_write,
            })?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_shmem::layout::RegionSpec;
    use hv_shmem::name::Name;
    use portal_device::Effect;
    use portal_device::Effects;
    use portal_device::Input;

    const MODELS: [Model; 2] = [
        Model::V1 { intx: false },
        Model::V2 {
            protocol: 0x4000,
            one_shot: false,
        },
    ];

    fn place(layout: Option<&Layout>, writable: Writable) -> Place<'_> {
        Place {
            peer: PeerId(1),
            len: 1 << 20,
            layout,
            writable,
            vectors: 2,
            denied_write: DeniedWrite::Drop,
        }
    }

    /// What the function asks to have mapped once its guest has placed BAR2.
    fn mapped(place: &Place<'_>, model: Model) -> Vec<Window> {
        let mut device = place.function(model).expect("a function");
        let mut effects = Effects::new();
        device.step(Input::Attach, &mut effects);
        for (offset, value) in [(0x1c, 0x10), (0x04, 0x2)] {
            let len = 4;
            device.step(Input::ConfigWrite { offset, len, value }, &mut effects);
        }
        let window = |effect: &Effect| match *effect {
            Effect::Map {
                offset,
                len,
                access,
                ..
            } => Some(Window {
                offset,
                len,
                access,
            }),
            _ => None,
        };
        effects.list().iter().filter_map(window).collect()
    }

    #[test]
    fn a_function_asks_for_the_windows_of_its_place() {
        let name = Name::new("lake").expect("a name");
        let layout = Layout::compute(&RegionSpec::new(name, 1 << 20, 4)).expect("it fits");
        for writable in [Writable::Nothing, Writable::Own, Writable::All] {
            for model in MODELS {
                let place = place(Some(&layout), writable);
                assert_eq!(mapped(&place, model), place.windows(), "{model:?}");
            }
            let one = place(None, writable);
            assert_eq!(mapped(&one, MODELS[0]), one.windows());
        }
    }

    #[test]
    fn version_2_shows_regions_only() {
        let made = place(None, Writable::Own).function(MODELS[1]);
        assert_eq!(made.err(), Some(ConfigError::NoLayout));
    }
}
