//! The registers of an ivshmem function (BAR0), and doorbells rung through them.
//!
//! Specifications: QEMU's ivshmem device, revision 1 (mask, status, IVPosition,
//! doorbell); Jailhouse's ivshmem draft, version 2 (id, interrupt control,
//! doorbell). A register access is one aligned 32-bit load or store. Trusted: the
//! VMM. Left out: MSI-X, which the kernel programs.
#![expect(unsafe_code, reason = "mmap of a BAR, loads and stores of registers")]

use crate::GuestError;
use crate::pci::Function;
use hv_shmem::doorbell::Doorbell;
use hv_shmem::doorbell::DoorbellError;
use hv_shmem::layout::PeerId;
use rustix::mm::MapFlags;
use rustix::mm::ProtFlags;
use std::ffi::c_void;
use std::fs::File;
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
const REGISTERS_LEN: u64 = 0x10;
/// What `mmap` of a BAR works in.
const PAGE: u64 = 4096;

/// BAR0 of an ivshmem function, mapped.
#[derive(Debug)]
pub struct Registers {
    page: *mut c_void,
    /// Where the registers begin in the page: BARs can be smaller than pages.
    at: usize,
}

// SAFETY: an address of device registers; each access is one volatile load or store,
// which any thread may do.
unsafe impl Send for Registers {}
// SAFETY: as above.
unsafe impl Sync for Registers {}

impl Registers {
    /// Maps them.
    ///
    /// # Errors
    /// [`GuestError::Os`].
    pub fn map(function: &Function) -> Result<Self, GuestError> {
        let path = function.file("resource0");
        let bar = function.bar(0).filter(|b| b.len >= REGISTERS_LEN);
        let missing = std::io::Error::other("the function has no BAR0 with registers");
        let bar = bar.ok_or_else(|| GuestError::os("map", &path)(missing))?;
        let file = File::options().read(true).write(true).open(&path);
        let file = file.map_err(GuestError::os("open", &path))?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe {
            let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
            rustix::mm::mmap(core::ptr::null_mut(), PAGE as usize, prot, flags, &file, 0)
        }
        .map_err(|e| GuestError::os("map", &path)(e.into()))?;
        Ok(Self {
            page,
            // 16 bytes at a natural address of a BAR never cross a page.
            at: (bar.start % PAGE) as usize & !0xf,
        })
    }

    fn register(&self, offset: usize) -> *mut u32 {
        self.page.cast::<u8>().wrapping_add(self.at + offset).cast()
    }

    fn load(&self, offset: usize) -> u32 {
        // SAFETY: one of the constants above: inside the mapped page, aligned.
        u32::from_le(unsafe { self.register(offset).read_volatile() })
    }

    fn store(&self, offset: usize, value: u32) {
        // SAFETY: as in `load`.
        unsafe { self.register(offset).write_volatile(value.to_le()) }
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

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `map`; nobody else has its address.
        let unmapped = unsafe { rustix::mm::munmap(self.page, PAGE as usize) };
        debug_assert!(unmapped.is_ok(), "munmap of our own page");
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
