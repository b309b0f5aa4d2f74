//! Carries a device's effects out in this VMM's words, and the guest's accesses
//! in: the binding between `portal_device` and the hypervisor.
//!
//! The device decides what should stand; this decides only whether it can. What
//! a guest asked for and cannot have (a BAR over RAM) is counted and left
//! undone. A device that asks to write where its peer may not is refused too,
//! so that a mistake in a device does not open another peer's section.

use crate::FaultKind;
use crate::Member;
use crate::SharedRegion;
use crate::VmmError;
use crate::Writable;
use crate::address_map::Place;
use crate::fabric::Fabric;
use crate::flusher::Flusher;
use crate::guard::Guard;
use crate::guard::stands;
use crate::hv;
use crate::hv::InterruptRoute;
use crate::hv::MsiMessage;
use crate::hv::StopCause;
use crate::listener;
use crate::listener::Listening;
use crate::memory::HostRange;
use crate::platform::Paths;
use crate::platform::Resources;
use crate::storage::Storage;
use crate::virtqueue::Broken;
use crate::virtqueue::Rings;
use crate::virtqueue::Setup;
use hv_shmem::doorbell::Doorbell;
use hv_shmem::doorbell::EventFd;
use hv_shmem::layout::PeerId;
use portal_device::Access;
use portal_device::Counter;
use portal_device::Device;
use portal_device::Effect;
use portal_device::Effects;
use portal_device::Input;
use portal_device::Msi;
use portal_device::StopReason;
use portal_device::inspect::Node;
use portal_device::standing::Delivery;
use portal_device::standing::Doorbells;
use portal_device::standing::Vectors;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// A device and what its binding may reach on its behalf: what a resolver makes
/// of a handle.
pub struct ResolvedDevice {
    /// Name in messages and statistics.
    pub name: String,
    /// The state machine.
    pub device: Box<dyn Device>,
    /// Device number on the PCI bus, 1 to 31; the next free one when absent.
    pub slot: Option<u8>,
    /// The region behind its BAR.
    pub region: Option<DeviceRegion>,
    /// The file behind its memory, for devices that are no peers.
    pub storage: Option<Storage>,
    /// Where doorbells go and come from.
    pub fabric: Option<Arc<dyn Fabric>>,
    /// The device's place in the region, given up when the partition ends. The
    /// device is told of the member's neighbours.
    pub member: Option<Member>,
}

/// What of which region a device may map.
#[derive(Clone, Debug)]
pub struct DeviceRegion {
    /// The region.
    pub region: Arc<SharedRegion>,
    /// The peer that the device is in it.
    pub peer: PeerId,
    /// What it may write.
    pub writable: Writable,
}

impl std::fmt::Debug for ResolvedDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResolvedDevice")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl ResolvedDevice {
    fn bell(&self, peer: u16, vector: u16) -> Option<Arc<EventFd>> {
        self.fabric.as_ref()?.bell(peer, vector)
    }

    /// The event that this device hears `vector` on.
    fn own_bell(&self, vector: u16) -> Option<Arc<EventFd>> {
        self.bell(self.region.as_ref()?.peer.0, vector)
    }

    /// How many vectors it hears on.
    fn vectors(&self) -> u16 {
        let mut vectors = 0..u16::MAX;
        let end = vectors.find(|vector| self.own_bell(*vector).is_none());
        end.unwrap_or(u16::MAX)
    }
}

/// Effects that were not carried out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Could not be carried out because of what the guest asked for.
    pub(crate) refused: Counter,
    /// Effects that this binding does not know, or has no means for.
    pub(crate) unknown: Counter,
    /// Queues that the guest has broken.
    pub(crate) broken: Counter,
}

pub(crate) struct Binding {
    index: usize,
    parts: ResolvedDevice,
    effects: Effects,
    /// Device number on the PCI bus.
    slot: usize,
    vectors: Vectors,
    routes: BTreeMap<u16, (InterruptRoute, Arc<EventFd>)>,
    /// Vectors whose events a thread brings in.
    listening: BTreeMap<u16, Listening>,
    doorbells: Doorbells<Arc<EventFd>>,
    rings: Rings,
    flusher: Option<Flusher>,
    /// What effects of a step have for the device in turn.
    answers: VecDeque<Input>,
    counts: Counts,
    /// The last effect that was not carried out, in words.
    refusal: Option<String>,
}

impl Binding {
    pub(crate) fn new(index: usize, slot: usize, parts: ResolvedDevice) -> Self {
        Self {
            index,
            slot,
            vectors: Vectors::new(parts.vectors()),
            parts,
            effects: Effects::new(),
            routes: BTreeMap::new(),
            listening: BTreeMap::new(),
            doorbells: Doorbells::default(),
            rings: Rings::default(),
            flusher: None,
            answers: VecDeque::new(),
            counts: Counts::default(),
            refusal: None,
        }
    }

    /// Starts what the device needs beside the vCPUs, while that is still allowed.
    ///
    /// # Errors
    /// As of [`Flusher::start`].
    pub(crate) fn start_flusher(&mut self, on: &Resources) -> Result<(), VmmError> {
        if let Some(storage) = &self.parts.storage
            && storage.access() == Access::ReadWrite
        {
            let (owner, fences) = (on.owner.clone(), on.paths.fences);
            self.flusher = Some(Flusher::start(storage, owner, self.index, fences)?);
        }
        Ok(())
    }

    /// Why the last effect that was not carried out was not.
    pub(crate) fn take_refusal(&mut self) -> Option<String> {
        self.refusal.take()
    }

    pub(crate) fn name(&self) -> &str {
        &self.parts.name
    }

    pub(crate) fn slot(&self) -> usize {
        self.slot
    }

    pub(crate) fn device(&self) -> &dyn Device {
        &*self.parts.device
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) fn doorbells(&self) -> &Doorbells<Arc<EventFd>> {
        &self.doorbells
    }

    /// What an operator may want to see of the binding.
    pub(crate) fn inspect(&self) -> Node {
        let at = self.parts.region.as_ref();
        Node::new()
            .with("slot", self.slot as u64)
            .with("region", at.map(|at| at.region.name().to_owned()))
            .with("peer", at.map(|at| at.peer.0))
            .with("doorbells_seen", self.doorbells.sent().get())
            .with("doorbells_to", self.doorbells.heard())
            .with("doorbells_routed", self.doorbells.direct())
            .with("doorbells_unheard", self.doorbells.unheard().get())
            .with("vectors_routed", self.routes.len() as u64)
            .with("vectors_listened", self.listening.len() as u64)
            .with("refused", self.counts.refused.get())
            .with("unknown", self.counts.unknown.get())
    }

    /// What its BARs show of a region or of storage is part of this.
    pub(crate) fn memory(&self) -> Option<&HostRange> {
        match (&self.parts.region, &self.parts.storage) {
            (Some(at), _) => Some(at.region.memory()),
            (None, storage) => storage.as_ref().map(Storage::memory),
        }
    }

    pub(crate) fn region_name(&self) -> &str {
        let storage = self.parts.storage.as_ref().map_or("", Storage::name);
        let region = self.parts.region.as_ref();
        region.map_or(storage, |at| at.region.name())
    }

    /// Gives the device an input and carries its effects out, and so on with what
    /// those have for the device: requests that came off a ring, their return. A
    /// notification brings at most as many requests as its queue has entries.
    ///
    /// # Errors
    /// [`StopCause`] when the device stops the partition.
    pub(crate) fn step(&mut self, input: Input, on: &Resources) -> Result<u64, StopCause> {
        let value = self.step_once(input, on)?;
        while let Some(input) = self.answers.pop_front() {
            self.step_once(input, on)?;
        }
        Ok(value)
    }

    fn step_once(&mut self, input: Input, on: &Resources) -> Result<u64, StopCause> {
        self.effects.clear();
        self.parts.device.step(input, &mut self.effects);
        let value = self.effects.value();
        if self.effects.list().is_empty() {
            return Ok(value);
        }
        let mut stop = None;
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain() {
            if let Effect::Stop(reason) = effect {
                stop.get_or_insert(reason);
            } else if let Err(error) = self.carry_out(&effect, on) {
                if self.counts.refused.bump() {
                    let device = self.parts.name.as_str();
                    tracing::warn!(device, ?effect, %error, "not carried out");
                }
                self.refusal = Some(error.to_string());
            }
        }
        self.effects = effects;
        match stop {
            Some(reason) => Err(self.stop(reason)),
            None => Ok(value),
        }
    }

    fn stop(&self, reason: StopReason) -> StopCause {
        StopCause::Fault(FaultKind::Device {
            device: self.parts.name.clone(),
            reason: reason.to_string(),
        })
    }

    /// Before a read that shows pending vectors: hands over what waits in the
    /// events of vectors that nobody delivers.
    ///
    /// # Errors
    /// [`StopCause`].
    pub(crate) fn collect_pending(
        &mut self,
        bar: u8,
        offset: u64,
        on: &Resources,
    ) -> Result<(), StopCause> {
        if !self.parts.device.shows_pending(bar, offset) {
            return Ok(());
        }
        for vector in 0..self.vectors.count() {
            let idle = self.vectors.is_disconnected(vector);
            let bell = self.parts.own_bell(vector).filter(|_| idle);
            if bell.is_some_and(|bell| matches!(bell.take(), Ok(true))) {
                self.step(Input::Rung { vector }, on)?;
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, effect: &Effect, on: &Resources) -> Result<(), VmmError> {
        let device = self.index;
        match *effect {
            Effect::Trap { bar, gpa, len } => {
                let place = Place::Registers { device, bar };
                on.map_mut().insert(gpa, len, place, false)?;
            }
            Effect::Untrap { bar, gpa, .. } => {
                let place = Place::Registers { device, bar };
                on.map_mut().remove(gpa, |there| *there == place);
            }
            Effect::Map {
                bar,
                gpa,
                offset,
                len,
                access,
            } => self.map(bar, gpa, offset..offset.saturating_add(len), access, on)?,
            Effect::Unmap { bar, gpa, .. } => {
                let ours = |there: &Place| matches!(there, Place::DeviceMemory { device: d, bar: b, .. } if (*d, *b) == (device, bar));
                let mut map = on.map_mut();
                if let Some(Some(slot)) = map.remove(gpa, ours) {
                    on.hv.unmap(slot)?;
                }
            }
            Effect::RouteDoorbell {
                gpa,
                value,
                peer,
                vector,
            } => {
                // Left undone, the store leaves the guest and comes in as a write.
                if on.paths.doorbells
                    && let Some(route) = self.parts.bell(peer, vector)
                {
                    on.hv.route_doorbell(gpa, value, route.as_fd())?;
                    self.doorbells.stands((gpa, value), (peer, vector), route);
                }
            }
            Effect::UnrouteDoorbell { gpa, value, .. } => {
                if let Some(bell) = self.doorbells.remove((gpa, value)) {
                    on.hv.unroute_doorbell(gpa, value, bell.as_fd())?;
                }
            }
            Effect::Connect { vector, .. }
            | Effect::Disconnect { vector }
            | Effect::Listen { vector } => {
                // Else the device answers each `Rung` with `Raise`.
                let direct = on.paths.interrupts && on.paths.gap.is_zero();
                self.vectors.set_direct(vector, direct);
                self.vectors.take_in(effect);
                self.deliver(vector, on)?;
            }
            Effect::Line { asserted } => on.set_pin(self.slot, asserted)?,
            Effect::Raise { msi, .. } => on.hv.signal(message(msi))?,
            Effect::Ring { peer, vector } => {
                let bell = self.parts.bell(peer, vector);
                let heard = bell.is_some_and(|bell| bell.ring().is_ok());
                self.doorbells.rang(peer, vector, heard);
            }
            Effect::PublishState { state } => match &self.parts.fabric {
                Some(fabric) => fabric.publish(state)?,
                None => self.unknown(effect),
            },
            Effect::QueueStart {
                queue,
                size,
                descriptors,
                driver,
                device,
                resume,
            } => {
                let setup = Setup {
                    size,
                    descriptors,
                    driver,
                    device,
                    resume,
                };
                let done = self.rings.start(queue, &setup, &on.queue_memory);
                self.unless_broken(queue, done);
            }
            Effect::QueueStop { queue } => self.rings.stop(queue),
            Effect::QueueKick { queue } => {
                let done = self.rings.kick(queue, &on.queue_memory);
                let requests = self.unless_broken(queue, done);
                self.answers.extend(requests.into_iter().flatten());
            }
            Effect::Complete {
                queue,
                token,
                answer,
                len,
            } => {
                let bytes = answer.to_le_bytes();
                let answer = bytes.get(..len as usize).unwrap_or(&bytes);
                let done = self.rings.complete(queue, token, answer, &on.queue_memory);
                if self.unless_broken(queue, done) == Some(true) {
                    self.answers.push_back(Input::QueueUsed { queue });
                }
            }
            Effect::Flush { token, .. } => {
                let begun = self.flusher.as_ref().is_some_and(|it| it.flush(token));
                if !begun {
                    self.unknown(effect);
                    self.answers.push_back(Input::Flushed { token, ok: false });
                }
            }
            // `step_once` has taken it.
            Effect::Stop(_) => {}
            _ => self.unknown(effect),
        }
        Ok(())
    }

    /// A queue that cannot be walked is over, and the device is told.
    fn unless_broken<T>(&mut self, queue: u16, done: Result<T, Broken>) -> Option<T> {
        if let Ok(done) = done {
            return Some(done);
        }
        self.counts.broken.bump();
        self.rings.stop(queue);
        self.answers.push_back(Input::QueueBroken { queue });
        None
    }

    fn unknown(&mut self, effect: &Effect) {
        if self.counts.unknown.bump() {
            let device = self.parts.name.as_str();
            tracing::warn!(device, ?effect, "there is no way to do this");
        }
    }

    fn map(
        &mut self,
        bar: u8,
        gpa: u64,
        bytes: std::ops::Range<u64>,
        access: Access,
        on: &Resources,
    ) -> Result<(), VmmError> {
        let refuse = |reason: &str| VmmError::Device {
            device: self.parts.name.clone(),
            reason: format!("{reason}: {bytes:#x?} at {gpa:#x}"),
        };
        let (memory, allowed) = match (&self.parts.region, &self.parts.storage) {
            (Some(at), _) => {
                let allowed = at.region.may_write(at.peer, at.writable, &bytes);
                (at.region.memory(), allowed)
            }
            (None, Some(storage)) => (storage.memory(), storage.access() == Access::ReadWrite),
            (None, None) => return Err(refuse("has no memory to map")),
        };
        let len = bytes.end.saturating_sub(bytes.start);
        let Some(host) = memory.part(bytes.start, len) else {
            return Err(refuse("asks for bytes outside its memory"));
        };
        if access == Access::ReadWrite && !allowed {
            return Err(refuse("asks to write what another peer writes"));
        }
        let place = Place::DeviceMemory {
            device: self.index,
            bar,
            access,
            offset: bytes.start,
        };
        let mut map = on.map_mut();
        let Some(slot) = map.insert(gpa, len, place, true)? else {
            return Ok(());
        };
        let done = on.hv.map(slot, gpa, host, hv_access(access));
        if done.is_err() {
            map.remove(gpa, |_| true);
        }
        done
    }

    /// Gives the vector's events the way that they are to take now.
    fn deliver(&mut self, vector: u16, on: &Resources) -> Result<(), VmmError> {
        self.listening.remove(&vector);
        if let Some((route, bell)) = self.routes.remove(&vector) {
            on.hv.disconnect(bell.as_fd(), route)?;
        }
        let delivery = self.vectors.delivery(vector);
        if delivery == Delivery::Held {
            return Ok(());
        }
        let bell = self.parts.own_bell(vector);
        let bell = bell.ok_or_else(|| VmmError::Device {
            device: self.parts.name.clone(),
            reason: format!("has no event for its vector {vector}"),
        })?;
        if let Delivery::Direct(msi) = delivery {
            let route = on.hv.connect(bell.as_fd(), message(msi))?;
            self.routes.insert(vector, (route, bell));
            return Ok(());
        }
        let Paths { fences, gap, .. } = on.paths;
        let gap = if stands(Guard::Budget) {
            gap
        } else {
            Duration::ZERO
        };
        let listening = listener::listen(&on.owner, fences, self.index, vector, bell, gap)?;
        self.listening.insert(vector, listening);
        Ok(())
    }

    /// The partition is built: what rang before is told now.
    pub(crate) fn listen_again(&self) {
        for listening in self.listening.values() {
            listening.again();
        }
    }
}

fn message(msi: Msi) -> MsiMessage {
    MsiMessage {
        address: msi.address,
        data: msi.data,
    }
}

pub(crate) fn hv_access(access: Access) -> hv::Access {
    match access {
        Access::ReadOnly if stands(Guard::SecondStage) => hv::Access::ReadOnly,
        Access::ReadOnly | Access::ReadWrite => hv::Access::ReadWrite,
    }
}
