//! The system-call filters, one a kind of thread (`seccomp(2)`).
//!
//! A list of what is allowed, with conditions on arguments where the call as
//! such would be too much: no executable memory, no `ioctl` but KVM's, no
//! signals to anyone but this process, nobody else's memory.

use super::Denied;
use super::ThreadKind;
use crate::VmmError;
use seccompiler::BpfProgram;
use seccompiler::SeccompAction;
use seccompiler::SeccompCmpArgLen;
use seccompiler::SeccompCmpOp;
use seccompiler::SeccompCondition;
use seccompiler::SeccompFilter;
use seccompiler::SeccompRule;
use seccompiler::TargetArch;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

const KVM_RUN: u64 = 0xAE80;

/// KVM calls that a running partition makes: guest entries, registers for a
/// report, mapping a BAR, routing doorbells and interrupts.
const KVM_CALLS: [u64; 8] = [
    KVM_RUN,
    0x8090_AE81, // KVM_GET_REGS
    0x4020_AE46, // KVM_SET_USER_MEMORY_REGION
    0x4008_AE6A, // KVM_SET_GSI_ROUTING
    0x4020_AE76, // KVM_IRQFD
    0x4040_AE79, // KVM_IOEVENTFD
    0x4020_AEA5, // KVM_SIGNAL_MSI
    0x4008_AE61, // KVM_IRQ_LINE
];

/// Memory, waiting, ending, clocks: what any thread of the runtime needs.
const RUNTIME: [i64; 21] = [
    libc::SYS_futex,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_sched_yield,
    libc::SYS_getrandom,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
];

/// Draining an event, and handing one to the listener.
const DEVICES: [i64; 5] = [
    libc::SYS_preadv2,
    libc::SYS_read,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_epoll_ctl,
];

/// Waiting for events.
const LISTENER: [i64; 3] = [
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
];

/// Puts the filter for this kind of thread in place, for good.
pub(super) fn apply(kind: ThreadKind, denied: Denied) -> Result<(), VmmError> {
    let filter = filter(kind, denied)?;
    seccompiler::apply_filter(&filter).map_err(|error| failed(&error))
}

fn failed(error: &dyn std::error::Error) -> VmmError {
    VmmError::Sandbox {
        what: "seccomp",
        reason: error.to_string(),
    }
}

/// What a filter depends on: a process that forks needs its own.
type Key = (ThreadKind, Denied, u32);

/// Filters are made once a process.
fn filter(kind: ThreadKind, denied: Denied) -> Result<Arc<BpfProgram>, VmmError> {
    static MADE: Mutex<Vec<(Key, Arc<BpfProgram>)>> = Mutex::new(Vec::new());
    let key = (kind, denied, std::process::id());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, program)) = made.iter().find(|(of, _)| *of == key) {
        return Ok(program.clone());
    }
    let program = compile(kind, denied).map_err(|error| failed(&error))?;
    let program = Arc::new(program);
    made.push((key, program.clone()));
    Ok(program)
}

fn compile(kind: ThreadKind, denied: Denied) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in RUNTIME {
        rules.insert(call, Vec::new());
    }
    let one = |argument, op, value| {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)?;
        SeccompRule::new(vec![condition])
    };
    let executable = libc::PROT_EXEC as u64;
    let not_executable = SeccompCmpOp::MaskedEq(executable);
    rules.insert(libc::SYS_mmap, vec![one(2, not_executable.clone(), 0)?]);
    rules.insert(libc::SYS_mprotect, vec![one(2, not_executable, 0)?]);
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![one(0, SeccompCmpOp::Eq, own)?]);
    // The standard library looks at descriptors before it closes them.
    let look = libc::F_GETFD as u64;
    rules.insert(libc::SYS_fcntl, vec![one(1, SeccompCmpOp::Eq, look)?]);
    if kind != ThreadKind::Deadline {
        for call in DEVICES {
            rules.insert(call, Vec::new());
        }
        // Only a vCPU's own thread enters a guest.
        let may = |call: &u64| kind == ThreadKind::Vcpu || *call != KVM_RUN;
        let calls = KVM_CALLS.into_iter().filter(may);
        let calls = calls.map(|call| one(1, SeccompCmpOp::Eq, call));
        let calls: Result<Vec<_>, _> = calls.collect();
        rules.insert(libc::SYS_ioctl, calls?);
    }
    if kind == ThreadKind::Vcpu {
        for call in [libc::SYS_process_vm_readv, libc::SYS_process_vm_writev] {
            rules.insert(call, vec![one(0, SeccompCmpOp::Eq, own)?]);
        }
    }
    if kind == ThreadKind::Flusher {
        rules.insert(libc::SYS_fdatasync, Vec::new());
    }
    if kind == ThreadKind::Listener {
        for call in LISTENER {
            rules.insert(call, Vec::new());
        }
    }
    let otherwise = match denied {
        Denied::Refuse => SeccompAction::Errno(libc::EPERM as u32),
        Denied::Kill => SeccompAction::KillProcess,
    };
    SeccompFilter::new(rules, otherwise, SeccompAction::Allow, TargetArch::x86_64)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings as kvm;
    use vmm_sys_util::ioctl::_IOC_NONE;
    use vmm_sys_util::ioctl::_IOC_READ;
    use vmm_sys_util::ioctl::_IOC_WRITE;
    use vmm_sys_util::ioctl::ioctl_expr;

    #[test]
    fn the_call_numbers_are_the_kernels() {
        fn number<T>(direction: u32, nr: u32) -> u64 {
            let size = if direction == _IOC_NONE {
                0
            } else {
                size_of::<T>()
            };
            ioctl_expr(direction, kvm::KVMIO, nr, size as u32)
        }
        let expected = [
            number::<()>(_IOC_NONE, 0x80),
            number::<kvm::kvm_regs>(_IOC_READ, 0x81),
            number::<kvm::kvm_userspace_memory_region>(_IOC_WRITE, 0x46),
            number::<kvm::kvm_irq_routing>(_IOC_WRITE, 0x6A),
            number::<kvm::kvm_irqfd>(_IOC_WRITE, 0x76),
            number::<kvm::kvm_ioeventfd>(_IOC_WRITE, 0x79),
            number::<kvm::kvm_msi>(_IOC_WRITE, 0xA5),
            number::<kvm::kvm_irq_level>(_IOC_WRITE, 0x61),
        ];
        assert_eq!(KVM_CALLS, expected);
    }

    #[test]
    fn every_filter_compiles() {
        for kind in [
            ThreadKind::Vcpu,
            ThreadKind::Deadline,
            ThreadKind::Listener,
            ThreadKind::Flusher,
        ] {
            for denied in [Denied::Refuse, Denied::Kill] {
                assert!(filter(kind, denied).is_ok_and(|program| program.len() > 20));
            }
        }
    }
}
