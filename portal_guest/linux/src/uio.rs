//! Doorbells as INTx interrupts through `uio_pci_generic`.
//!
//! Specification: `Documentation/driver-api/uio-howto.rst`, generic PCI driver; the
//! status and mask registers of ivshmem v1.
//!
//! ```text
//!   doorbell ──▶ status := 1 ──▶ INTA# ──▶ kernel: INTx disable := 1, wakes the reader
//!   wait: read(/dev/uioN), read status (clears it, INTA# falls), INTx disable := 0
//! ```
//!
//! A doorbell between the two last steps asserts INTA# again when INTx comes back on,
//! so that none is lost. Distrusted: peers may ring at any rate; each wait costs a
//! bounded number of steps. Left out: ivshmem v2, which has no INTx.

use crate::GuestError;
use crate::pci::Config;
use crate::pci::Function;
use crate::registers::Registers;
use hv_shmem::doorbell::Bell;
use hv_shmem::doorbell::DoorbellError;
use hv_shmem::doorbell::Heard;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::io::Errno;
use std::fs;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The driver.
pub(crate) const DRIVER: &str = "uio_pci_generic";

/// A function's device of the kernel's UIO drivers: a read sleeps until an interrupt.
#[derive(Debug)]
pub(crate) struct Uio(File);

impl Uio {
    /// Gives the function to `driver` and opens what that makes of it.
    pub(crate) fn open(function: &Function, driver: &'static str) -> Result<Self, GuestError> {
        function.bind(driver)?;
        let node = fs::read_dir(function.file("uio"))
            .ok()
            .and_then(|mut entries| entries.next()?.ok())
            .ok_or_else(|| GuestError::NoInterrupts {
                device: function.address(),
                driver,
                why: "the kernel made no uio device".to_owned(),
            })?;
        let node = Path::new("/dev").join(node.file_name());
        let uio = File::options().read(true).write(true).open(&node);
        uio.map(Self).map_err(GuestError::os("open", &node))
    }

    /// Waits for an interrupt; a signal counts as one.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Result<Heard, DoorbellError> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let timeout = timeout.map(|t| Timespec {
            tv_sec: t.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return Ok(Heard::TimedOut),
            Ok(_) => {}
            // Nothing is readable: a read would sleep without a limit.
            Err(Errno::INTR) => return Ok(Heard::Rang),
            Err(e) => return Err(os("poll of a uio device", e)),
        }
        let mut count = [0; 4];
        match rustix::io::read(&self.0, &mut count) {
            Ok(_) | Err(Errno::INTR | Errno::AGAIN) => Ok(Heard::Rang),
            Err(e) => Err(os("read of a uio device", e)),
        }
    }
}

/// Hears doorbells by INTx.
#[derive(Debug)]
pub struct IntxBell {
    uio: Uio,
    config: Config,
    registers: Arc<Registers>,
}

impl IntxBell {
    /// Gives the function to the driver and lets its interrupts through.
    ///
    /// # Errors
    /// [`GuestError::NoInterrupts`] when the function has no INTx, or the driver is
    /// not there; [`GuestError::Os`].
    pub fn open(function: &Function, registers: Arc<Registers>) -> Result<Self, GuestError> {
        let failed = |why: &str| GuestError::NoInterrupts {
            device: function.address(),
            driver: DRIVER,
            why: why.to_owned(),
        };
        if !function.has_intx() {
            return Err(failed(
                "it has no interrupt pin (QEMU's ivshmem has none: use VFIO or polling)",
            ));
        }
        let uio = Uio::open(function, DRIVER)?;
        let config = function.config()?.remember()?;
        // What rang before is nobody's any more.
        registers.take_status();
        registers.set_mask(1);
        config.enable_intx()?;
        Ok(Self {
            uio,
            config,
            registers,
        })
    }
}

impl Bell for IntxBell {
    fn wait(&self, timeout: Option<Duration>) -> Result<Heard, DoorbellError> {
        if self.uio.wait(timeout)? == Heard::TimedOut {
            return Ok(Heard::TimedOut);
        }
        self.registers.take_status();
        match self.config.enable_intx() {
            Ok(()) => Ok(Heard::Rang),
            Err(GuestError::Os { source, .. }) => Err(DoorbellError::Os {
                what: "write to configuration space",
                errno: source.raw_os_error().unwrap_or(0),
            }),
            Err(_) => Err(DoorbellError::Gone),
        }
    }
}

impl Drop for IntxBell {
    fn drop(&mut self) {
        self.registers.set_mask(0);
    }
}

fn os(what: &'static str, e: Errno) -> DoorbellError {
    DoorbellError::Os {
        what,
        errno: e.raw_os_error(),
    }
}
