//! PCI functions of bus 0, through the ECAM.
//!
//! Source: PCI Express Base 5.0, 7.2.2 (ECAM) and 7.5 (configuration space); PCI
//! Local Bus 3.0, 6.8.2 (MSI-X). BARs were assigned by the VMM and memory decoding
//! is on (`portal_boot_abi`), so nothing is sized or moved here. Each access may
//! cost an exit of tens of microseconds: look once, keep the answer.
//!
//! Trust: the VMM. Left out: bridges and other buses, INTx, MSI.
#![expect(unsafe_code, reason = "configuration space is memory-mapped")]

use core::ptr;
use portal_boot_abi::ECAM_BYTES;

const VENDOR_DEVICE: u16 = 0x00;
const COMMAND_STATUS: u16 = 0x04;
const HEADER_TYPE: u16 = 0x0C;
const BAR0: u16 = 0x10;
const CAPABILITIES: u16 = 0x34;

const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_MASTER: u32 = 1 << 2;
const STATUS_CAPABILITIES: u32 = 1 << 20;
const MULTI_FUNCTION: u32 = 1 << 23;
const CAPABILITY_MSIX: u32 = 0x11;
/// Capabilities that fit in the 192 bytes behind the header, four bytes each:
/// bounds the walk through a list that goes in circles.
const MOST_CAPABILITIES: usize = 48;

/// Why a function cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PciError {
    /// The partition has no PCI bus, or one outside the memory map.
    #[error("no ECAM (the VMM gave {0:#x})")]
    NoBus(u64),
    /// Memory decoding is off.
    #[error("memory decoding is off (command {0:#06x})")]
    NotDecoded(u32),
    /// A BAR is absent, an I/O BAR, or has no address.
    #[error("BAR{bar} is {value:#x}, no memory BAR with an address")]
    Bar {
        /// Its number.
        bar: u8,
        /// Its value.
        value: u32,
    },
    /// No MSI-X capability.
    #[error("the function has no MSI-X")]
    NoMsix,
    /// The vector is beyond the function's MSI-X table, or beyond what the
    /// kernel tells apart.
    #[error("vector {value}; the function has {limit}")]
    Vector {
        /// Number asked for.
        value: u16,
        /// How many there are.
        limit: u16,
    },
}

/// Registers in memory: aligned 32-bit accesses, each done once and in order.
#[derive(Debug, Clone, Copy)]
pub struct Registers {
    base: u64,
}

impl Registers {
    /// The registers at a guest physical address (which is its address here).
    ///
    /// # Safety
    /// Nothing but device registers lies at `base` and as far behind it as
    /// offsets are given to the other functions; the pages are mapped.
    pub const unsafe fn at(base: u64) -> Self {
        Self { base }
    }

    /// Reads the register at `offset` bytes.
    #[inline]
    pub fn read(self, offset: u32) -> u32 {
        let at = ptr::with_exposed_provenance::<u32>((self.base + u64::from(offset)) as usize);
        // SAFETY: the promise of `at`.
        unsafe { ptr::read_volatile(at) }
    }

    /// Writes the register at `offset` bytes.
    #[inline]
    pub fn write(self, offset: u32, value: u32) {
        let at = ptr::with_exposed_provenance_mut::<u32>((self.base + u64::from(offset)) as usize);
        // SAFETY: the promise of `at`.
        unsafe { ptr::write_volatile(at, value) }
    }
}

/// A function on bus 0.
#[derive(Debug, Clone, Copy)]
pub struct Function {
    config: Registers,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

impl Function {
    /// The `nth` function (from 0) with these ids; `None` when there are fewer.
    ///
    /// # Errors
    /// [`PciError::NoBus`].
    pub fn find(ecam: u64, vendor: u16, device: u16, nth: usize) -> Result<Option<Self>, PciError> {
        // The kernel maps exactly this much of configuration space.
        if ecam != portal_boot_abi::ECAM_GPA {
            return Err(PciError::NoBus(ecam));
        }
        let wanted = u32::from(device) << 16 | u32::from(vendor);
        let mut left = nth;
        for slot in 0..(ECAM_BYTES >> 15) as u8 {
            let mut functions = 1;
            let mut number = 0;
            while number < functions {
                let base = ecam + (u64::from(slot) << 15 | u64::from(number) << 12);
                // SAFETY: inside the ECAM of bus 0.
                let config = unsafe { Registers::at(base) };
                let id = config.read(VENDOR_DEVICE.into());
                if id == u32::MAX && number == 0 {
                    break;
                }
                if id == wanted {
                    if left == 0 {
                        return Ok(Some(Self {
                            config,
                            device: slot,
                            function: number,
                        }));
                    }
                    left -= 1;
                }
                if number == 0 && config.read(HEADER_TYPE.into()) & MULTI_FUNCTION != 0 {
                    functions = 8;
                }
                number += 1;
            }
        }
        Ok(None)
    }

    /// Checks that memory decoding is on, and lets the function send MSIs.
    ///
    /// # Errors
    /// [`PciError::NotDecoded`].
    pub fn enable(&self) -> Result<(), PciError> {
        let command = self.config.read(COMMAND_STATUS.into()) & 0xFFFF;
        if command & COMMAND_MEMORY == 0 {
            return Err(PciError::NotDecoded(command));
        }
        if command & COMMAND_MASTER == 0 {
            // Zeros in the status half leave its write-1-to-clear bits alone.
            self.config
                .write(COMMAND_STATUS.into(), command | COMMAND_MASTER);
        }
        Ok(())
    }

    /// Address of memory BAR `bar` (0 to 5; the lower half of a 64-bit one).
    ///
    /// # Errors
    /// [`PciError::Bar`].
    pub fn bar(&self, bar: u8) -> Result<u64, PciError> {
        if bar > 5 {
            return Err(PciError::Bar { bar, value: 0 });
        }
        let at = u32::from(BAR0) + 4 * u32::from(bar);
        let low = self.config.read(at);
        let address = match low & 7 {
            0 => u64::from(low & !0xF),
            4 if bar < 5 => u64::from(self.config.read(at + 4)) << 32 | u64::from(low & !0xF),
            _ => 0,
        };
        if address == 0 {
            return Err(PciError::Bar { bar, value: low });
        }
        Ok(address)
    }

    /// Configuration offset of the MSI-X capability.
    fn msix_capability(&self) -> Result<u32, PciError> {
        if self.config.read(COMMAND_STATUS.into()) & STATUS_CAPABILITIES == 0 {
            return Err(PciError::NoMsix);
        }
        let mut at = self.config.read(CAPABILITIES.into()) & 0xFC;
        for _ in 0..MOST_CAPABILITIES {
            if at < 0x40 {
                break;
            }
            let header = self.config.read(at);
            if header & 0xFF == CAPABILITY_MSIX {
                return Ok(at);
            }
            at = header >> 8 & 0xFC;
        }
        Err(PciError::NoMsix)
    }

    /// The function's MSI-X vectors, not yet enabled.
    ///
    /// # Errors
    /// [`PciError::NoMsix`], [`PciError::Bar`].
    pub fn msix(&self) -> Result<Msix, PciError> {
        let capability = self.msix_capability()?;
        let control = self.config.read(capability) >> 16;
        let table = self.config.read(capability + 4);
        let bar = self.bar((table & 7) as u8)?;
        Ok(Msix {
            config: self.config,
            capability,
            // SAFETY: the function says that its table is there.
            table: unsafe { Registers::at(bar + u64::from(table & !7)) },
            vectors: (control & 0x7FF) as u16 + 1,
        })
    }
}

/// The MSI-X vectors of a function.
#[derive(Debug)]
pub struct Msix {
    config: Registers,
    capability: u32,
    table: Registers,
    vectors: u16,
}

impl Msix {
    /// How many there are.
    pub fn vectors(&self) -> u16 {
        self.vectors
    }

    /// Lets the function send its MSIs at all.
    pub fn enable(&self) {
        let header = self.config.read(self.capability);
        // Enable set, function mask clear.
        self.config
            .write(self.capability, header & !(1 << 30) | 1 << 31);
    }

    /// Sends `vector` to CPU vector `interrupt` (0x10 to 0xFE) of the local APIC
    /// `apic_id`, and unmasks it.
    ///
    /// # Errors
    /// [`PciError::Vector`].
    pub fn route(&self, vector: u16, apic_id: u32, interrupt: u8) -> Result<(), PciError> {
        if vector >= self.vectors {
            return Err(PciError::Vector {
                value: vector,
                limit: self.vectors,
            });
        }
        let at = u32::from(vector) * 16;
        let address = portal_boot_abi::LAPIC_GPA as u32 | (apic_id & 0xFF) << 12;
        self.table.write(at, address);
        self.table.write(at + 4, 0);
        self.table.write(at + 8, interrupt.into());
        self.table.write(at + 12, 0);
        Ok(())
    }
}
