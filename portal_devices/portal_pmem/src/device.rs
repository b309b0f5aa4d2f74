//! The device: configuration, requests, flushes.

use crate::ALIGNMENT;
use crate::ConfigError;
use crate::DONE;
use crate::FAILED;
use crate::FEATURE_SHMEM_REGION;
use crate::FLUSH;
use crate::MOST_REQUESTS;
use crate::guard::Guard;
use crate::saved;
use portal_device::Access;
use portal_device::BarInfo;
use portal_device::Counter;
use portal_device::Device;
use portal_device::Effect;
use portal_device::Effects;
use portal_device::Input;
use portal_device::RestoreError;
use portal_device::Saved;
use portal_device::SavedState;
use portal_device::guard::stands;
use portal_device::inspect::Hex;
use portal_device::inspect::Node;

/// Bytes of a request type, and of an answer.
const WORD: u32 = 4;
/// Most bytes: half of the 52 bits of address that x86-64 has at most.
const MOST: u64 = 1 << 51;

/// What a virtio-pmem device is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioPmemConfig {
    /// Its size in bytes; a multiple of [`ALIGNMENT`].
    pub size: u64,
    /// What this partition may do there. With [`Access::ReadOnly`] a flush has
    /// nothing to do.
    pub access: Access,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    requests: Counter,
    flushes: Counter,
    flushes_failed: Counter,
    requests_refused: Counter,
    config_writes_dropped: Counter,
    region_writes_dropped: Counter,
    unexpected: Counter,
    resets: Counter,
}

/// A flush that runs, and who waits for it.
#[derive(Clone, Debug)]
struct Running {
    token: u32,
    batch: Vec<u32>,
}

/// The device.
#[derive(Clone, Debug)]
pub struct VirtioPmem {
    pub(crate) config: VirtioPmemConfig,
    attached: bool,
    /// Where the transport says that the memory is.
    place: Option<u64>,
    /// Where the binding has been told to map it.
    mapped: Option<u64>,
    running: Option<Running>,
    /// Requests that wait for the flush after the running one.
    next: Vec<u32>,
    last_token: u32,
    /// A flush has failed.
    pub(crate) failed: bool,
    counters: Counters,
}

impl VirtioPmem {
    /// A device with nothing to do, detached.
    pub fn new(config: VirtioPmemConfig) -> Result<Self, ConfigError> {
        let (size, limit) = (config.size, MOST);
        if size == 0 || !size.is_multiple_of(ALIGNMENT) || size > limit {
            return Err(ConfigError::Size { value: size, limit });
        }
        Ok(VirtioPmem {
            config,
            attached: false,
            place: None,
            mapped: None,
            running: None,
            next: Vec::new(),
            last_token: 0,
            failed: false,
            counters: Counters::default(),
        })
    }

    /// What the device was made from.
    pub fn config(&self) -> &VirtioPmemConfig {
        &self.config
    }

    /// Device-specific feature bits to offer.
    pub fn features(&self) -> u64 {
        FEATURE_SHMEM_REGION
    }

    fn config_read(&mut self, offset: u16, len: u8, effects: &mut Effects) {
        let mut bytes = [0u8; 16];
        let (start, size) = bytes.split_at_mut(8);
        start.copy_from_slice(&self.place.unwrap_or(0).to_le_bytes());
        size.copy_from_slice(&self.config.size.to_le_bytes());
        let mut value = [0u8; 8];
        let from = bytes.iter().skip(offset.into()).take(len.min(8).into());
        for (to, from) in value.iter_mut().zip(from) {
            *to = *from;
        }
        effects.answer(u64::from_le_bytes(value));
    }

    fn complete(&self, token: u32, answer: u32, effects: &mut Effects) {
        effects.push(Effect::Complete {
            queue: 0,
            token,
            answer: answer.into(),
            len: WORD,
        });
    }

    fn refuse(&mut self, queue: u16, token: u32, writable: u32, effects: &mut Effects) {
        if self.counters.requests_refused.bump() {
            tracing::warn!(queue, token, "virtio-pmem: request refused");
        }
        let len = if writable < WORD { 0 } else { WORD };
        effects.push(Effect::Complete {
            queue,
            token,
            answer: FAILED.into(),
            len,
        });
    }

    fn flush_request(&mut self, token: u32, effects: &mut Effects) {
        if self.failed && stands(Guard::Sticky) {
            self.complete(token, FAILED, effects);
        } else if self.config.access == Access::ReadOnly {
            self.complete(token, DONE, effects);
        } else if let Some(running) = &mut self.running {
            if stands(Guard::NextFlush) {
                self.next.push(token);
            } else {
                running.batch.push(token);
            }
        } else {
            self.start(vec![token], effects);
        }
    }

    fn start(&mut self, batch: Vec<u32>, effects: &mut Effects) {
        let token = self.last_token.wrapping_add(1);
        self.last_token = token;
        self.running = Some(Running { token, batch });
        self.counters.flushes.bump();
        effects.push(Effect::Flush {
            token,
            offset: 0,
            len: self.config.size,
        });
    }

    fn outstanding(&self) -> usize {
        let running = self
            .running
            .as_ref()
            .map_or(0, |running| running.batch.len());
        running.saturating_add(self.next.len())
    }

    fn flushed(&mut self, token: u32, ok: bool, effects: &mut Effects) {
        let ours = self
            .running
            .as_ref()
            .is_some_and(|running| running.token == token);
        if !ours && stands(Guard::Token) {
            self.counters.unexpected.bump();
            return;
        }
        let Some(running) = self.running.take() else {
            return;
        };
        if !ok {
            self.failed = true;
            if self.counters.flushes_failed.bump() {
                tracing::error!("virtio-pmem: a flush failed; all later ones fail too");
            }
        }
        let answer = if ok { DONE } else { FAILED };
        for request in running.batch {
            self.complete(request, answer, effects);
        }
        let waiting = std::mem::take(&mut self.next);
        if self.failed && stands(Guard::Sticky) {
            for request in waiting {
                self.complete(request, FAILED, effects);
            }
        } else if !waiting.is_empty() {
            self.start(waiting, effects);
        }
    }

    /// The guest's queue is gone: nobody waits any more. A flush that runs goes
    /// on and will say so.
    fn forget_requests(&mut self) {
        self.next.clear();
        if let Some(running) = &mut self.running {
            running.batch.clear();
        }
    }

    /// Brings the mapping to where the memory is.
    fn sync(&mut self, effects: &mut Effects) {
        let wanted = self.place.filter(|_| self.attached);
        if self.mapped == wanted {
            return;
        }
        let VirtioPmemConfig { size, access } = self.config;
        if let Some(gpa) = self.mapped {
            effects.push(Effect::Unmap {
                bar: 0,
                gpa,
                offset: 0,
                len: size,
            });
        }
        if let Some(gpa) = wanted {
            effects.push(Effect::Map {
                bar: 0,
                gpa,
                offset: 0,
                len: size,
                access,
            });
        }
        self.mapped = wanted;
    }

    /// An address that cannot be is nowhere.
    fn memory_at(&mut self, gpa: Option<u64>, effects: &mut Effects) {
        self.place = gpa.filter(|gpa| *gpa > 0 && gpa.is_multiple_of(ALIGNMENT));
        if self.place != gpa {
            self.counters.unexpected.bump();
        }
        self.sync(effects);
    }

    fn attach(&mut self, effects: &mut Effects) {
        if !self.attached {
            self.attached = true;
            // A flush of the binding before this one will not be heard of.
            self.running = None;
            self.sync(effects);
        }
    }

    fn detach(&mut self, effects: &mut Effects) {
        if self.attached {
            self.attached = false;
            self.forget_requests();
            self.running = None;
            self.sync(effects);
        }
    }

    fn request(&mut self, input: Input, effects: &mut Effects) {
        let Input::Request {
            queue,
            token,
            head,
            readable,
            writable,
        } = input
        else {
            return;
        };
        if !self.attached {
            self.counters.unexpected.bump();
            return;
        }
        self.counters.requests.bump();
        let kind = (head & u64::from(u32::MAX)) as u32;
        let full = self.outstanding() >= usize::from(MOST_REQUESTS);
        if queue != 0 || readable < WORD || writable < WORD || kind != FLUSH || full {
            self.refuse(queue, token, writable, effects);
        } else {
            self.flush_request(token, effects);
        }
    }
}

impl Device for VirtioPmem {
    fn step(&mut self, input: Input, effects: &mut Effects) {
        match input {
            Input::ConfigRead { offset, len } => self.config_read(offset, len, effects),
            Input::ConfigWrite { .. } => {
                self.counters.config_writes_dropped.bump();
            }
            Input::Request { .. } => self.request(input, effects),
            Input::Flushed { token, ok } => self.flushed(token, ok, effects),
            // A store to memory that is read-only to this partition.
            Input::BarWrite { .. } => {
                self.counters.region_writes_dropped.bump();
            }
            Input::Attach => self.attach(effects),
            Input::Detach => self.detach(effects),
            Input::MemoryAt { gpa } => self.memory_at(gpa, effects),
            Input::Reset => {
                self.counters.resets.bump();
                self.forget_requests();
            }
            _ => {
                self.counters.unexpected.bump();
            }
        }
    }

    fn bars(&self) -> &[BarInfo] {
        &[]
    }

    fn save(&self) -> Saved {
        match &self.running {
            Some(_) => Saved::Busy,
            None => Saved::State(saved::save(self)),
        }
    }

    /// Outstanding requests of this device are forgotten; the memory stays
    /// where it is.
    fn restore(&mut self, saved: &SavedState, _: &mut Effects) -> Result<(), RestoreError> {
        let failed = saved::read(self, saved)?;
        self.failed |= failed;
        self.forget_requests();
        Ok(())
    }

    fn inspect(&self) -> Node {
        let mut counters = Node::new();
        self.counters(&mut |name, count| counters.push(name, count));
        Node::new()
            .with("device", "virtio-pmem")
            .with("start", self.place.map(Hex))
            .with("size", Hex(self.config.size))
            .with("read_only", self.config.access == Access::ReadOnly)
            .with("mapped", self.mapped.is_some())
            .with("flushing", self.running.is_some())
            .with("waiting", self.outstanding() as u64)
            .with("failed", self.failed)
            .with("counters", counters)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        let c = &self.counters;
        for (name, counter) in [
            ("requests", c.requests),
            ("flushes", c.flushes),
            ("flushes_failed", c.flushes_failed),
            ("requests_refused", c.requests_refused),
            ("config_writes_dropped", c.config_writes_dropped),
            ("region_writes_dropped", c.region_writes_dropped),
            ("unexpected", c.unexpected),
            ("resets", c.resets),
        ] {
            visit(name, counter.get());
        }
    }
}
