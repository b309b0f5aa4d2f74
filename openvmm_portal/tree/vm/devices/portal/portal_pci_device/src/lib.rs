// Copyright (c) Microsoft Corporation.
// Licensed under the MIT License.

//! A region of shared memory behind a PCI function.
//!
//! The function itself (its configuration space, MSI-X table, registers and
//! what follows from them) is a state machine of `portal_ivshmem` that knows no
//! VMM. It is given what happens, and gives back what should stand: this BAR
//! trapped here, that part of the region mapped there, this doorbell routed,
//! that vector connected. This crate carries that out in OpenVMM's words
//! (`binding`), and brings in what the other peers of the region do
//! ([`Member`]).
//!
//! Doorbells take no detour where the host can help: a store of the guest to
//! another peer's vector is a registered doorbell on that peer's event, and the
//! event of an own vector is that of an MSI route. Where the host cannot, the
//! store is an MMIO exit and the event is waited for here.
//!
//! The guest is not trusted, and neither is any other peer of the region.

#![forbid(unsafe_code)]
#![cfg(target_os = "linux")]

mod binding;
mod inspection;
pub mod pmem;
pub mod resolver;
mod saved_state;
#[cfg(test)]
mod tests;
mod vector;

use binding::Binding;
use chipset_device::ChipsetDevice;
use chipset_device::io::IoResult;
use chipset_device::mmio::MmioIntercept;
use chipset_device::pci::ByteEnabledDwordRead;
use chipset_device::pci::ByteEnabledDwordWrite;
use chipset_device::pci::PciConfigSpace;
use chipset_device::poll_device::PollDevice;
use inspect::InspectMut;
use portal_device::Device;
use portal_device::Effect;
use portal_device::Effects;
use portal_device::Input;
use portal_member::Change;
use portal_member::Member;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use vmcore::device_state::ChangeDeviceState;

/// The function, its binding and its place in the region.
pub struct PortalPciDevice {
    function: Box<dyn Device>,
    effects: Effects,
    binding: Binding,
    member: Member,
    /// Set by the first poll; woken when there is something new to wait for.
    waker: Option<Waker>,
    /// The function asked to stop: it answers nothing from then on.
    stopped: Option<String>,
}

impl PortalPciDevice {
    fn new(function: Box<dyn Device>, binding: Binding, member: Member) -> Self {
        let mut this = Self {
            function,
            effects: Effects::new(),
            binding,
            member,
            waker: None,
            stopped: None,
        };
        this.step(Input::Attach);
        this
    }

    /// Gives the function an input, carries out what it asks for, and returns
    /// its answer.
    fn step(&mut self, input: Input) -> u64 {
        self.effects.clear();
        self.function.step(input, &mut self.effects);
        self.carry_out();
        self.effects.value()
    }

    fn carry_out(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain() {
            match effect {
                Effect::Stop(reason) => {
                    tracing::error!(%reason, "portal device stopped");
                    self.stopped.get_or_insert(reason.to_string());
                }
                Effect::PublishState { state } => self.member.publish_state(state),
                effect => self.binding.carry_out(&effect, &self.member),
            }
        }
        self.effects = effects;
        if self.binding.take_waits_changed()
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }

    /// Tells the function of events that nobody delivers at the moment.
    fn collect_pending(&mut self) {
        for vector in 0..self.binding.vectors() {
            if self.binding.take_pending(vector) {
                self.step(Input::Rung { vector });
            }
        }
    }

    fn take_in(&mut self, change: Change) {
        let input = match change {
            Change::Joined { peer, vectors } => Input::PeerJoined { peer, vectors },
            Change::Ready { peer } => Input::PeerReady { peer },
            Change::Quiescing { peer } => Input::PeerQuiescing { peer },
            Change::Gone { peer } => Input::PeerGone { peer },
            Change::Bells { peer } => return self.binding.route_again(peer, &self.member),
        };
        self.step(input);
    }

    fn place_of(&self, addr: u64, len: usize) -> Option<(u8, u64, u8)> {
        let len = u8::try_from(len).ok().filter(|len| *len <= 8)?;
        let (bar, offset) = self.binding.find_bar(addr)?;
        self.stopped.is_none().then_some((bar, offset, len))
    }
}

impl ChangeDeviceState for PortalPciDevice {
    fn start(&mut self) {
        // MSI routes exist only once the device is wired up, so this is the
        // first moment at which an own vector can have the route's event.
        if self.binding.make_routes() {
            self.member.set_own_events(self.binding.own_events());
        }
        self.binding.resume();
        self.member.ready();
    }

    async fn stop(&mut self) {
        // A doorbell that arrives from now on stays in its event.
        self.binding.pause();
    }

    async fn reset(&mut self) {
        self.stopped = None;
        self.step(Input::Reset);
        self.member.begin_anew();
    }
}

impl ChipsetDevice for PortalPciDevice {
    fn supports_mmio(&mut self) -> Option<&mut dyn MmioIntercept> {
        Some(self)
    }

    fn supports_pci(&mut self) -> Option<&mut dyn PciConfigSpace> {
        Some(self)
    }

    fn supports_poll_device(&mut self) -> Option<&mut dyn PollDevice> {
        Some(self)
    }
}

impl MmioIntercept for PortalPciDevice {
    fn mmio_read(&mut self, addr: u64, data: &mut [u8]) -> IoResult {
        data.fill(!0);
        if let Some((bar, offset, len)) = self.place_of(addr, data.len()) {
            if self.function.shows_pending(bar, offset) {
                self.collect_pending();
            }
            let value = self.step(Input::BarRead { bar, offset, len });
            let value = value.to_le_bytes();
            data.copy_from_slice(&value[..usize::from(len)]);
        }
        IoResult::Ok
    }

    fn mmio_write(&mut self, addr: u64, data: &[u8]) -> IoResult {
        if let Some((bar, offset, len)) = self.place_of(addr, data.len()) {
            let mut value = [0; 8];
            value[..usize::from(len)].copy_from_slice(data);
            self.step(Input::BarWrite {
                bar,
                offset,
                len,
                value: u64::from_le_bytes(value),
            });
        }
        IoResult::Ok
    }
}

impl PciConfigSpace for PortalPciDevice {
    fn pci_cfg_read(&mut self, offset: u16, mut value: ByteEnabledDwordRead<'_>) -> IoResult {
        let read = self.step(Input::ConfigRead { offset, len: 4 });
        value.set(read as u32);
        IoResult::Ok
    }

    fn pci_cfg_write(&mut self, offset: u16, value: ByteEnabledDwordWrite) -> IoResult {
        let lanes = value.byte_enable().bits();
        let value = value.extract();
        // One step for the access that a bus carries, one a byte otherwise.
        let widths: &[(u16, u8)] = match lanes {
            0b1111 => &[(0, 4)],
            0b0011 => &[(0, 2)],
            0b1100 => &[(2, 2)],
            _ => &[(0, 1), (1, 1), (2, 1), (3, 1)],
        };
        for &(at, len) in widths.iter().filter(|(at, _)| lanes & (1 << at) != 0) {
            self.step(Input::ConfigWrite {
                offset: offset.saturating_add(at),
                len,
                value: value >> (8 * u32::from(at)),
            });
        }
        IoResult::Ok
    }
}

impl PollDevice for PortalPciDevice {
    fn poll_device(&mut self, cx: &mut Context<'_>) {
        self.waker = Some(cx.waker().clone());
        while let Poll::Ready(change) = self.member.poll(self.binding.driver(), cx) {
            self.take_in(change);
        }
        // A step can open a wait that has to be polled to be armed; each vector
        // is looked at once a turn so that a flood cannot hold this loop.
        for vector in 0..self.binding.vectors() {
            if self.binding.poll_rung(vector, cx) {
                cx.waker().wake_by_ref();
                self.step(Input::Rung { vector });
            }
        }
    }
}

impl InspectMut for PortalPciDevice {
    fn inspect_mut(&mut self, req: inspect::Request<'_>) {
        req.respond()
            .field("stopped", self.stopped.as_deref())
            .field("member", &self.member)
            .field("binding", &self.binding)
            .field("function", inspection::Tree(&self.function.inspect()));
    }
}
