//! The rings of virtio devices: takes requests off and gives answers back.
//!
//! Specification: virtio 1.2, 2.7 (split virtqueues); the walk itself is
//! `virtio_queue`'s, over guest RAM alone. Distrusted: the guest, who may change
//! every byte of ring and descriptors at any moment. What cannot be walked breaks
//! the queue: the device asks its driver for a reset. All work for one
//! notification is bounded by the size of the queue times [`MOST_DESCRIPTORS`].
//!
//! Left out: packed rings, event indices.
#![expect(
    unsafe_code,
    reason = "guest RAM as vm-memory's type, for virtio-queue"
)]

use crate::boot::GuestRam;
use crate::memory::HostRange;
use portal_device::Input;
use std::collections::BTreeMap;
use virtio_queue::Queue;
use virtio_queue::QueueOwnedT as _;
use virtio_queue::QueueT as _;
use vm_memory::Bytes as _;
use vm_memory::GuestAddress;
use vm_memory::GuestMemoryMmap;
use vm_memory::GuestRegionMmap;
use vm_memory::MmapRegion;

/// Most descriptors of one request. A driver needs one for each buffer, and the
/// devices here have two.
const MOST_DESCRIPTORS: usize = 16;
/// Bytes of a request that a device looks at, and of an answer.
const WORD: usize = 8;

/// The guest has made something that cannot be walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// Guest RAM as the rings see it.
pub(crate) struct QueueMemory {
    mmap: GuestMemoryMmap,
    /// What `mmap` points to.
    _ranges: Vec<HostRange>,
}

impl QueueMemory {
    pub(crate) fn new(ram: &GuestRam) -> Option<Self> {
        let mut regions = Vec::new();
        let mut ranges = Vec::new();
        for (gpa, range) in ram.ranges() {
            let len = usize::try_from(range.len()).ok()?;
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: mapped readable and writable for as long as `range` lives, of
            // which a clone is kept beside; what guests change meanwhile is read
            // through vm-memory's volatile accesses only.
            let region = unsafe {
                MmapRegion::build_raw(range.as_ptr(), len, protection, libc::MAP_PRIVATE)
            };
            regions.push(GuestRegionMmap::new(region.ok()?, GuestAddress(gpa))?);
            ranges.push(range.clone());
        }
        Some(Self {
            mmap: GuestMemoryMmap::from_regions(regions).ok()?,
            _ranges: ranges,
        })
    }
}

/// How a driver has set a queue up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) driver: u64,
    pub(crate) device: u64,
    /// Go on where the device's ring ends.
    pub(crate) resume: bool,
}

/// A request that came off the ring and is not answered.
struct Open {
    head: u16,
    /// Where the answer goes: at most [`WORD`] bytes.
    room: Vec<(GuestAddress, usize)>,
}

struct Ring {
    queue: Queue,
    open: BTreeMap<u32, Open>,
}

/// The running queues of one device.
#[derive(Default)]
pub(crate) struct Rings {
    running: BTreeMap<u16, Ring>,
    /// Never used twice in a device's life, or not before 2^32 requests.
    token: u32,
}

impl Rings {
    /// Begins with a queue.
    ///
    /// # Errors
    /// [`Broken`] when its parts are not in RAM.
    pub(crate) fn start(
        &mut self,
        index: u16,
        setup: &Setup,
        memory: &QueueMemory,
    ) -> Result<(), Broken> {
        let mut queue = Queue::new(setup.size).map_err(|_| Broken)?;
        let at = GuestAddress;
        queue
            .try_set_desc_table_address(at(setup.descriptors))
            .and_then(|()| queue.try_set_avail_ring_address(at(setup.driver)))
            .and_then(|()| queue.try_set_used_ring_address(at(setup.device)))
            .map_err(|_| Broken)?;
        queue.set_ready(true);
        if !queue.is_valid(&memory.mmap) {
            return Err(Broken);
        }
        if setup.resume {
            let used = queue.used_idx(&memory.mmap, std::sync::atomic::Ordering::Acquire);
            let used = used.map_err(|_| Broken)?.0;
            queue.set_next_avail(used);
            queue.set_next_used(used);
        }
        let open = BTreeMap::new();
        self.running.insert(index, Ring { queue, open });
        Ok(())
    }

    /// Ends with a queue; what is open is never answered.
    pub(crate) fn stop(&mut self, index: u16) {
        self.running.remove(&index);
    }

    /// Takes off what there is, as inputs for the device.
    ///
    /// # Errors
    /// [`Broken`].
    pub(crate) fn kick(&mut self, index: u16, memory: &QueueMemory) -> Result<Vec<Input>, Broken> {
        let mut inputs = Vec::new();
        let Some(ring) = self.running.get_mut(&index) else {
            return Ok(inputs);
        };
        let size = usize::from(ring.queue.size());
        // More than are there now, the guest adds and notifies of.
        let chains = ring.queue.iter(&memory.mmap).map_err(|_| Broken)?;
        for chain in chains.take(size) {
            let head = chain.head_index();
            if usize::from(head) >= size || ring.open.len() >= size {
                return Err(Broken);
            }
            let (mut readable, mut writable) = (0u32, 0u32);
            let mut first = [0u8; WORD];
            let mut read = 0usize;
            let mut room = Vec::new();
            let mut roomy = 0usize;
            for (count, part) in chain.enumerate() {
                if count >= MOST_DESCRIPTORS {
                    return Err(Broken);
                }
                let len = part.len() as usize;
                let (total, part_of_word) = if part.is_write_only() {
                    (&mut writable, &mut roomy)
                } else {
                    (&mut readable, &mut read)
                };
                *total = total.checked_add(part.len()).ok_or(Broken)?;
                let begin = *part_of_word;
                let end = WORD.min(begin.saturating_add(len));
                *part_of_word = end;
                if begin == end {
                    continue;
                }
                if part.is_write_only() {
                    room.push((part.addr(), end - begin));
                } else if let Some(to) = first.get_mut(begin..end) {
                    memory
                        .mmap
                        .read_slice(to, part.addr())
                        .map_err(|_| Broken)?;
                }
            }
            self.token = self.token.wrapping_add(1);
            let token = self.token;
            ring.open.insert(token, Open { head, room });
            inputs.push(Input::Request {
                queue: index,
                token,
                head: u64::from_le_bytes(first),
                readable,
                writable,
            });
        }
        Ok(inputs)
    }

    /// Answers a request. False when nobody waits for it any more.
    ///
    /// # Errors
    /// [`Broken`] when the answer has no place to go.
    pub(crate) fn complete(
        &mut self,
        index: u16,
        token: u32,
        answer: &[u8],
        memory: &QueueMemory,
    ) -> Result<bool, Broken> {
        let Some(ring) = self.running.get_mut(&index) else {
            return Ok(false);
        };
        let Some(open) = ring.open.remove(&token) else {
            return Ok(false);
        };
        let mut left = answer;
        for (at, len) in open.room {
            let (now, rest) = left.split_at(len.min(left.len()));
            memory.mmap.write_slice(now, at).map_err(|_| Broken)?;
            left = rest;
        }
        let written = (answer.len() - left.len()) as u32;
        ring.queue
            .add_used(&memory.mmap, open.head, written)
            .map_err(|_| Broken)?;
        Ok(true)
    }
}
