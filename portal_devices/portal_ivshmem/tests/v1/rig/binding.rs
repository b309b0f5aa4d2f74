//! A binding that only remembers what it was told, and objects to whatever no
//! VMM could carry out: doing twice, undoing what is not there.

use portal_device::Access;
use portal_device::Effect;
use portal_device::Msi;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Msi(Msi),
    Listen,
}

/// What stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Binding {
    /// BAR to address and length.
    pub(crate) traps: BTreeMap<u8, (u64, u64)>,
    /// Region offset to address, length and access.
    pub(crate) maps: BTreeMap<u64, (u64, u64, Access)>,
    /// Address, value, peer, vector.
    pub(crate) routes: BTreeSet<(u64, u32, u16, u16)>,
    pub(crate) vectors: BTreeMap<u16, Delivery>,
    pub(crate) line: bool,
    /// Of the last step.
    pub(crate) raised: Vec<(u16, Msi)>,
    pub(crate) rings: Vec<(u16, u16)>,
    /// States published in the last step.
    pub(crate) states: Vec<u32>,
    pub(crate) stopped: bool,
}

fn new<T>(old: Option<T>, effect: &Effect) -> Result<(), String> {
    match old {
        None => Ok(()),
        Some(_) => Err(format!("done twice: {effect:?}")),
    }
}

fn same<T: PartialEq>(old: Option<T>, value: T, effect: &Effect) -> Result<(), String> {
    if old == Some(value) {
        Ok(())
    } else {
        Err(format!("not there to be undone: {effect:?}"))
    }
}

impl Binding {
    pub(crate) fn apply(&mut self, effect: &Effect) -> Result<(), String> {
        match *effect {
            Effect::Trap { bar, gpa, len } => new(self.traps.insert(bar, (gpa, len)), effect),
            Effect::Untrap { bar, gpa, len } => same(self.traps.remove(&bar), (gpa, len), effect),
            Effect::Map {
                bar: 2,
                gpa,
                offset,
                len,
                access,
            } => new(self.maps.insert(offset, (gpa, len, access)), effect),
            Effect::Unmap {
                bar: 2,
                gpa,
                offset,
                len,
            } => {
                let old = self.maps.remove(&offset).map(|(gpa, len, _)| (gpa, len));
                same(old, (gpa, len), effect)
            }
            Effect::RouteDoorbell {
                gpa,
                value,
                peer,
                vector,
            } => {
                let fresh = self.routes.insert((gpa, value, peer, vector));
                new((!fresh).then_some(()), effect)
            }
            Effect::UnrouteDoorbell {
                gpa,
                value,
                peer,
                vector,
            } => same(
                Some(self.routes.remove(&(gpa, value, peer, vector))),
                true,
                effect,
            ),
            Effect::Connect { vector, msi } => {
                match self.vectors.insert(vector, Delivery::Msi(msi)) {
                    Some(Delivery::Msi(old)) if old == msi => Err(format!("twice: {effect:?}")),
                    Some(Delivery::Listen) => Err(format!("was listening: {effect:?}")),
                    _ => Ok(()),
                }
            }
            Effect::Listen { vector } => new(self.vectors.insert(vector, Delivery::Listen), effect),
            Effect::Disconnect { vector } => match self.vectors.remove(&vector) {
                Some(_) => Ok(()),
                None => Err(format!("not there to be undone: {effect:?}")),
            },
            Effect::Raise { vector, msi } => {
                self.raised.push((vector, msi));
                same(self.vectors.get(&vector), &Delivery::Msi(msi), effect)
            }
            Effect::Line { asserted } => {
                same(Some(self.line), !asserted, effect)?;
                self.line = asserted;
                Ok(())
            }
            Effect::Ring { peer, vector } => {
                self.rings.push((peer, vector));
                Ok(())
            }
            Effect::PublishState { state } => {
                self.states.push(state);
                Ok(())
            }
            Effect::Stop(_) => {
                self.stopped = true;
                Ok(())
            }
            _ => Err(format!("not an effect of this device: {effect:?}")),
        }
    }
}
