//! How this machine hears doorbells, and how it rings those of others.

use crate::GuestError;
use crate::igb_uio;
use crate::igb_uio::UioMsixBell;
use crate::pci::Function;
use crate::registers::RegisterDoorbell;
use crate::registers::Registers;
use crate::uio;
use crate::uio::IntxBell;
use crate::vfio;
use crate::vfio::MsixBell;
use hv_shmem::doorbell::Bell;
use hv_shmem::doorbell::Doorbell;
use hv_shmem::doorbell::DoorbellError;
use hv_shmem::doorbell::EventFd;
use hv_shmem::doorbell::Heard;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How often a peer that hears no doorbells looks: rarely enough to leave the core to
/// others, often enough that a transfer does not crawl.
pub const POLL: Duration = Duration::from_micros(100);

/// How to hear doorbells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BellKind {
    /// MSI-X where there is an IOMMU, else INTx where the device has it, else
    /// polling.
    #[default]
    Auto,
    /// INTx through `uio_pci_generic`.
    Uio,
    /// MSI-X through `igb_uio`, with an IOMMU or without one.
    IgbUio,
    /// MSI-X through `vfio-pci`.
    Vfio,
    /// Not at all: look every [`POLL`].
    Poll,
}

/// What a machine waits on.
#[derive(Debug)]
pub enum GuestBell {
    /// INTx through `uio_pci_generic`.
    Intx(IntxBell),
    /// MSI-X through `igb_uio`.
    UioMsix(UioMsixBell),
    /// MSI-X through `vfio-pci`.
    Msix(MsixBell),
    /// An event fd: a process on the host.
    Event(Arc<EventFd>),
    /// Nothing: looks every [`POLL`].
    Polling,
}

impl GuestBell {
    /// Opens a function's interrupts as asked. What was tried and given up with
    /// [`BellKind::Auto`] is returned beside the bell.
    ///
    /// # Errors
    /// [`GuestError::NoInterrupts`] when a kind was asked for that does not work
    /// here.
    pub fn open(
        function: &Function,
        registers: &Arc<Registers>,
        kind: BellKind,
    ) -> Result<(Self, Vec<GuestError>), GuestError> {
        let intx = || IntxBell::open(function, registers.clone()).map(Self::Intx);
        let msix = || MsixBell::open(function).map(Self::Msix);
        match kind {
            BellKind::Uio => Ok((intx()?, Vec::new())),
            BellKind::IgbUio => Ok((UioMsixBell::open(function).map(Self::UioMsix)?, Vec::new())),
            BellKind::Vfio => Ok((msix()?, Vec::new())),
            BellKind::Poll => Ok((Self::Polling, Vec::new())),
            BellKind::Auto => {
                let mut given_up = Vec::new();
                if function.iommu_group().is_some() {
                    match msix() {
                        Ok(bell) => return Ok((bell, given_up)),
                        Err(e) => given_up.push(e),
                    }
                }
                if function.has_intx() {
                    match intx() {
                        Ok(bell) => return Ok((bell, given_up)),
                        Err(e) => given_up.push(e),
                    }
                }
                Ok((Self::Polling, given_up))
            }
        }
    }
}

impl fmt::Display for GuestBell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Intx(_) => uio::DRIVER,
            Self::UioMsix(_) => igb_uio::DRIVER,
            Self::Msix(_) => vfio::DRIVER,
            Self::Event(_) => "eventfd",
            Self::Polling => "polling",
        })
    }
}

impl Bell for GuestBell {
    fn wait(&self, timeout: Option<Duration>) -> Result<Heard, DoorbellError> {
        match self {
            Self::Intx(bell) => bell.wait(timeout),
            Self::UioMsix(bell) => bell.wait(timeout),
            Self::Msix(bell) => bell.wait(timeout),
            Self::Event(bell) => bell.wait(timeout),
            Self::Polling => {
                let nap = timeout.map_or(POLL, |t| t.min(POLL));
                std::thread::sleep(nap);
                Ok(Heard::Rang)
            }
        }
    }
}

/// What a machine rings.
#[derive(Debug, Clone)]
pub enum GuestDoorbell {
    /// A register of an ivshmem function.
    Register(RegisterDoorbell),
    /// An event fd.
    Event(Arc<EventFd>),
    /// Nothing: the carrier has no doorbells, so peers poll.
    Silent,
}

impl Doorbell for GuestDoorbell {
    fn ring(&self) -> Result<(), DoorbellError> {
        match self {
            Self::Register(doorbell) => doorbell.ring(),
            Self::Event(doorbell) => doorbell.ring(),
            Self::Silent => Ok(()),
        }
    }
}
