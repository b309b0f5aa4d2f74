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
//! ([`portal_client::seat`]).
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
mod line;
pub mod pmem;
pub mod resolver;
mod saved_state;
#[cfg(test)]
mod tests;

use binding::Binding;
use chipset_device::ChipsetDevice;
use chipset_device::io::IoResult;
use chipset_device::mmio::MmioIntercept;
use chipset_device::pci::ByteEnabledDwordRead;
use chipset_device::pci::ByteEnabledDwordWrite;
use chipset_device::pci::PciConfigSpace;
use chipset_device::poll_device::PollDevice;
use inspect::Inspect as _;
use inspect::InspectMut;
use portal_client::ClientError;
use portal_client::Seat;
use portal_client::seat::Change;
use portal_client::seat::Standing;
use portal_device::Device;
use portal_device::Effect;
use portal_device::Effects;
use portal_device::Input;
use portal_device::access;
use portal_device::inspect::Node;
use std::task::Context;
use vmcore::device_state::ChangeDeviceState;

/// The function, its binding and its place in the region.
pub struct PortalPciDevice {
    function: Box<dyn Device>,
    effects: Effects,
    binding: Binding,
    seat: Seat,
    /// The function asked to stop: it answers nothing from then on.
    stopped: Option<String>,
}

/// What is said to the switchboard has no answer for the guest.
fn said(done: Result<(), ClientError>) {
    if let Err(error) = done {
        tracelimit::error_ratelimited!(
            error = &error as &dyn std::error::Error,
            "the switchboard refuses a portal device"
        );
    }
}

impl PortalPciDevice {
    fn new(function: Box<dyn Device>, mut binding: Binding, seat: Seat) -> Self {
        binding.set_paused(true);
        let waker = binding.waker.clone();
        seat.listen(move || waker.wake());
        let mut this = Self {
            function,
            effects: Effects::new(),
            binding,
            seat,
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
                Effect::PublishState { state } => said(self.seat.publish(state)),
                effect => self.binding.carry_out(&effect, &self.seat),
            }
        }
        self.effects = effects;
    }

    /// Tells the function of events that nobody delivers at the moment.
    fn collect_pending(&mut self) {
        for vector in 0..self.binding.vectors.count() {
            if self.binding.take_pending(vector) {
                self.step(Input::Rung { vector });
            }
        }
    }

    fn take_in(&mut self, change: Change) {
        if let Some(input) = change.input() {
            self.step(input);
        } else if change == Change::Standing(Standing::Lost) {
            tracing::error!(region = self.seat.region(), "place in the region lost");
        }
    }

    fn find_bar(&self, addr: u64) -> Option<(u8, u64)> {
        self.stopped
            .is_none()
            .then(|| self.binding.find_bar(addr))?
    }
}

impl ChangeDeviceState for PortalPciDevice {
    fn start(&mut self) {
        // MSI routes exist only once the device is wired up, so this is the
        // first moment at which an own vector can have the route's event.
        if let Some(bells) = self.binding.make_routes() {
            said(self.seat.hear_on(bells));
            let peer = self.seat.id().0;
            self.step(Input::PeerBells { peer });
        }
        self.binding.set_paused(false);
        said(self.seat.ready());
    }

    async fn stop(&mut self) {
        // A doorbell that arrives from now on stays in its event.
        self.binding.set_paused(true);
    }

    async fn reset(&mut self) {
        self.stopped = None;
        said(self.seat.begin_anew());
        self.step(Input::Reset);
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
        if let Some((bar, offset)) = self.find_bar(addr) {
            for piece in access::pieces(offset, data.len(), 8) {
                if self.function.shows_pending(bar, piece.offset) {
                    self.collect_pending();
                }
                let value = self.step(Input::BarRead {
                    bar,
                    offset: piece.offset,
                    len: piece.len,
                });
                access::put(data, piece, value);
            }
        }
        IoResult::Ok
    }

    fn mmio_write(&mut self, addr: u64, data: &[u8]) -> IoResult {
        if let Some((bar, offset)) = self.find_bar(addr) {
            for piece in access::pieces(offset, data.len(), 8) {
                self.step(Input::BarWrite {
                    bar,
                    offset: piece.offset,
                    len: piece.len,
                    value: access::get(data, piece),
                });
            }
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
        let bytes = value.extract().to_le_bytes();
        for piece in access::lanes(offset.into(), value.byte_enable().bits()) {
            self.step(Input::ConfigWrite {
                offset: piece.offset as u16,
                len: piece.len,
                value: access::get(&bytes, piece) as u32,
            });
        }
        IoResult::Ok
    }
}

impl PollDevice for PortalPciDevice {
    fn poll_device(&mut self, cx: &mut Context<'_>) {
        self.binding.waker.register(cx.waker());
        for change in self.seat.changes() {
            self.take_in(change);
        }
        // Each vector is looked at once a turn, so that a flood cannot hold this
        // loop; a step can open a wait that has to be polled to be armed.
        for vector in 0..self.binding.vectors.count() {
            if self.binding.poll_rung(vector, cx) {
                self.step(Input::Rung { vector });
            }
        }
    }
}

impl InspectMut for PortalPciDevice {
    fn inspect_mut(&mut self, req: inspect::Request<'_>) {
        let node = Node::new()
            .with("stopped", self.stopped.clone())
            .with("seat", self.seat.inspect())
            .with("binding", self.binding.inspect())
            .with("function", self.function.inspect());
        inspection::Tree(&node).inspect(req);
    }
}
