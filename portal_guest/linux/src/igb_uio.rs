//! Doorbells as MSI-X through DPDK's `igb_uio`: for machines without an IOMMU, where
//! VFIO hands no interrupts to a program.
//!
//! ```text
//!   doorbell ──▶ MSI-X vector 0 ──▶ kernel: wakes the reader of /dev/uioN
//! ```
//!
//! The driver is in no kernel; Debian has its source (`dpdk-kmods-dkms`). It connects
//! vector 0 when its device is opened and masks nothing, so a wait is no exit to the VMM.
//! Distrusted: peers may ring at any rate; each wait is two system calls. Left out: the
//! other vectors, of which it takes none.

use crate::GuestError;
use crate::pci::Function;
use crate::uio::Uio;
use hv_shmem::doorbell::Bell;
use hv_shmem::doorbell::DoorbellError;
use hv_shmem::doorbell::Heard;
use std::time::Duration;

/// The driver.
pub(crate) const DRIVER: &str = "igb_uio";

/// Hears doorbells by vector 0 of MSI-X.
#[derive(Debug)]
pub struct UioMsixBell(Uio);

impl UioMsixBell {
    /// Gives the function to the driver, which connects its interrupt.
    ///
    /// # Errors
    /// [`GuestError::NoInterrupts`] when the driver is not there; [`GuestError::Os`].
    pub fn open(function: &Function) -> Result<Self, GuestError> {
        Uio::open(function, DRIVER).map(Self)
    }
}

impl Bell for UioMsixBell {
    fn wait(&self, timeout: Option<Duration>) -> Result<Heard, DoorbellError> {
        self.0.wait(timeout)
    }
}
