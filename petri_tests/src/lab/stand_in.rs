//! Virtual machines that stand in L1 from its boot to its end and never run.
//!
//! A kernel rewrites its own code when KVM's first virtual machine comes and when its
//! last one goes (static keys: the scheduler's notifiers, the local APIC's shortcuts).
//! QEMU's TCG with a thread a CPU, before 8.1, translates code without holding the
//! lock of its page, so that a CPU may keep the breakpoint that stood there during the
//! rewriting. The kernel sees that there is none any more, goes back to it, and does so
//! for ever with interrupts off, at the heart of `__schedule`. With these two standing,
//! nothing is rewritten, however many others come and go.

use kvm_ioctls::Kvm;
use std::convert::Infallible;
use std::io;

/// Makes them and keeps them for as long as the process lives.
///
/// # Errors
/// What KVM says.
pub fn stand_in() -> io::Result<Infallible> {
    let failed = |error: kvm_ioctls::Error| io::Error::from_raw_os_error(error.errno());
    let kvm = Kvm::new().map_err(failed)?;
    // With the kernel's local APIC, which is off at reset, and without it.
    let with = kvm.create_vm().map_err(failed)?;
    with.create_irq_chip().map_err(failed)?;
    let _off = with.create_vcpu(0).map_err(failed)?;
    let without = kvm.create_vm().map_err(failed)?;
    let _none = without.create_vcpu(0).map_err(failed)?;
    loop {
        std::thread::park();
    }
}
