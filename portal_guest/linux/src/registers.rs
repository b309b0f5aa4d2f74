//! The registers of an ivshmem function (BAR0), and doorbells rung through them.
//!
//! Specifications: QEMU's ivshmem device, revision 1 (mask, status, IVPosition,
//! doorbell); Jailhouse's ivshmem draft, version 2 (id, interrupt control,
//! doorbell). A register access is one aligned 32-bit load or store. Trusted: the
//! VMM. Left out: MSI-X, which the kernel programs.

use crate::GuestError;
use crate::bar::MappedBar;
use crate::bar::Width;
use crate::pci::Function;
use hv_shmem::doorbell::Doorbell;
use hv_shmem::doorbell::DoorbellError;
use hv_shmem::layout::PeerId;
use std::sync::Arc;

/// v1: interrupt mask; bit 0 lets INTx through.
const MASK: usize = 0x00;
/// v1: interrupt status; reading clears it.
const STATUS: usize = 0x04;
/// v1: the own peer id.
const IV_POSITION: usize = 0x08;
/// v1 and v2: doorbell, peer << 16 or'ed with the vector.
const DOORBELL: usize = 0x0c;
/// v2: the own peer id.
const ID: usize = 0x00;
/// v2: bit 0 enables interrupts.
const INTERRUPT_CONTROL: usize = 0x08;
/// The last register used ends here.
const REGISTERS_LEN: usize = 0x10;

/// BAR0 of an ivshmem function, mapped.
#[derive(Debug)]
pub struct Registers(MappedBar);

impl Registers {
    /// Maps them.
    ///
    /// # Errors
    /// [`GuestError::Os`].
    pub fn map(function: &Function) -> Result<Self, GuestError> {
        let bar = MappedBar::map(function, 0)?;
        if bar.len() < REGISTERS_LEN {
            let short = std::io::Error::other("BAR0 is too short for registers");
            return Err(GuestError::os("map", function.file("resource0"))(short));
        }
        Ok(Self(bar))
    }

    fn load(&self, offset: usize) -> u32 {
        // What is not there reads as all ones, as on the bus.
        let value = self.0.load(offset, Width::Double);
        value.map_or(u32::MAX, |value| value as u32)
    }

    fn store(&self, offset: usize, value: u32) {
        self.0.store(offset, Width::Double, value.into());
    }

    /// v1: the own peer id; `None` when the register cannot be meant (the number of
    /// a peer is 16 bits wide).
    pub fn iv_position(&self) -> Option<PeerId> {
        u16::try_from(self.load(IV_POSITION)).ok().map(PeerId)
    }

    /// v2: the own peer id.
    pub fn id(&self) -> Option<PeerId> {
        u16::try_from(self.load(ID)).ok().map(PeerId)
    }

    /// v1: lets INTx through, or not.
    pub fn set_mask(&self, mask: u32) {
        self.store(MASK, mask);
    }

    /// v1: what rang since the last look; clears it and takes the INTx line back.
    pub fn take_status(&self) -> u32 {
        self.load(STATUS)
    }

    /// v2: enables interrupts, or disables them.
    pub fn set_interrupt_control(&self, value: u32) {
        self.store(INTERRUPT_CONTROL, value);
    }

    /// Rings a vector of a peer. One that is not there is no error.
    pub fn ring(&self, peer: PeerId, vector: u16) {
        self.store(DOORBELL, u32::from(peer.0) << 16 | u32::from(vector));
    }
}

/// The doorbell of one peer, rung by its register.
#[derive(Debug, Clone)]
pub struct RegisterDoorbell {
    /// The registers.
    pub registers: Arc<Registers>,
    /// Whose doorbell.
    pub peer: PeerId,
    /// Which vector.
    pub vector: u16,
}

impl Doorbell for RegisterDoorbell {
    fn ring(&self) -> Result<(), DoorbellError> {
        self.registers.ring(self.peer, self.vector);
        Ok(())
    }
}
