//! The agent: its part of the region, its doorbells, and what it reports with.

use crate::failure::Failure;
use core::time::Duration;
use hv_shmem::arena::Arena;
use hv_shmem::arena::PageState;
use hv_shmem::doorbell::Bell;
use hv_shmem::doorbell::DoorbellError;
use hv_shmem::doorbell::Heard;
use hv_shmem::layout::PAGE;
use hv_shmem::layout::PeerId;
use hv_shmem::mem::RawMem;
use hv_shmem::own_section::OwnSection;
use hv_shmem::ring::Wake;
use hv_shmem::section::SectionConfig;
use hv_shmem::span::PortalSpan;
use portal_agent_abi::RING_VECTOR;
use portal_agent_abi::histogram::Histogram;
use portal_agent_abi::report::HISTOGRAM_AT;
use portal_agent_abi::report::REPORT_BYTES;
use portal_agent_abi::report::RESULTS_BYTES;
use portal_agent_abi::report::Report;
use portal_warp::Machine;
use portal_warp::ivshmem::InterruptBell;
use portal_warp::ivshmem::Ivshmem;
use portal_warp::region::Attached;

/// Directory entries of the agent's section, where it has room: eight for each of
/// 32 peers.
const DIRECTORY: u64 = 256;
/// Ring storage of the agent's section, in bytes, where it has room: all rings of
/// `portal_agent_abi` to eight peers, and a cursor line for each entry.
const RING_BYTES: u64 = 256 << 10;
/// Part of the section that directory and rings each take at most.
const SHARE: u64 = 8;
/// Counts of the histogram that are written at once.
const COUNTS_AT_ONCE: usize = 64;

/// Pages of the arena that are put to use at most: 64 spans of 1 MiB and as much
/// again. Each page takes about 150 bytes of the partition's RAM.
const MOST_PAGES: u64 = 32 << 10;

fn pages_of(own: &OwnSection<RawMem>) -> usize {
    (own.header().arena_bytes / PAGE).min(MOST_PAGES) as usize
}

/// The agent.
#[derive(Debug)]
pub(crate) struct Agent<'m> {
    pub(crate) machine: &'m Machine,
    pub(crate) device: Option<Ivshmem<'m>>,
    pub(crate) ears: Ears<'m>,
    pub(crate) own: OwnSection<RawMem>,
    pub(crate) arena: Arena<RawMem>,
    pub(crate) histogram: &'static mut Histogram,
    results: Option<PortalSpan>,
}

impl<'m> Agent<'m> {
    /// Attaches, joins, and formats the arena.
    pub(crate) fn start(machine: &'m Machine) -> Result<Self, Failure> {
        let device = Ivshmem::find(machine, 0)?;
        let attached = Attached::first(machine, device.as_ref())?;
        let section = attached.region.layout().section_size;
        let config = SectionConfig {
            directory: DIRECTORY.min(section / SHARE / 64) as u32,
            ring_bytes: RING_BYTES.min(section / SHARE),
        };
        let mut own = attached.region.join(attached.me, attached.epoch, config)?;
        let states = machine.take_at_most(pages_of(&own), PageState::new);
        let arena = own.arena_with(&*states)?;
        let histogram = machine
            .take(1, |_| Histogram::new())
            .and_then(|taken| taken.first_mut())
            .ok_or(Failure::NoRam)?;
        let ears = match &device {
            Some(device) => Ears::Interrupt(device.listen(RING_VECTOR)?),
            None => Ears::Nap(machine),
        };
        Ok(Self {
            machine,
            device,
            ears,
            arena,
            own,
            histogram,
            results: None,
        })
    }

    /// Rings a peer that sleeps.
    pub(crate) fn wake(&self, peer: PeerId, wake: Wake) {
        if wake.must_ring
            && let Some(device) = &self.device
        {
            device.ring(peer, RING_VECTOR);
        }
    }

    /// Puts a report (and the histogram, when something was recorded) where the
    /// host can read it until the next command; `NONE` when there is no room.
    pub(crate) fn publish(&mut self, report: &Report) -> PortalSpan {
        self.retract();
        match self.results(report) {
            Ok(span) => {
                self.results = Some(span);
                span
            }
            Err(_) => PortalSpan::NONE,
        }
    }

    /// Takes the last results back.
    pub(crate) fn retract(&mut self) {
        if let Some(span) = self.results.take() {
            // It cannot fail: lent in `results` and taken back only here.
            let _ = self.arena.revoke(&span);
        }
    }

    fn results(&mut self, report: &Report) -> Result<PortalSpan, Failure> {
        let mut report = *report;
        report.tsc_hz = self.machine.boot().tsc_hz;
        self.histogram.summarise(&mut report);
        let len = match report.recorded {
            0 => REPORT_BYTES as u64,
            _ => RESULTS_BYTES,
        };
        let span = self.arena.alloc_unfilled(len)?;
        let view = self.arena.view(&span)?;
        let mem = view.mem();
        hv_shmem::mem::SharedMem::write(mem, 0, &report.to_bytes());
        if report.recorded != 0 {
            let mut at = HISTOGRAM_AT;
            for counts in self.histogram.counts().chunks(COUNTS_AT_ONCE) {
                let mut bytes = [0; COUNTS_AT_ONCE * 4];
                let (words, _) = bytes.as_chunks_mut::<4>();
                for (word, count) in words.iter_mut().zip(counts) {
                    *word = count.to_le_bytes();
                }
                let used = bytes.get(..counts.len() * 4).unwrap_or_default();
                hv_shmem::mem::SharedMem::write(mem, at, used);
                at += used.len() as u64;
            }
        }
        let span = self.arena.fill(&span, len)?;
        self.arena.grant(&span, portal_agent_abi::HOST)?;
        Ok(span)
    }
}

/// How the agent hears that a ring has news.
#[derive(Debug)]
pub(crate) enum Ears<'m> {
    /// By its doorbell.
    Interrupt(InterruptBell<'m>),
    /// Without doorbells: by looking every now and then.
    Nap(&'m Machine),
}

/// Longest nap of an agent without doorbells.
const NAP: Duration = Duration::from_micros(500);
/// Longest sleep of an agent with doorbells: a peer that does not ring, or rings
/// before this one listens, delays it by this much.
const DOZE: Duration = Duration::from_millis(250);

impl Bell for Ears<'_> {
    fn wait(&self, timeout: Option<Duration>) -> Result<Heard, DoorbellError> {
        match self {
            Self::Interrupt(bell) => {
                let limit = timeout.unwrap_or(DOZE).min(DOZE);
                bell.wait(Some(limit))?;
            }
            Self::Nap(machine) => {
                let limit = timeout.unwrap_or(NAP).min(NAP);
                machine.sleep(machine.clock().after(limit.as_micros() as u64));
            }
        }
        // It may have rung: the waiter looks, and minds its own time.
        Ok(Heard::Rang)
    }
}
