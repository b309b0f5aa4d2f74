//! The thread that runs one vCPU.
//!
//! It binds itself, pins itself, locks itself into its sandbox, reports ready
//! and waits; then it alternates between looking at what is requested and
//! entering the guest. No lock is held across an entry.

use crate::Sandbox;
use crate::VmmError;
use crate::hv::Exit;
use crate::hv::HvVcpu;
use crate::hv::Kick;
use crate::partition::Request;
use crate::partition::Shared;
use crate::platform::VcpuPlatform;
use crate::sandbox;
use crate::sandbox::ThreadKind;
use crate::stats::Counters;
use crate::stats::count;
use rustix::thread::CpuSet;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

/// Bytes of a vCPU thread's stack.
const STACK: usize = 256 << 10;

/// A vCPU with everything its thread needs.
pub(crate) struct Seat {
    pub(crate) index: u32,
    pub(crate) vcpu: Box<dyn HvVcpu>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) cpu: Option<usize>,
    pub(crate) sandbox: Sandbox,
    pub(crate) shared: Arc<Shared>,
}

/// Reports the thread's end however it ends.
struct End {
    shared: Arc<Shared>,
    kicker: Arc<dyn Kick>,
    index: u32,
    rip: Option<u64>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.kicker.unbind();
        if std::thread::panicking() {
            let what = "a vCPU thread of the VMM panicked".to_owned();
            let fault = crate::FaultKind::Hypervisor { what };
            let cause = crate::hv::StopCause::Fault(fault);
            self.shared.stopped_by(Some(self.index), self.rip, cause);
        }
        self.shared.thread_ended(self.index, self.rip);
    }
}

impl Seat {
    pub(crate) fn spawn(self) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name(format!("vcpu{}-{}", self.index, self.shared.name))
            .stack_size(STACK)
            .spawn(move || self.run())
    }

    fn get_ready(&mut self) -> Result<(), VmmError> {
        self.vcpu.bind();
        if let Some(cpu) = self.cpu {
            let fail = |source| VmmError::Thread {
                partition: self.shared.name.clone(),
                vcpu: self.index,
                what: "cannot be pinned to its host CPU",
                source,
            };
            if cpu >= CpuSet::MAX_CPU {
                return Err(fail(io::Error::from(io::ErrorKind::InvalidInput)));
            }
            let mut set = CpuSet::new();
            set.set(cpu);
            rustix::thread::sched_setaffinity(None, &set).map_err(|errno| fail(errno.into()))?;
        }
        sandbox::enter(ThreadKind::Vcpu, self.sandbox)
    }

    fn run(mut self) {
        let mut end = End {
            shared: self.shared.clone(),
            kicker: self.vcpu.kicker(),
            index: self.index,
            rip: None,
        };
        if let Err(error) = self.get_ready() {
            self.shared.cannot_start(error);
            return;
        }
        let mut platform = VcpuPlatform {
            platform: self.shared.platform.clone(),
            counters: self.counters.clone(),
        };
        loop {
            self.vcpu.clear_kick();
            match self.shared.request() {
                Request::Run => {}
                Request::Pause => {
                    self.shared.park();
                    continue;
                }
                Request::Stop => {
                    end.rip = self.vcpu.rip();
                    return;
                }
            }
            if self.index == 0 {
                self.shared.first_entry.get_or_init(Instant::now);
            }
            let exit = self.vcpu.run(&mut platform);
            count(&self.counters.entries);
            match exit {
                Exit::Handled => {}
                Exit::Interrupted => count(&self.counters.interrupted),
                Exit::Stop(cause) => {
                    end.rip = self.vcpu.rip();
                    self.shared.stopped_by(Some(self.index), end.rip, cause);
                    return;
                }
            }
        }
    }
}
