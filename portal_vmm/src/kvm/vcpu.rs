//! A KVM virtual processor: registers at entry, CPUID, and the run loop's one
//! step.
#![expect(
    unsafe_code,
    reason = "KVM calls without a binding, and the exit union that the kernel fills"
)]

use super::cpuid;
use super::kick::Kicker;
use super::partition::KvmPartition;
use super::stats;
use crate::FaultKind;
use crate::VmmError;
use crate::hv::Exit;
use crate::hv::ExitHandler;
use crate::hv::HvVcpu;
use crate::hv::Kick;
use crate::hv::LongModeStart;
use crate::hv::StopCause;
use kvm_bindings::KVM_INTERNAL_ERROR_EMULATION;
use kvm_bindings::KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
use kvm_bindings::KVM_MP_STATE_RUNNABLE;
use kvm_bindings::KVM_VCPU_TSC_CTRL;
use kvm_bindings::KVM_VCPU_TSC_OFFSET;
use kvm_bindings::KVMIO;
use kvm_bindings::Msrs;
use kvm_bindings::kvm_device_attr;
use kvm_bindings::kvm_mp_state;
use kvm_bindings::kvm_msr_entry;
use kvm_bindings::kvm_regs;
use kvm_bindings::kvm_segment;
use kvm_bindings::kvm_xcrs;
use kvm_ioctls::VcpuExit;
use kvm_ioctls::VcpuFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_HAS_DEVICE_ATTR, KVMIO, 0xe3, kvm_device_attr);

const CR0_PE_MP_ET_NE_WP_PG: u64 = 0x8001_0033;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR_OSXMMEXCPT: u64 = (1 << 9) | (1 << 10);
const CR4_OSXSAVE: u64 = 1 << 18;
const EFER_LME_LMA: u64 = (1 << 8) | (1 << 10);
/// `IA32_MISC_ENABLE` and its bit for fast string operations.
const MSR_MISC_ENABLE: u32 = 0x1A0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
/// `IA32_MTRR_DEF_TYPE`: memory type ranges on, write-back where none says more.
const MSR_MTRR_DEF_TYPE: u32 = 0x2FF;
const MTRR_ENABLE_WRITE_BACK: u64 = 1 << 11 | 6;
const RFLAGS_RESERVED: u64 = 1 << 1;

pub(super) struct KvmVcpu {
    fd: VcpuFd,
    kicker: Arc<Kicker>,
    /// Keeps the guest's memory mapped for as long as this can run.
    partition: Arc<KvmPartition>,
    tsc: (u64, bool),
}

/// Whether the TSC offset of a vCPU can be set; asked of a throw-away one.
pub(super) fn can_set_tsc_offset(kvm: &kvm_ioctls::Kvm) -> bool {
    let Ok(vm) = kvm.create_vm() else {
        return false;
    };
    let Ok(vcpu) = vm.create_vcpu(0) else {
        return false;
    };
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        ..Default::default()
    };
    // SAFETY: asks about an attribute; the kernel follows no address.
    unsafe { ioctl_with_ref(&vcpu, KVM_HAS_DEVICE_ATTR(), &attribute) == 0 }
}

impl KvmVcpu {
    pub(super) fn new(
        partition: Arc<KvmPartition>,
        fd: VcpuFd,
        index: u32,
        count: u32,
    ) -> Result<Self, VmmError> {
        let cpuid = cpuid::of_vcpu(partition.cpuid(), index, count)?;
        fd.set_cpuid2(&cpuid)
            .map_err(|errno| VmmError::kvm("KVM_SET_CPUID2", errno))?;
        let is_host = partition.capabilities().tsc_offset && set_tsc_offset(&fd, 0);
        let hz = fd.get_tsc_khz().map_or(0, |khz| u64::from(khz) * 1000);
        Ok(Self {
            kicker: Arc::new(Kicker::new(&fd)?),
            fd,
            partition,
            tsc: (hz, is_host),
        })
    }

    pub(super) fn tsc(&self) -> (u64, bool) {
        self.tsc
    }

    /// What KVM says about an instruction that it could not execute.
    fn internal_error(&mut self) -> FaultKind {
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason is KVM_EXIT_INTERNAL_ERROR, for which the kernel
        // fills this member; every bit pattern of its integers is valid.
        let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
        let mut bytes = Vec::new();
        let told = failure.ndata >= 3
            && failure.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
        if failure.suberror == KVM_INTERNAL_ERROR_EMULATION && told {
            // SAFETY: the flag says that the kernel filled these bytes.
            let instruction = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
            let len = usize::from(instruction.insn_size).min(instruction.insn_bytes.len());
            bytes.extend(instruction.insn_bytes.iter().take(len));
        }
        FaultKind::Emulation {
            suberror: failure.suberror,
            bytes,
        }
    }
}

impl HvVcpu for KvmVcpu {
    fn start_long_mode(&mut self, start: &LongModeStart) -> Result<(), VmmError> {
        let xcr0 = if start.xsave { self.xcr0() } else { 0 };
        let mut sregs = self
            .fd
            .get_sregs()
            .map_err(|errno| VmmError::kvm("KVM_GET_SREGS", errno))?;
        let code = segment(start.code, 0xB, true);
        let data = segment(start.data, 0x3, false);
        sregs.cs = code;
        sregs.ss = data;
        sregs.ds = data;
        sregs.es = data;
        sregs.fs = data;
        sregs.gs = data;
        sregs.gdt.base = start.gdt;
        sregs.gdt.limit = start.gdt_limit;
        sregs.idt.base = 0;
        sregs.idt.limit = 0;
        sregs.cr0 = CR0_PE_MP_ET_NE_WP_PG;
        sregs.cr3 = start.cr3;
        sregs.cr4 = CR4_PAE | CR4_OSFXSR_OSXMMEXCPT;
        if xcr0 != 0 {
            sregs.cr4 |= CR4_OSXSAVE;
        }
        sregs.efer = EFER_LME_LMA;
        self.fd
            .set_sregs(&sregs)
            .map_err(|errno| VmmError::kvm("KVM_SET_SREGS", errno))?;
        if xcr0 != 0 {
            let mut xcrs = kvm_xcrs {
                nr_xcrs: 1,
                ..Default::default()
            };
            xcrs.xcrs[0].xcr = 0;
            xcrs.xcrs[0].value = xcr0;
            self.fd
                .set_xcrs(&xcrs)
                .map_err(|errno| VmmError::kvm("KVM_SET_XCRS", errno))?;
        }
        let regs = kvm_regs {
            rip: start.rip,
            rsp: start.rsp,
            rdi: start.rdi,
            rsi: start.rsi,
            rflags: RFLAGS_RESERVED,
            ..Default::default()
        };
        self.fd
            .set_regs(&regs)
            .map_err(|errno| VmmError::kvm("KVM_SET_REGS", errno))?;
        // All but the first processor wait for INIT and SIPI after a reset; this one
        // does not.
        self.fd
            .set_mp_state(kvm_mp_state {
                mp_state: KVM_MP_STATE_RUNNABLE,
            })
            .map_err(|errno| VmmError::kvm("KVM_SET_MP_STATE", errno))
    }

    fn set_firmware_msrs(&mut self) -> Result<(), VmmError> {
        let entry = |index, data| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        };
        let msrs = Msrs::from_entries(&[
            entry(MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
            entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLE_WRITE_BACK),
        ])
        .map_err(|_| VmmError::Hypervisor {
            call: "KVM_SET_MSRS",
            source: std::io::Error::from(std::io::ErrorKind::OutOfMemory),
        })?;
        // A number below that of the entries: one was refused. A guest can do
        // without either.
        self.fd
            .set_msrs(&msrs)
            .map(|_| ())
            .map_err(|errno| VmmError::kvm("KVM_SET_MSRS", errno))
    }

    fn xcr0(&self) -> u64 {
        self.partition.capabilities().xcr0
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.kicker.clone()
    }

    fn bind(&mut self) {
        self.kicker.bind();
    }

    fn clear_kick(&mut self) {
        self.kicker.clear();
    }

    fn run(&mut self, handler: &mut dyn ExitHandler) -> Exit {
        let fault = |kind| Exit::Stop(StopCause::Fault(kind));
        let answered = match self.fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => handler.port_read(port, data),
            Ok(VcpuExit::IoOut(port, data)) => handler.port_write(port, data),
            Ok(VcpuExit::MmioRead(gpa, data)) => handler.mmio_read(gpa, data),
            Ok(VcpuExit::MmioWrite(gpa, data)) => handler.mmio_write(gpa, data),
            Ok(VcpuExit::Intr) => return Exit::Interrupted,
            Ok(VcpuExit::Hlt) => return fault(FaultKind::Halt),
            Ok(VcpuExit::Shutdown) => return fault(FaultKind::Shutdown),
            Ok(VcpuExit::InternalError) => return fault(self.internal_error()),
            Ok(VcpuExit::FailEntry(reason, _)) => return fault(FaultKind::Entry { reason }),
            Ok(VcpuExit::MemoryFault { gpa, .. }) => Err(handler.memory_lost(Some(gpa))),
            Ok(other) => {
                return fault(FaultKind::Hypervisor {
                    what: format!("unexpected exit {other:?}"),
                });
            }
            Err(errno) => match errno.errno() {
                libc::EINTR | libc::EAGAIN => return Exit::Interrupted,
                libc::EFAULT | libc::EHWPOISON => Err(handler.memory_lost(None)),
                _ => {
                    return fault(FaultKind::Hypervisor {
                        what: format!("KVM_RUN: {errno}"),
                    });
                }
            },
        };
        match answered {
            Ok(()) => Exit::Handled,
            Err(cause) => Exit::Stop(cause),
        }
    }

    fn rip(&self) -> Option<u64> {
        self.fd.get_regs().ok().map(|regs| regs.rip)
    }

    fn statistics(&self) -> Option<OwnedFd> {
        self.partition
            .capabilities()
            .statistics
            .then(|| stats::open(&self.fd).ok())
            .flatten()
    }
}

/// A flat segment: base 0, limit 4 GiB, ring 0, present.
fn segment(selector: u16, kind: u8, code: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xFFFF_FFFF,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..Default::default()
    }
}

fn set_tsc_offset(fd: &VcpuFd, offset: u64) -> bool {
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: (&raw const offset).addr() as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads eight bytes at `addr`, which is `offset`, alive here.
    unsafe { ioctl_with_ref(fd, KVM_SET_DEVICE_ATTR(), &attribute) == 0 }
}
