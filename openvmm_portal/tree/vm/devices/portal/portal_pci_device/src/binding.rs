// Copyright (c) Microsoft Corporation.
// Licensed under the MIT License.

//! Carries out what the function asks for.

use crate::line::Line;
use chipset_device::mmio::ControlMmioIntercept;
use futures::task::AtomicWaker;
use guestmem::DoorbellRegistration;
use guestmem::MappableGuestMemory;
use hv_shmem::doorbell::Doorbell as _;
use hv_shmem::doorbell::EventFd;
use hv_shmem::layout::PeerId;
use pal_event::Event;
use pci_core::msi::MsiTarget;
use portal_client::Seat;
use portal_device::Access;
use portal_device::Counter;
use portal_device::Effect;
use portal_device::inspect::Hex;
use portal_device::inspect::Node;
use portal_device::standing::Delivery;
use portal_device::standing::Doorbells;
use portal_device::standing::Vectors;
use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::task::Context;
use vmcore::vm_task::VmTaskDriver;

/// A part of the region with one kind of access.
pub(crate) struct Part {
    pub(crate) memory: Box<dyn MappableGuestMemory>,
    pub(crate) mapped: Option<u64>,
}

/// What stands on behalf of one function.
pub(crate) struct Binding {
    /// By BAR.
    pub(crate) traps: BTreeMap<u8, Box<dyn ControlMmioIntercept>>,
    /// By offset in the region.
    pub(crate) parts: BTreeMap<u64, Part>,
    pub(crate) lines: Vec<Line>,
    pub(crate) vectors: Vectors,
    pub(crate) doorbells: Doorbells<Box<dyn Send + Sync>>,
    pub(crate) registration: Option<Arc<dyn DoorbellRegistration>>,
    pub(crate) msi: MsiTarget,
    pub(crate) driver: VmTaskDriver,
    /// Woken when there is something new to wait for.
    pub(crate) waker: Arc<AtomicWaker>,
    pub(crate) maps_refused: Counter,
    pub(crate) unknown: Counter,
}

/// An event of the same open file, for who only signals it.
fn event(bell: &EventFd) -> std::io::Result<Event> {
    Ok(Event::from(bell.as_fd().try_clone_to_owned()?))
}

impl Binding {
    /// Gives each vector the hypervisor's way to the guest. The events that the function
    /// hears on from then on, if one is another now.
    pub(crate) fn make_routes(&mut self) -> Option<Vec<Arc<EventFd>>> {
        let mut changed = false;
        for (vector, line) in (0..).zip(&mut self.lines) {
            if line.make_route(&self.msi) {
                self.vectors.set_direct(vector, true);
                changed = true;
            }
        }
        changed.then(|| self.lines.iter().map(|line| line.event().clone()).collect())
    }

    /// While the VM is paused every event stays where it is.
    pub(crate) fn set_paused(&mut self, paused: bool) {
        self.vectors.set_paused(paused);
        (0..self.vectors.count()).for_each(|vector| self.deliver(vector));
    }

    fn deliver(&mut self, vector: u16) {
        if let Some(line) = self.lines.get_mut(usize::from(vector)) {
            line.deliver(self.vectors.delivery(vector));
            self.waker.wake();
        }
    }

    /// Whether `vector` rang while it was disconnected.
    pub(crate) fn take_pending(&self, vector: u16) -> bool {
        let line = self.lines.get(usize::from(vector));
        self.vectors.is_disconnected(vector) && line.is_some_and(Line::take)
    }

    /// Whether `vector` rang, and the function is to be told.
    pub(crate) fn poll_rung(&mut self, vector: u16, cx: &mut Context<'_>) -> bool {
        let told = self.vectors.delivery(vector) == Delivery::Told;
        let line = self.lines.get_mut(usize::from(vector)).filter(|_| told);
        let rung = line.is_some_and(|line| line.poll(&self.driver, cx));
        if rung {
            self.vectors.told(vector);
        }
        rung
    }

    /// The BAR at `addr`, and the offset in it.
    pub(crate) fn find_bar(&self, addr: u64) -> Option<(u8, u64)> {
        let mut traps = self.traps.iter();
        traps.find_map(|(bar, trap)| Some((*bar, trap.offset_of(addr)?)))
    }

    pub(crate) fn carry_out(&mut self, effect: &Effect, seat: &Seat) {
        match *effect {
            Effect::Trap { bar, gpa, .. } => {
                if let Some(trap) = self.traps.get_mut(&bar) {
                    trap.map(gpa);
                }
            }
            Effect::Untrap { bar, .. } => self.untrap(bar),
            Effect::Map {
                bar,
                gpa,
                offset,
                access,
                ..
            } => {
                // Below the map, so that a store to a part that is read-only to
                // the guest reaches the function and is counted.
                if let Some(trap) = self.traps.get_mut(&bar).filter(|t| t.addr().is_none()) {
                    trap.map(gpa.wrapping_sub(offset));
                }
                self.map(gpa, offset, access == Access::ReadWrite);
            }
            Effect::Unmap { bar, offset, .. } => {
                if let Some(part) = self.parts.get_mut(&offset)
                    && part.mapped.take().is_some()
                {
                    part.memory.unmap_from_guest();
                }
                if self.parts.values().all(|part| part.mapped.is_none()) {
                    self.untrap(bar);
                }
            }
            Effect::RouteDoorbell {
                gpa,
                value,
                peer,
                vector,
            } => self.route_doorbell(gpa, value, peer, vector, seat),
            Effect::UnrouteDoorbell { gpa, value, .. } => {
                self.doorbells.remove((gpa, value));
            }
            Effect::Connect { .. } | Effect::Disconnect { .. } | Effect::Listen { .. } => {
                if let Some(vector) = self.vectors.take_in(effect) {
                    self.deliver(vector);
                }
            }
            Effect::Raise { msi, .. } => self.msi.signal_msi(msi.address, msi.data),
            Effect::Ring { peer, vector } => {
                let bell = seat.bell(PeerId(peer), vector);
                let heard = bell.is_some_and(|bell| bell.ring().is_ok());
                self.doorbells.rang(peer, vector, heard);
            }
            ref effect => {
                self.unknown.bump();
                tracelimit::warn_ratelimited!(?effect, "portal device asks for what is not here");
            }
        }
    }

    fn untrap(&mut self, bar: u8) {
        if let Some(trap) = self.traps.get_mut(&bar).filter(|t| t.addr().is_some()) {
            trap.unmap();
        }
    }

    fn map(&mut self, gpa: u64, offset: u64, writable: bool) {
        let Some(part) = self.parts.get_mut(&offset) else {
            self.maps_refused.bump();
            return;
        };
        match part.memory.map_to_guest(gpa, writable) {
            Ok(()) => part.mapped = Some(gpa),
            Err(error) => {
                self.maps_refused.bump();
                tracelimit::warn_ratelimited!(
                    error = &error as &dyn std::error::Error,
                    gpa,
                    offset,
                    "cannot map a part of the region"
                );
            }
        }
    }

    fn route_doorbell(&mut self, gpa: u64, value: u32, peer: u16, vector: u16, seat: &Seat) {
        let bell = seat.bell(PeerId(peer), vector);
        let (Some(registration), Some(bell)) = (&self.registration, bell) else {
            return;
        };
        let routed = event(&bell).and_then(|event| {
            registration.register_doorbell(gpa, Some(value.into()), Some(4), &event)
        });
        match routed {
            Ok(route) => self.doorbells.stands((gpa, value), (peer, vector), route),
            // The store is an MMIO exit then.
            Err(error) => {
                self.doorbells.not_routed();
                tracelimit::warn_ratelimited!(
                    error = &error as &dyn std::error::Error,
                    gpa,
                    value,
                    "doorbell takes the way through user space"
                );
            }
        }
    }

    pub(crate) fn inspect(&self) -> Node {
        let mut traps = Node::new();
        for (bar, trap) in &self.traps {
            traps.push(format!("bar{bar}"), trap.addr().map(Hex));
        }
        let mut parts = Node::new();
        for (offset, part) in &self.parts {
            parts.push(format!("{offset:#x}"), part.mapped.map(Hex));
        }
        Node::new()
            .with("traps", traps)
            .with("mapped", parts)
            .with("maps_refused", self.maps_refused.get())
            .with("unknown", self.unknown.get())
            .with("vectors", self.vectors.inspect())
            .with("doorbells", self.doorbells.inspect())
    }
}
