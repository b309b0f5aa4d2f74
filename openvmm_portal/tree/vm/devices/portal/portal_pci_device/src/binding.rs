// Copyright (c) Microsoft Corporation.
// Licensed under the MIT License.

//! Carries out what the function asks for.

use crate::vector::Vector;
use chipset_device::mmio::ControlMmioIntercept;
use chipset_device::mmio::RegisterMmioIntercept;
use guestmem::DoorbellRegistration;
use guestmem::MappableGuestMemory;
use guestmem::MemoryMapper;
use inspect::Inspect;
use pal_event::Event;
use pci_core::msi::MsiTarget;
use portal_device::Access;
use portal_device::BarInfo;
use portal_device::Effect;
use portal_ivshmem::Window;
use portal_member::Member;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Context;
use vmcore::vm_task::VmTaskDriver;

/// A part of the region with one kind of access.
struct Part {
    memory: Box<dyn MappableGuestMemory>,
    mapped: Option<u64>,
}

/// A doorbell of the guest that the hypervisor rings by itself.
struct Doorbell {
    peer: u16,
    vector: u16,
    _registered: Box<dyn Send + Sync>,
}

/// What was not done, or not without user space.
#[derive(Inspect, Default)]
struct Counters {
    /// Doorbells of the guest that were an MMIO exit.
    doorbells_sent_by_hop: u64,
    /// Doorbells to a peer that is gone.
    doorbells_unheard: u64,
    /// Doorbells that could not be given to the hypervisor.
    doorbells_not_routed: u64,
    /// Maps that could not be made, for example over RAM.
    maps_refused: u64,
    /// Requests of a kind that is not known here.
    unknown: u64,
}

/// What stands on behalf of one function.
#[derive(Inspect)]
pub(crate) struct Binding {
    #[inspect(with = "|x| inspect::iter_by_key(x).map_value(|t| &**t)")]
    traps: BTreeMap<u8, Box<dyn ControlMmioIntercept>>,
    #[inspect(
        with = "|x| inspect::AsHex(inspect::iter_by_key(x).map_value(|p| inspect::AsHex(p.mapped)))"
    )]
    parts: BTreeMap<u64, Part>,
    #[inspect(iter_by_index)]
    vectors: Vec<Vector>,
    #[inspect(rename = "doorbells_kernel_direct", with = "BTreeMap::len")]
    doorbells: BTreeMap<(u64, u32), Doorbell>,
    #[inspect(skip)]
    registration: Option<Arc<dyn DoorbellRegistration>>,
    #[inspect(skip)]
    msi: MsiTarget,
    #[inspect(skip)]
    driver: VmTaskDriver,
    #[inspect(skip)]
    waits_changed: bool,
    counters: Counters,
}

impl Binding {
    /// Nothing stands yet. Registers the BARs and the parts of the region.
    pub(crate) fn new(
        bars: &[BarInfo],
        windows: &[Window],
        member: &Member,
        register_mmio: &mut dyn RegisterMmioIntercept,
        mapper: &dyn MemoryMapper,
        registration: Option<Arc<dyn DoorbellRegistration>>,
        msi: MsiTarget,
        driver: VmTaskDriver,
    ) -> anyhow::Result<Self> {
        let traps = bars
            .iter()
            .map(|bar| {
                let name = format!("portal-bar{}", bar.bar);
                (bar.bar, register_mmio.new_io_region(&name, bar.len))
            })
            .collect();
        let mut parts = BTreeMap::new();
        for window in windows {
            let name = format!("portal-region-{:#x}", window.offset);
            let (memory, backing) = mapper.new_region(window.len.try_into()?, name)?;
            let writable = window.access == Access::ReadWrite;
            member.map_window(
                window.offset..window.offset + window.len,
                writable,
                &*backing,
            )?;
            let mapped = None;
            parts.insert(window.offset, Part { memory, mapped });
        }
        let vectors = member
            .own_events()
            .iter()
            .cloned()
            .map(Vector::new)
            .collect();
        Ok(Self {
            traps,
            parts,
            vectors,
            doorbells: BTreeMap::new(),
            registration,
            msi,
            driver,
            waits_changed: false,
            counters: Counters::default(),
        })
    }

    /// Where to wait.
    pub(crate) fn driver(&self) -> &VmTaskDriver {
        &self.driver
    }

    /// Number of vectors that the function receives on.
    pub(crate) fn vectors(&self) -> u16 {
        self.vectors.len() as u16
    }

    /// The events that other peers signal, by vector.
    pub(crate) fn own_events(&self) -> Vec<Event> {
        self.vectors.iter().map(|v| v.event().clone()).collect()
    }

    /// Gives each vector the hypervisor's way to the guest. True when an event
    /// is another one now.
    pub(crate) fn make_routes(&mut self) -> bool {
        let mut changed = false;
        for vector in &mut self.vectors {
            changed |= vector.make_route(&self.msi);
        }
        changed
    }

    pub(crate) fn pause(&mut self) {
        self.vectors.iter_mut().for_each(|v| v.pause(true));
    }

    pub(crate) fn resume(&mut self) {
        self.vectors.iter_mut().for_each(|v| v.pause(false));
    }

    pub(crate) fn take_pending(&mut self, vector: u16) -> bool {
        let vector = self.vectors.get_mut(usize::from(vector));
        vector.is_some_and(Vector::take_pending)
    }

    pub(crate) fn poll_rung(&mut self, vector: u16, cx: &mut Context<'_>) -> bool {
        let vector = self.vectors.get_mut(usize::from(vector));
        vector.is_some_and(|vector| vector.poll(&self.driver, cx))
    }

    /// Whether waits have changed since the last call, so that a poll is due.
    pub(crate) fn take_waits_changed(&mut self) -> bool {
        std::mem::take(&mut self.waits_changed)
    }

    /// The BAR at `addr`, and the offset in it.
    pub(crate) fn find_bar(&self, addr: u64) -> Option<(u8, u64)> {
        let mut traps = self.traps.iter();
        traps.find_map(|(bar, trap)| Some((*bar, trap.offset_of(addr)?)))
    }

    pub(crate) fn carry_out(&mut self, effect: &Effect, member: &Member) {
        match *effect {
            Effect::Trap { bar, gpa, .. } => {
                if let Some(trap) = self.traps.get_mut(&bar) {
                    trap.map(gpa);
                }
            }
            Effect::Untrap { bar, .. } => {
                if let Some(trap) = self.traps.get_mut(&bar).filter(|t| t.addr().is_some()) {
                    trap.unmap();
                }
            }
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
                if self.parts.values().all(|part| part.mapped.is_none())
                    && let Some(trap) = self.traps.get_mut(&bar).filter(|t| t.addr().is_some())
                {
                    trap.unmap();
                }
            }
            Effect::RouteDoorbell {
                gpa,
                value,
                peer,
                vector,
            } => {
                self.route_doorbell(gpa, value, peer, vector, member);
            }
            Effect::UnrouteDoorbell { gpa, value, .. } => {
                self.doorbells.remove(&(gpa, value));
            }
            Effect::Connect { vector, msi } => self.with_vector(vector, |v| v.connect(msi)),
            Effect::Disconnect { vector } => self.with_vector(vector, Vector::disconnect),
            Effect::Listen { vector } => self.with_vector(vector, Vector::listen),
            Effect::Raise { msi, .. } => self.msi.signal_msi(msi.address, msi.data),
            Effect::Ring { peer, vector } => {
                self.counters.doorbells_sent_by_hop += 1;
                match member.bell(peer, vector) {
                    Some(event) => event.signal(),
                    None => self.counters.doorbells_unheard += 1,
                }
            }
            ref effect => {
                self.counters.unknown += 1;
                tracelimit::warn_ratelimited!(?effect, "portal device asks for what is not here");
            }
        }
    }

    fn map(&mut self, gpa: u64, offset: u64, writable: bool) {
        let Some(part) = self.parts.get_mut(&offset) else {
            self.counters.maps_refused += 1;
            return;
        };
        match part.memory.map_to_guest(gpa, writable) {
            Ok(()) => part.mapped = Some(gpa),
            Err(error) => {
                self.counters.maps_refused += 1;
                tracelimit::warn_ratelimited!(
                    error = &error as &dyn std::error::Error,
                    gpa,
                    offset,
                    "cannot map a part of the region"
                );
            }
        }
    }

    fn route_doorbell(&mut self, gpa: u64, value: u32, peer: u16, vector: u16, member: &Member) {
        let (Some(registration), Some(event)) = (&self.registration, member.bell(peer, vector))
        else {
            return;
        };
        match registration.register_doorbell(gpa, Some(value.into()), Some(4), event) {
            Ok(registered) => {
                let doorbell = Doorbell {
                    peer,
                    vector,
                    _registered: registered,
                };
                self.doorbells.insert((gpa, value), doorbell);
            }
            // The store is an MMIO exit then.
            Err(error) => {
                self.counters.doorbells_not_routed += 1;
                tracelimit::warn_ratelimited!(
                    error = &error as &dyn std::error::Error,
                    gpa,
                    value,
                    "doorbell takes the way through user space"
                );
            }
        }
    }

    /// The peer hears on other events now.
    pub(crate) fn route_again(&mut self, peer: u16, member: &Member) {
        let standing = self
            .doorbells
            .extract_if(.., |_, doorbell| doorbell.peer == peer);
        for ((gpa, value), doorbell) in standing.collect::<Vec<_>>() {
            let vector = doorbell.vector;
            // Two doorbells cannot stand at one place.
            drop(doorbell);
            self.route_doorbell(gpa, value, peer, vector, member);
        }
    }

    fn with_vector(&mut self, vector: u16, change: impl FnOnce(&mut Vector)) {
        if let Some(vector) = self.vectors.get_mut(usize::from(vector)) {
            change(vector);
            self.waits_changed = true;
        }
    }
}
