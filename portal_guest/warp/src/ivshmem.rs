//! The ivshmem function as an agent uses it: doorbells out, interrupts in, the
//! region behind BAR2.
//!
//! Source: QEMU's device specification for ivshmem, revision 1 (register file:
//! IVPosition at 08h, Doorbell at 0Ch, peer<<16 or'ed with vector).
//!
//! Distrusted: other peers ring at any rate or never; waits have deadlines. Left
//! out: INTx, and the plain variant without doorbells.
#![expect(unsafe_code, reason = "device registers, and a region behind a BAR")]

use crate::Machine;
use crate::kernel;
use crate::pci::Function;
use crate::pci::Msix;
use crate::pci::PciError;
use crate::pci::Registers;
use crate::time::Deadline;
use core::cell::Cell;
use core::time::Duration;
use hv_shmem::doorbell::Bell;
use hv_shmem::doorbell::Doorbell;
use hv_shmem::doorbell::DoorbellError;
use hv_shmem::doorbell::Heard;
use hv_shmem::layout::PeerId;

/// PCI vendor id (Red Hat).
pub const VENDOR: u16 = 0x1AF4;
/// PCI device id.
pub const DEVICE: u16 = 0x1110;
/// Functions that the kernel can tell apart: each has 16 of its 64 vectors.
pub const MOST_FUNCTIONS: usize = 4;
/// Vectors that a function may listen on.
pub const MOST_VECTORS: u16 = 16;

const IV_POSITION: u32 = 0x08;
const DOORBELL: u32 = 0x0C;
const REGION_BAR: u8 = 2;

/// An ivshmem function with doorbells.
#[derive(Debug)]
pub struct Ivshmem<'m> {
    machine: &'m Machine,
    registers: Registers,
    msix: Msix,
    peer: PeerId,
    region: u64,
    first_vector: u8,
}

impl<'m> Ivshmem<'m> {
    /// The `nth` ivshmem function of the partition, with MSI-X enabled and every
    /// vector masked; `None` when there are fewer (or no PCI bus).
    ///
    /// # Errors
    /// [`PciError`] when the function is not one with doorbells, or not set up.
    pub fn find(machine: &'m Machine, nth: usize) -> Result<Option<Self>, PciError> {
        let ecam = machine.boot().ecam_gpa;
        if ecam == 0 || nth >= MOST_FUNCTIONS {
            return Ok(None);
        }
        let Some(function) = Function::find(ecam, VENDOR, DEVICE, nth)? else {
            return Ok(None);
        };
        function.enable()?;
        // SAFETY: BAR0 of this function is its register file.
        let registers = unsafe { Registers::at(function.bar(0)?) };
        let msix = function.msix()?;
        msix.enable();
        Ok(Some(Self {
            machine,
            registers,
            peer: PeerId((registers.read(IV_POSITION) & 0xFFFF) as u16),
            region: function.bar(REGION_BAR)?,
            msix,
            first_vector: (nth * usize::from(MOST_VECTORS)) as u8,
        }))
    }

    /// This partition's peer id, as IVPosition has it.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Vectors that it may listen on.
    pub fn vectors(&self) -> u16 {
        self.msix.vectors().min(MOST_VECTORS)
    }

    /// Guest physical address of the region behind BAR2.
    pub fn region_gpa(&self) -> u64 {
        self.region
    }

    /// Starts to listen on `vector`.
    ///
    /// # Errors
    /// [`PciError::Vector`].
    pub fn listen(&self, vector: u16) -> Result<InterruptBell<'m>, PciError> {
        if vector >= self.vectors() {
            return Err(PciError::Vector {
                value: vector,
                limit: self.vectors(),
            });
        }
        let counter = self.first_vector + vector as u8;
        let interrupt = kernel::VECTOR_BASE as u8 + counter;
        let heard = self.machine.interrupts(counter);
        self.msix.route(vector, self.machine.apic_id(), interrupt)?;
        Ok(InterruptBell {
            machine: self.machine,
            counter,
            heard: Cell::new(heard),
        })
    }

    /// Rings `vector` of `peer`. Unknown ones have no effect.
    #[inline]
    pub fn ring(&self, peer: PeerId, vector: u16) {
        self.registers
            .write(DOORBELL, u32::from(peer.0) << 16 | u32::from(vector));
    }

    /// The doorbell of one vector of one peer.
    pub fn doorbell(&self, peer: PeerId, vector: u16) -> RegisterDoorbell {
        RegisterDoorbell {
            registers: self.registers,
            value: u32::from(peer.0) << 16 | u32::from(vector),
        }
    }
}

/// The doorbell of one vector of one peer: one store to a device register.
#[derive(Debug, Clone, Copy)]
pub struct RegisterDoorbell {
    registers: Registers,
    value: u32,
}

impl Doorbell for RegisterDoorbell {
    #[inline]
    fn ring(&self) -> Result<(), DoorbellError> {
        self.registers.write(DOORBELL, self.value);
        Ok(())
    }
}

/// What an agent hears its doorbell with: the count of one interrupt vector.
#[derive(Debug)]
pub struct InterruptBell<'m> {
    machine: &'m Machine,
    counter: u8,
    heard: Cell<u64>,
}

impl InterruptBell<'_> {
    /// Interrupts taken on this vector since the partition started.
    #[inline]
    pub fn count(&self) -> u64 {
        self.machine.interrupts(self.counter)
    }

    /// Halts until the bell rings or the deadline comes. A ring since the last
    /// wait ends it at once.
    pub fn wait_until(&self, deadline: Deadline) -> Heard {
        let heard = self.heard.get();
        let count = self.machine.wait(self.counter, heard, deadline);
        self.heard.set(count);
        if count == heard {
            Heard::TimedOut
        } else {
            Heard::Rang
        }
    }

    /// The same without halting: looks at the count until it moves.
    pub fn spin_until(&self, deadline: Deadline) -> Heard {
        let heard = self.heard.get();
        loop {
            for _ in 0..64 {
                let count = self.count();
                if count != heard {
                    self.heard.set(count);
                    return Heard::Rang;
                }
                core::hint::spin_loop();
            }
            if deadline.passed() {
                return Heard::TimedOut;
            }
        }
    }

    /// Forgets rings that nobody has waited for.
    pub fn clear(&self) {
        self.heard.set(self.count());
    }
}

/// A wait without a timeout is one of this many microseconds at a time.
const FOREVER_MICROSECONDS: u64 = 3_600_000_000;

impl Bell for InterruptBell<'_> {
    fn wait(&self, timeout: Option<Duration>) -> Result<Heard, DoorbellError> {
        let clock = self.machine.clock();
        loop {
            let microseconds = match timeout {
                Some(timeout) => u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX),
                None => FOREVER_MICROSECONDS,
            };
            let heard = self.wait_until(clock.after(microseconds));
            if heard == Heard::Rang || timeout.is_some() {
                return Ok(heard);
            }
        }
    }
}
