//! What a guest's accesses meet when they are not memory: ports and devices.
//!
//! Everything a guest sends here is untrusted. An access that nothing answers
//! stops the partition (addresses) or reads as ones and is counted (ports, as
//! on hardware). Runs on the vCPU's thread; locks are held only while an access
//! is answered, never across a guest entry.

use crate::FaultKind;
use crate::boot::GuestRam;
use crate::console::Uart;
use crate::hv::ExitHandler;
use crate::hv::StopCause;
use crate::stats::Counters;
use crate::stats::count;
use portal_boot_abi as abi;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

/// What the vCPUs of one partition share.
pub(crate) struct Platform {
    pub(crate) ram: GuestRam,
    uart: Mutex<Uart>,
}

impl Platform {
    pub(crate) fn new(ram: GuestRam, uart: Uart) -> Self {
        Self {
            ram,
            uart: Mutex::new(uart),
        }
    }

    pub(crate) fn uart(&self) -> MutexGuard<'_, Uart> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One vCPU's way into the platform.
pub(crate) struct VcpuPlatform {
    pub(crate) platform: Arc<Platform>,
    pub(crate) counters: Arc<Counters>,
}

impl VcpuPlatform {
    /// An access where there is neither writable memory nor a device.
    fn stray(&self, gpa: u64, len: usize, write: bool) -> StopCause {
        StopCause::Fault(if self.platform.ram.contains(gpa) {
            FaultKind::RamLost { gpa }
        } else {
            FaultKind::Unmapped {
                gpa,
                len: len as u32,
                write,
            }
        })
    }
}

impl ExitHandler for VcpuPlatform {
    fn port_read(&mut self, port: u16, data: &mut [u8]) -> Result<(), StopCause> {
        count(&self.counters.port_reads);
        if let Some(register) = Uart::register(port) {
            self.platform.uart().read(register, data);
        } else {
            data.fill(0xFF);
            count(&self.counters.unknown_ports);
        }
        Ok(())
    }

    fn port_write(&mut self, port: u16, data: &[u8]) -> Result<(), StopCause> {
        count(&self.counters.port_writes);
        if port == abi::EXIT_PORT {
            let mut code = [0; 4];
            for (to, from) in code.iter_mut().zip(data) {
                *to = *from;
            }
            return Err(StopCause::Exit(u32::from_le_bytes(code)));
        }
        if let Some(register) = Uart::register(port) {
            self.platform.uart().write(register, data);
        } else {
            count(&self.counters.unknown_ports);
        }
        Ok(())
    }

    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) -> Result<(), StopCause> {
        count(&self.counters.mmio_reads);
        Err(self.stray(gpa, data.len(), false))
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) -> Result<(), StopCause> {
        count(&self.counters.mmio_writes);
        Err(self.stray(gpa, data.len(), true))
    }

    fn memory_lost(&mut self, gpa: Option<u64>) -> StopCause {
        match gpa {
            Some(gpa) => self.stray(gpa, 0, false),
            None => StopCause::Fault(FaultKind::Hypervisor {
                what: "KVM_RUN: memory of the guest has lost its backing (truncated?)".to_owned(),
            }),
        }
    }
}
