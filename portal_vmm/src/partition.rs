//! A partition from `build` to its end: start, pause, resume, stop, wait.
//!
//! ```text
//!           start          pause            
//!   built ─────────▶ running ─────▶ paused
//!     │                │  ▲           │  │
//!     │                │  └───────────┘  │
//!     │                │      resume     │
//!     └──── stop ──────┴────── stop ─────┴──▶ ended (one Outcome, for good)
//!                      │
//!                      └─ exit port, power-off, reset, fault, deadline ──▶ ended
//! ```
//!
//! One thread runs each vCPU. What they are to do is one atomic byte, looked at
//! before every guest entry; a kick gets them there. The first cause of an end
//! is the one that counts.

use crate::DeviceHandle;
use crate::DeviceStats;
use crate::Fault;
use crate::FaultKind;
use crate::Member;
use crate::Outcome;
use crate::Overrun;
use crate::PartitionObserver;
use crate::Sandbox;
use crate::VmmError;
use crate::binding::Binding;
use crate::guard::Guard;
use crate::guard::stands;
use crate::hv::HvPartition;
use crate::hv::HvVcpu;
use crate::hv::Kick;
use crate::hv::StopCause;
use crate::kvm::StatsReader;
use crate::platform::Platform;
use crate::stats::Counters;
use crate::stats::PartitionStats;
use crate::vcpu_thread;
use crate::watchdog;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// A vCPU out of the guest within this time of a kick, or something is broken.
const KICK_LIMIT: Duration = Duration::from_secs(5);

const REQUEST_RUN: u8 = 0;
const REQUEST_PAUSE: u8 = 1;
const REQUEST_STOP: u8 = 2;

/// What vCPU threads are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Run,
    Pause,
    Stop,
}

/// Why a run ends; becomes an [`Outcome`] when every vCPU is out.
#[derive(Clone, Debug)]
enum Ending {
    Exited(u32),
    PoweredOff,
    Reset,
    Faulted(Fault),
    Deadline,
    Stopped,
}

#[derive(Debug, Default)]
struct Control {
    started: bool,
    /// vCPU threads that have not ended.
    alive: usize,
    /// vCPU threads that wait for a request other than pause.
    parked: usize,
    ending: Option<Ending>,
    /// Where vCPUs stood when they ended.
    rips: Vec<(u32, u64)>,
    /// The first thing that kept a thread from getting ready.
    failure: Option<VmmError>,
}

/// What the threads of a partition share.
pub(crate) struct Shared {
    pub(crate) name: String,
    request: AtomicU8,
    control: Mutex<Control>,
    changed: Condvar,
    kickers: Vec<Arc<dyn Kick>>,
    pub(crate) platform: Arc<Platform>,
    pub(crate) created: Instant,
    pub(crate) first_entry: OnceLock<Instant>,
    deadline: Duration,
    /// Places in regions, given up when the run ends.
    members: Mutex<Vec<Member>>,
}

impl Shared {
    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn request(&self) -> Request {
        match self.request.load(Ordering::SeqCst) {
            REQUEST_RUN => Request::Run,
            REQUEST_PAUSE => Request::Pause,
            _ => Request::Stop,
        }
    }

    /// Waits on the vCPU's own thread for as long as the partition is paused.
    pub(crate) fn park(&self) {
        let mut control = self.control();
        control.parked += 1;
        self.changed.notify_all();
        while self.request() == Request::Pause {
            control = self
                .changed
                .wait(control)
                .unwrap_or_else(PoisonError::into_inner);
        }
        control.parked -= 1;
    }

    /// A thread could not get ready; the partition will not start.
    pub(crate) fn cannot_start(&self, failure: VmmError) {
        let mut control = self.control();
        control.failure.get_or_insert(failure);
        self.changed.notify_all();
    }

    /// A vCPU stopped for this cause.
    pub(crate) fn stopped_by(&self, vcpu: Option<u32>, rip: Option<u64>, cause: StopCause) {
        let ending = match cause {
            StopCause::Exit(code) => Ending::Exited(code),
            StopCause::PowerOff => Ending::PoweredOff,
            StopCause::Reset => Ending::Reset,
            StopCause::Fault(kind) => Ending::Faulted(Fault {
                partition: self.name.clone(),
                vcpu,
                rip,
                kind,
            }),
        };
        self.end(ending);
    }

    /// A vCPU's thread is over.
    pub(crate) fn thread_ended(&self, vcpu: u32, rip: Option<u64>) {
        let mut control = self.control();
        control.rips.extend(rip.map(|rip| (vcpu, rip)));
        if control.alive == 1 {
            // The last one: nothing of the guest runs any more. Its neighbours
            // know before anybody here does.
            control.rips.sort_unstable();
            drop(control);
            self.give_up();
            control = self.control();
        }
        control.alive = control.alive.saturating_sub(1);
        self.changed.notify_all();
    }

    /// Leaves the regions and passes on the last of the console's output.
    fn give_up(&self) {
        self.platform.uart().finish();
        let members = self.members.lock();
        let members = std::mem::take(&mut *members.unwrap_or_else(PoisonError::into_inner));
        if stands(Guard::Leaving) {
            drop(members);
        } else {
            std::mem::forget(members);
        }
    }

    /// The deadline has passed.
    pub(crate) fn overrun(&self) {
        self.end(Ending::Deadline);
    }

    /// Ends the run, unless something has ended it before.
    fn end(&self, ending: Ending) {
        let mut control = self.control();
        if control.ending.is_none() {
            control.ending = Some(ending);
        }
        self.request.store(REQUEST_STOP, Ordering::SeqCst);
        self.changed.notify_all();
        drop(control);
        for kicker in &self.kickers {
            kicker.kick();
        }
    }

    /// What it does, in a word or, at its end, a sentence.
    pub(crate) fn state(&self) -> String {
        let control = self.control();
        if let Some(outcome) = self.outcome(&control) {
            return outcome.to_string();
        }
        match (control.started, control.ending.is_some(), self.request()) {
            (_, true, _) => "ending",
            (false, ..) => "built",
            (true, _, Request::Pause) => "paused",
            (true, ..) => "running",
        }
        .to_owned()
    }

    fn outcome(&self, control: &Control) -> Option<Outcome> {
        if control.alive > 0 {
            return None;
        }
        Some(match control.ending.clone()? {
            Ending::Exited(code) => Outcome::Exited(code),
            Ending::PoweredOff => Outcome::PoweredOff,
            Ending::Reset => Outcome::Reset,
            Ending::Faulted(fault) => Outcome::Faulted(fault),
            Ending::Stopped => Outcome::Stopped,
            Ending::Deadline => Outcome::Deadline(Overrun {
                partition: self.name.clone(),
                limit: self.deadline,
                vcpus: control.rips.clone(),
            }),
        })
    }

    /// Waits until `done` or until `limit` has passed.
    fn wait_until(
        &self,
        limit: Duration,
        done: impl Fn(&Control) -> bool,
    ) -> MutexGuard<'_, Control> {
        let begin = Instant::now();
        let mut control = self.control();
        while !done(&control) {
            let Some(left) = limit.checked_sub(begin.elapsed()) else {
                break;
            };
            control = self
                .changed
                .wait_timeout(control, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        control
    }
}

/// How vCPU threads are run.
#[derive(Clone, Debug, Default)]
pub(crate) struct ThreadPlan {
    /// Host CPU of each vCPU; vCPUs beyond its end float.
    pub(crate) pin: Vec<usize>,
    /// Fences that each thread puts up.
    pub(crate) sandbox: Sandbox,
}

/// A partition that was built. Dropping it stops it.
pub struct Partition {
    pub(crate) shared: Arc<Shared>,
    hv: Arc<dyn HvPartition>,
    waiting: Vec<Box<dyn HvVcpu>>,
    threads: Vec<std::thread::JoinHandle<()>>,
    counters: Vec<Arc<Counters>>,
    kernel: Arc<[Option<StatsReader>]>,
    build: Duration,
    plan: ThreadPlan,
}

/// What `build` hands over.
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) created: Instant,
    pub(crate) deadline: Duration,
    pub(crate) hv: Arc<dyn HvPartition>,
    pub(crate) vcpus: Vec<Box<dyn HvVcpu>>,
    pub(crate) platform: Arc<Platform>,
    pub(crate) plan: ThreadPlan,
    /// Places in regions, with the index of the device that each is for.
    pub(crate) members: Vec<(Option<usize>, Member)>,
}

impl Partition {
    pub(crate) fn new(parts: Parts) -> Self {
        let readers = parts.vcpus.iter().map(|vcpu| {
            let statistics = vcpu.statistics()?;
            StatsReader::new(statistics).ok()
        });
        let partition = Self {
            kernel: readers.collect(),
            counters: parts.vcpus.iter().map(|_| Arc::default()).collect(),
            shared: Arc::new(Shared {
                name: parts.name,
                request: AtomicU8::new(REQUEST_PAUSE),
                control: Mutex::default(),
                changed: Condvar::new(),
                kickers: parts.vcpus.iter().map(|vcpu| vcpu.kicker()).collect(),
                platform: parts.platform,
                created: parts.created,
                first_entry: OnceLock::new(),
                deadline: parts.deadline,
                members: Mutex::default(),
            }),
            hv: parts.hv,
            waiting: parts.vcpus,
            threads: Vec::new(),
            build: parts.created.elapsed(),
            plan: parts.plan,
        };
        let owner = &partition.shared.platform.resources.owner;
        let _ = owner.set(Arc::downgrade(&partition.shared));
        for binding in partition.shared.platform.devices() {
            binding.listen_again();
        }
        let devices = partition.devices();
        for (index, member) in parts.members {
            if let Some(device) = index.and_then(|index| devices.get(index)) {
                member.listen(device.clone());
            }
            let mut members = partition
                .shared
                .members
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            members.push(member);
        }
        partition
    }

    /// The partition's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    fn refuse<T>(&self, state: &'static str, action: &'static str) -> Result<T, VmmError> {
        Err(VmmError::State {
            partition: self.shared.name.clone(),
            state,
            action,
        })
    }

    /// Starts every vCPU, each on a thread of its own. Returns when all of them
    /// are pinned and locked into their sandbox and the first entry is next. The
    /// deadline counts from here.
    ///
    /// # Errors
    /// [`VmmError::State`] when it was started before; [`VmmError::Thread`] and
    /// [`VmmError::Sandbox`] when a thread cannot get ready, and then nothing
    /// of the guest has run.
    pub fn start(&mut self) -> Result<(), VmmError> {
        {
            let mut control = self.shared.control();
            if control.ending.is_some() {
                drop(control);
                return self.refuse("ended", "start");
            }
            if control.started {
                drop(control);
                return self.refuse("started already", "start");
            }
            control.started = true;
            control.alive = self.waiting.len();
        }
        let count = self.waiting.len();
        for (index, vcpu) in (0u32..).zip(std::mem::take(&mut self.waiting)) {
            let counters = self.counters.get(index as usize).cloned();
            let seat = vcpu_thread::Seat {
                index,
                vcpu,
                counters: counters.unwrap_or_default(),
                cpu: self.plan.pin.get(index as usize).copied(),
                sandbox: self.plan.sandbox,
                shared: self.shared.clone(),
            };
            match seat.spawn() {
                Ok(thread) => self.threads.push(thread),
                Err(source) => {
                    // This one and those behind it never came to life.
                    let missing = count - index as usize;
                    let mut control = self.shared.control();
                    control.alive = control.alive.saturating_sub(missing);
                    drop(control);
                    self.shared.cannot_start(VmmError::Thread {
                        partition: self.shared.name.clone(),
                        vcpu: index,
                        what: "cannot start its thread",
                        source,
                    });
                    break;
                }
            }
        }
        let mut control = self.shared.wait_until(KICK_LIMIT, |control| {
            control.parked == count || control.failure.is_some()
        });
        if let Some(failure) = control.failure.take() {
            drop(control);
            self.end_and_join();
            return Err(failure);
        }
        drop(control);
        if let Some(when) = Instant::now().checked_add(self.shared.deadline)
            && let Err(source) = watchdog::watch(&self.shared, when, self.plan.sandbox)
        {
            self.end_and_join();
            return Err(VmmError::Thread {
                partition: self.shared.name.clone(),
                vcpu: 0,
                what: "cannot watch its deadline",
                source,
            });
        }
        self.set_request(REQUEST_PAUSE, REQUEST_RUN);
        Ok(())
    }

    /// Moves from one request to another, unless the run has ended meanwhile.
    fn set_request(&self, from: u8, to: u8) {
        // Under the lock, so that no parked thread misses it.
        let control = self.shared.control();
        let _ = self
            .shared
            .request
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
        self.shared.changed.notify_all();
        drop(control);
    }

    /// Takes every vCPU out of the guest and keeps it out until
    /// [`Partition::resume`]. Returns when all are out. The deadline goes on.
    ///
    /// # Errors
    /// [`VmmError::State`] when it is not running; [`VmmError::Stuck`].
    pub fn pause(&self) -> Result<(), VmmError> {
        if !self.shared.control().started {
            return self.refuse("not started", "pause");
        }
        self.set_request(REQUEST_RUN, REQUEST_PAUSE);
        for kicker in &self.shared.kickers {
            kicker.kick();
        }
        let still = |control: &Control| control.alive.saturating_sub(control.parked);
        let control = self
            .shared
            .wait_until(KICK_LIMIT, |control| still(control) == 0);
        let running = still(&control);
        let ended = control.ending.is_some();
        drop(control);
        if ended {
            return self.refuse("ended", "pause");
        }
        if running > 0 {
            return Err(VmmError::Stuck {
                partition: self.shared.name.clone(),
                running,
                waited: KICK_LIMIT,
            });
        }
        Ok(())
    }

    /// Lets a paused partition go on.
    ///
    /// # Errors
    /// [`VmmError::State`] when it was never started or has ended.
    pub fn resume(&self) -> Result<(), VmmError> {
        let control = self.shared.control();
        let (started, ended) = (control.started, control.ending.is_some());
        drop(control);
        if !started || ended {
            return self.refuse(if ended { "ended" } else { "not started" }, "resume");
        }
        self.set_request(REQUEST_PAUSE, REQUEST_RUN);
        Ok(())
    }

    /// Ends the run and waits for every vCPU to be out. Returns how it ended:
    /// [`Outcome::Stopped`], unless it had ended by itself before.
    ///
    /// # Errors
    /// [`VmmError::Stuck`].
    pub fn stop(&self) -> Result<Outcome, VmmError> {
        self.shared.end(Ending::Stopped);
        let control = self
            .shared
            .wait_until(KICK_LIMIT, |control| control.alive == 0);
        self.shared.outcome(&control).ok_or(VmmError::Stuck {
            partition: self.shared.name.clone(),
            running: control.alive,
            waited: KICK_LIMIT,
        })
    }

    /// Waits for the end of the run; `None` when `timeout` passes first.
    pub fn wait(&self, timeout: Duration) -> Option<Outcome> {
        let ended = |control: &Control| control.ending.is_some() && control.alive == 0;
        let control = self.shared.wait_until(timeout, ended);
        self.shared.outcome(&control)
    }

    /// Whether the run has ended.
    pub fn ended(&self) -> bool {
        self.shared.control().ending.is_some()
    }

    /// What it has cost so far. Never disturbs the guest.
    pub fn stats(&self) -> PartitionStats {
        let mut vcpus: Vec<_> = self.counters.iter().map(|own| own.read()).collect();
        for (vcpu, reader) in vcpus.iter_mut().zip(&*self.kernel) {
            if let Some(Ok(values)) = reader.as_ref().map(StatsReader::read) {
                vcpu.kernel = values;
            }
        }
        let first = self.shared.first_entry.get();
        let devices = self.shared.platform.devices();
        PartitionStats {
            vcpus,
            devices: devices.map(|binding| device_stats(&binding)).collect(),
            build: self.build,
            first_entry: first.map(|at| at.duration_since(self.shared.created)),
            ram_bytes: self.shared.platform.ram.bytes(),
            console_lost: self.shared.platform.uart().lost(),
        }
    }

    /// A look at it from other threads.
    pub fn observer(&self) -> PartitionObserver {
        PartitionObserver::new(
            Arc::downgrade(&self.shared),
            self.counters.clone(),
            Arc::clone(&self.kernel),
        )
    }

    /// Every device, in the order of its slot on the PCI bus.
    pub fn devices(&self) -> Vec<DeviceHandle> {
        let names = self.shared.platform.devices();
        let names: Vec<_> = names.map(|binding| binding.name().to_owned()).collect();
        let handle = |(index, name)| DeviceHandle::new(Arc::downgrade(&self.shared), index, name);
        names.into_iter().enumerate().map(handle).collect()
    }

    /// The first device of this name.
    pub fn device(&self, name: &str) -> Option<DeviceHandle> {
        let mut devices = self.devices().into_iter();
        devices.find(|device| device.name() == name)
    }

    /// Says that the partition has formatted its sections: its places in regions
    /// become ready and the other peers are told.
    ///
    /// # Errors
    /// [`VmmError::Region`] when one of them is neither joining nor quiescing.
    pub fn ready(&self) -> Result<(), VmmError> {
        let members = self.shared.members.lock();
        let members = members.unwrap_or_else(PoisonError::into_inner);
        members.iter().try_for_each(Member::ready)
    }

    /// Types bytes at the serial console. What the guest has no room for waits, up
    /// to 64 KiB; returns how many were taken.
    pub fn console_input(&self, bytes: &[u8]) -> usize {
        self.shared.platform.uart().input(bytes)
    }

    /// Frequency of the guest's TSC in Hz (0 when unknown) and whether it reads
    /// the same as the host's.
    pub fn tsc(&self) -> (u64, bool) {
        self.hv.tsc()
    }

    /// Copies out of the partition's RAM, racing with the guest.
    ///
    /// # Errors
    /// [`FaultKind::Unmapped`] when the bytes do not all lie in one RAM range.
    pub fn read_ram(&self, gpa: u64, to: &mut [u8]) -> Result<(), FaultKind> {
        let len = to.len() as u32;
        let done = self.shared.platform.ram.read(gpa, to);
        done.ok_or(FaultKind::Unmapped {
            gpa,
            len,
            write: false,
        })
    }

    /// Copies into the partition's RAM, racing with the guest.
    ///
    /// # Errors
    /// As [`Partition::read_ram`].
    pub fn write_ram(&self, gpa: u64, from: &[u8]) -> Result<(), FaultKind> {
        let done = self.shared.platform.ram.write(gpa, from);
        done.ok_or(FaultKind::Unmapped {
            gpa,
            len: from.len() as u32,
            write: true,
        })
    }

    fn end_and_join(&mut self) {
        self.shared.end(Ending::Stopped);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!(partition = self.shared.name, "a vCPU thread panicked");
            }
        }
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        self.end_and_join();
        self.shared.give_up();
    }
}

/// A device's own counters and those of its binding.
fn device_stats(binding: &Binding) -> DeviceStats {
    let mut counters = Vec::new();
    binding
        .device()
        .counters(&mut |name, value| counters.push((name, value)));
    let own = binding.counts();
    counters.push(("binding_refused", own.refused.get()));
    counters.push(("binding_unknown", own.unknown.get()));
    let doorbells = binding.doorbells();
    counters.push(("binding_rung", doorbells.sent().get()));
    counters.push(("binding_unheard", doorbells.unheard().get()));
    DeviceStats {
        name: binding.name().to_owned(),
        counters,
    }
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition")
            .field("name", &self.shared.name)
            .field("vcpus", &self.counters.len())
            .finish_non_exhaustive()
    }
}
