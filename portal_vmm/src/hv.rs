//! What the VMM asks of a hypervisor: [`Hypervisor`], [`HvPartition`] and
//! [`HvVcpu`]. [`crate::kvm`] implements them; nothing else here knows KVM.
//!
//! The traits carry what a region needs (read-only slots, events for doorbells
//! and interrupts) and no more. A guest's accesses reach the VMM through
//! [`ExitHandler`], on the thread that runs the vCPU and with no lock held by
//! the implementation.

use crate::Capabilities;
use crate::VmmError;
use crate::memory::HostRange;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// What the second stage lets a guest do with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read, write, execute.
    ReadWrite,
    /// Read and execute; a write leaves the guest as an MMIO exit.
    ReadOnly,
}

/// A message-signalled interrupt as the guest programmed it (PCI 3.0, 6.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// Address that the device would write to.
    pub address: u64,
    /// Value that it would write there.
    pub data: u32,
}

/// Makes partitions.
pub trait Hypervisor: Send + Sync {
    /// What was found when the hypervisor was opened.
    fn capabilities(&self) -> &Capabilities;

    /// A new partition without memory or vCPUs.
    ///
    /// # Errors
    /// [`VmmError::Hypervisor`] when the host refuses.
    fn create_partition(&self) -> Result<Arc<dyn HvPartition>, VmmError>;
}

/// One partition's address space, interrupts and doorbells.
pub trait HvPartition: Send + Sync {
    /// Maps host memory at a guest physical address. The range is kept alive by
    /// the partition until it is unmapped or the partition goes.
    ///
    /// # Errors
    /// [`VmmError::Hypervisor`], also for overlaps with another slot.
    fn map(&self, slot: u32, gpa: u64, host: HostRange, access: Access) -> Result<(), VmmError>;

    /// Takes a mapping away again; the guest's next access leaves as MMIO.
    ///
    /// # Errors
    /// [`VmmError::Hypervisor`].
    fn unmap(&self, slot: u32) -> Result<(), VmmError>;

    /// A new vCPU; its number is also its APIC id.
    ///
    /// # Errors
    /// [`VmmError::Hypervisor`].
    fn create_vcpu(&self, index: u32, count: u32) -> Result<Box<dyn HvVcpu>, VmmError>;

    /// From now on a signal of `event` is the interrupt `message`, without a
    /// thread of ours in between. Returns a handle for [`HvPartition::disconnect`].
    ///
    /// # Errors
    /// [`VmmError::Hypervisor`], also where there is no irqfd (look at
    /// [`Capabilities::irqfd`] first); [`VmmError::Missing`] when every route is
    /// taken.
    fn connect(
        &self,
        event: BorrowedFd<'_>,
        message: MsiMessage,
    ) -> Result<InterruptRoute, VmmError>;

    /// Undoes [`HvPartition::connect`]; later signals stay in the event.
    ///
    /// # Errors
    /// [`VmmError::Hypervisor`].
    fn disconnect(&self, event: BorrowedFd<'_>, route: InterruptRoute) -> Result<(), VmmError>;

    /// Delivers one interrupt now.
    ///
    /// # Errors
    /// [`VmmError::Hypervisor`].
    fn signal(&self, message: MsiMessage) -> Result<(), VmmError>;

    /// From now on a signal of `event` is a pulse on an edge-triggered input of
    /// the interrupt controller (0 to 23), for as long as the partition lives.
    ///
    /// # Errors
    /// [`VmmError::Hypervisor`], also where there is no irqfd.
    fn connect_input(&self, event: BorrowedFd<'_>, input: u32) -> Result<(), VmmError>;

    /// Sets the level of an input of the interrupt controller (0 to 23).
    ///
    /// # Errors
    /// [`VmmError::Hypervisor`].
    fn set_line(&self, input: u32, asserted: bool) -> Result<(), VmmError>;

    /// From now on a 4-byte guest write of `value` at `gpa` signals `event`
    /// instead of leaving the guest.
    ///
    /// # Errors
    /// [`VmmError::Hypervisor`], also where there is no ioeventfd (look at
    /// [`Capabilities::ioeventfd`] first).
    fn route_doorbell(&self, gpa: u64, value: u32, event: BorrowedFd<'_>) -> Result<(), VmmError>;

    /// Undoes [`HvPartition::route_doorbell`].
    ///
    /// # Errors
    /// [`VmmError::Hypervisor`].
    fn unroute_doorbell(&self, gpa: u64, value: u32, event: BorrowedFd<'_>)
    -> Result<(), VmmError>;

    /// Frequency of the guest's TSC in Hz, 0 when unknown, and whether it reads
    /// the same as the host's. Known once the first vCPU exists.
    fn tsc(&self) -> (u64, bool);
}

/// A connected interrupt, for disconnecting it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptRoute(pub u32);

/// Registers with which a vCPU starts in 64-bit mode, ring 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct LongModeStart {
    /// First instruction.
    pub rip: u64,
    /// Initial stack pointer.
    pub rsp: u64,
    /// First argument of a flat image: address of the vCPU's boot information.
    pub rdi: u64,
    /// Second argument; for Linux, the address of its boot parameters.
    pub rsi: u64,
    /// Selector of the code segment.
    pub code: u16,
    /// Selector of every data segment.
    pub data: u16,
    /// Whether XSAVE is on, with `XCR0` as [`HvVcpu::xcr0`] says.
    pub xsave: bool,
    /// Page-table root.
    pub cr3: u64,
    /// Address of the GDT.
    pub gdt: u64,
    /// Limit of the GDT (bytes - 1).
    pub gdt_limit: u16,
}

/// One virtual processor. Belongs to one thread from [`HvVcpu::bind`] on.
pub trait HvVcpu: Send {
    /// Sets the state in which the vCPU starts, and makes it ready to run.
    ///
    /// # Errors
    /// [`VmmError::Hypervisor`].
    fn start_long_mode(&mut self, start: &LongModeStart) -> Result<(), VmmError>;

    /// Sets the model-specific registers as firmware leaves them on every
    /// processor: fast string operations on, memory write-back unless page tables
    /// say otherwise (Intel SDM 3, 12.11.2.1).
    ///
    /// # Errors
    /// [`VmmError::Hypervisor`].
    fn set_firmware_msrs(&mut self) -> Result<(), VmmError>;

    /// Value of `XCR0` that the guest starts with; 0 without XSAVE.
    fn xcr0(&self) -> u64;

    /// What other threads use to get this vCPU out of the guest.
    fn kicker(&self) -> Arc<dyn Kick>;

    /// Says that the calling thread is the one that runs this vCPU from now on.
    fn bind(&mut self);

    /// Forgets kicks that were meant for an earlier entry. To be called before
    /// looking at what was requested, so that no later kick is lost.
    fn clear_kick(&mut self);

    /// Enters the guest once and deals with what made it come out.
    fn run(&mut self, handler: &mut dyn ExitHandler) -> Exit;

    /// Instruction pointer, for reports; `None` if it cannot be read.
    fn rip(&self) -> Option<u64>;

    /// The kernel's own statistics for this vCPU, if it keeps any.
    fn statistics(&self) -> Option<std::os::fd::OwnedFd>;
}

/// Gets a vCPU out of the guest, from any thread and at any time.
pub trait Kick: Send + Sync {
    /// Makes the current or else the next guest entry return
    /// [`Exit::Interrupted`]. Never lost, never blocks on the guest.
    fn kick(&self);
    /// No thread runs the vCPU any more; later kicks do nothing.
    fn unbind(&self);
}

/// Who answers a guest's accesses that are not memory. An `Err` stops the guest.
pub trait ExitHandler {
    /// `in`: fill `data` (1, 2 or 4 bytes, or a multiple for string instructions).
    fn port_read(&mut self, port: u16, data: &mut [u8]) -> Result<(), StopCause>;
    /// `out`.
    fn port_write(&mut self, port: u16, data: &[u8]) -> Result<(), StopCause>;
    /// A load from an address without memory: fill `data` (1 to 8 bytes).
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) -> Result<(), StopCause>;
    /// A store to an address without (writable) memory.
    fn mmio_write(&mut self, gpa: u64, data: &[u8]) -> Result<(), StopCause>;
    /// Memory that a slot promises is not there; `None` when KVM does not say where.
    fn memory_lost(&mut self, gpa: Option<u64>) -> StopCause;
}

/// Why an [`ExitHandler`] will not let the guest go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// The guest asked to stop, with this code.
    Exit(u32),
    /// The guest turned its power off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest did what it may not.
    Fault(crate::FaultKind),
}

/// Why a guest entry ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// An access was answered; enter again.
    Handled,
    /// A kick or a signal; look at what is requested, then enter again.
    Interrupted,
    /// The handler or the hypervisor stopped the guest.
    Stop(StopCause),
}
