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
use crate::guard::Guard;
use crate::memory::HostRange;
use portal_device::Input;
use portal_device::guard::stands;
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
            let full = ring.open.len() >= size && stands(Guard::OpenRequests);
            if usize::from(head) >= size || full {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HostMemory;
    use crate::memory::RamBacking;

    const RAM: u64 = 4 << 20;
    const SIZE: u16 = 32;
    const DESCRIPTORS: u64 = 0x10_0000;
    const DRIVER: u64 = 0x10_1000;
    const DEVICE: u64 = 0x10_2000;
    /// Where requests and answers of the tests lie.
    const BUFFERS: u64 = 0x20_0000;
    const WRITE: u16 = 2;
    const NEXT: u16 = 1;

    struct Driver {
        ram: GuestRam,
        memory: QueueMemory,
        rings: Rings,
        available: u16,
    }

    fn setup() -> Setup {
        Setup {
            size: SIZE,
            descriptors: DESCRIPTORS,
            driver: DRIVER,
            device: DEVICE,
            resume: false,
        }
    }

    impl Driver {
        fn new() -> Self {
            let memory = HostMemory::new("RAM", RAM, RamBacking::Anonymous).unwrap();
            let ram = GuestRam::new(&memory.range()).unwrap();
            let memory = QueueMemory::new(&ram).unwrap();
            let mut rings = Rings::default();
            rings.start(0, &setup(), &memory).unwrap();
            Driver {
                ram,
                memory,
                rings,
                available: 0,
            }
        }

        fn describe(&self, index: u16, at: u64, len: u32, flags: u16, next: u16) {
            let place = DESCRIPTORS + 16 * u64::from(index);
            self.ram.write(place, &at.to_le_bytes()).unwrap();
            self.ram.write(place + 8, &len.to_le_bytes()).unwrap();
            self.ram.write(place + 12, &flags.to_le_bytes()).unwrap();
            self.ram.write(place + 14, &next.to_le_bytes()).unwrap();
        }

        fn offer(&mut self, head: u16) {
            let slot = DRIVER + 4 + 2 * u64::from(self.available % SIZE);
            self.ram.write(slot, &head.to_le_bytes()).unwrap();
            self.available = self.available.wrapping_add(1);
            let index = self.available.to_le_bytes();
            self.ram.write(DRIVER + 2, &index).unwrap();
        }

        fn kick(&mut self) -> Result<Vec<Input>, Broken> {
            self.rings.kick(0, &self.memory)
        }

        fn complete(&mut self, token: u32, answer: &[u8]) -> Result<bool, Broken> {
            self.rings.complete(0, token, answer, &self.memory)
        }

        fn word(&self, at: u64) -> u32 {
            let mut bytes = [0; 4];
            self.ram.read(at, &mut bytes).unwrap();
            u32::from_le_bytes(bytes)
        }
    }

    fn token(input: &Input) -> u32 {
        match input {
            Input::Request { token, .. } => *token,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_taken_answered_and_returned() {
        let mut driver = Driver::new();
        driver.ram.write(BUFFERS, &7u32.to_le_bytes()).unwrap();
        driver.describe(3, BUFFERS, 4, NEXT, 4);
        driver.describe(4, BUFFERS + 64, 2, WRITE | NEXT, 5);
        driver.describe(5, BUFFERS + 128, 100, WRITE, 0);
        driver.offer(3);
        let requests = driver.kick().unwrap();
        let [request] = requests[..] else {
            panic!("{requests:?}");
        };
        let expected = Input::Request {
            queue: 0,
            token: 1,
            head: 7,
            readable: 4,
            writable: 102,
        };
        assert_eq!(request, expected);
        assert_eq!(driver.kick(), Ok(Vec::new()), "once");
        assert_eq!(driver.complete(1, &[1, 2, 3, 4]), Ok(true));
        assert_eq!(driver.complete(1, &[9; 4]), Ok(false), "answered already");
        assert_eq!(driver.word(BUFFERS + 64), 0x0201, "two bytes fit there");
        assert_eq!(driver.word(BUFFERS + 128), 0x0403);
        assert_eq!(driver.word(DEVICE) >> 16, 1, "one is used");
        assert_eq!((driver.word(DEVICE + 4), driver.word(DEVICE + 8)), (3, 4));
    }

    #[test]
    fn a_stopped_queue_answers_nobody_and_a_resumed_one_goes_on() {
        let mut driver = Driver::new();
        driver.describe(0, BUFFERS, 4, NEXT, 1);
        driver.describe(1, BUFFERS + 64, 4, WRITE, 0);
        driver.offer(0);
        let requests = driver.kick().unwrap();
        assert_eq!(driver.complete(token(&requests[0]), &[0; 4]), Ok(true));
        driver.offer(0);
        let open = driver.kick().unwrap();
        driver.rings.stop(0);
        assert_eq!(driver.complete(token(&open[0]), &[0; 4]), Ok(false));
        assert_eq!(driver.kick(), Ok(Vec::new()));
        let resume = Setup {
            resume: true,
            ..setup()
        };
        driver.rings.start(0, &resume, &driver.memory).unwrap();
        assert_eq!(driver.kick().unwrap().len(), 1, "the one not answered");
    }

    #[test]
    fn rings_outside_ram_are_refused() {
        let mut driver = Driver::new();
        let of = |change: &dyn Fn(&mut Setup)| {
            let mut setup = setup();
            change(&mut setup);
            setup
        };
        for bad in [
            of(&|s| s.descriptors = RAM),
            of(&|s| s.driver = RAM - 4),
            of(&|s| s.device = u64::MAX - 3),
            of(&|s| s.descriptors = 8),
            of(&|s| s.size = 3),
        ] {
            assert_eq!(driver.rings.start(1, &bad, &driver.memory), Err(Broken));
        }
    }

    #[test]
    fn what_cannot_be_walked_breaks_the_queue() {
        let breaks = |prepare: &dyn Fn(&mut Driver)| {
            let mut driver = Driver::new();
            prepare(&mut driver);
            assert_eq!(driver.kick(), Err(Broken));
        };
        breaks(&|d| d.offer(SIZE));
        breaks(&|d| d.ram.write(DRIVER + 2, &(SIZE + 1).to_le_bytes()).unwrap());
        breaks(&|d| {
            d.describe(0, RAM, 4, 0, 0);
            d.offer(0);
        });
        breaks(&|d| {
            d.describe(0, BUFFERS, 4, NEXT, 0);
            d.offer(0);
        });
        let mut driver = Driver::new();
        driver.describe(0, BUFFERS, 4, NEXT, 1);
        driver.describe(1, u64::MAX - 1, 4, WRITE, 0);
        driver.offer(0);
        let requests = driver.kick().unwrap();
        assert_eq!(driver.complete(token(&requests[0]), &[0; 4]), Err(Broken));
    }

    /// The numbers of a linear congruence; enough for shapes of chains.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, limit: u64) -> u64 {
            let next = self.0.wrapping_mul(6_364_136_223_846_793_005);
            self.0 = next.wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }
    }

    /// One ring of a hostile driver; `Err` when it costs more than it may, or when
    /// something outside its buffers and its ring is written.
    fn hostile(case: u64) -> Result<(), String> {
        let mut numbers = Numbers(case);
        let mut driver = Driver::new();
        let canary = BUFFERS + 0x1000;
        for index in 0..SIZE {
            let at = match numbers.below(8) {
                0 => RAM - numbers.below(8),
                1 => u64::MAX - numbers.below(8),
                _ => BUFFERS + 8 * numbers.below(32),
            };
            let len = match numbers.below(6) {
                0 => 0,
                1 => u32::MAX,
                _ => 4,
            };
            let flags = numbers.below(8) as u16;
            // Mostly long chains, a quarter of them circles.
            let next = match numbers.below(4) {
                0 => numbers.below(u64::from(SIZE) + 2) as u16,
                _ => (index + 1) % SIZE,
            };
            driver.describe(index, at, len, flags, next);
        }
        for _ in 0..8 {
            for _ in 0..numbers.below(20) {
                let head = numbers.below(u64::from(SIZE) + 1) as u16;
                driver.offer(head);
            }
            let Ok(requests) = driver.kick() else {
                return Ok(());
            };
            if requests.len() > usize::from(SIZE) {
                return Err(format!("{} requests at once", requests.len()));
            }
            let open = driver
                .rings
                .running
                .get(&0)
                .map_or(0, |ring| ring.open.len());
            if open > usize::from(SIZE) {
                return Err(format!("{open} requests are open"));
            }
            let room = driver.rings.running.get(&0);
            let longest = room
                .into_iter()
                .flat_map(|ring| ring.open.values())
                .map(|open| open.room.len())
                .max();
            if longest > Some(WORD) {
                return Err(format!("{longest:?} places for an answer"));
            }
            for request in requests {
                // Some are answered at once, some never.
                if numbers.below(2) == 0 && driver.complete(token(&request), &[0xEE; 4]).is_err() {
                    return Ok(());
                }
            }
            if driver.word(canary) != 0 {
                return Err("a byte outside is written".to_owned());
            }
        }
        Ok(())
    }

    fn number(name: &str, otherwise: u64) -> u64 {
        let said = std::env::var(name).ok();
        said.and_then(|said| said.parse().ok()).unwrap_or(otherwise)
    }

    fn run(control: &str, most: u64) -> u64 {
        let cases = number("PORTAL_CASES", 2000).min(most);
        let seed = number("PORTAL_SEED", 1);
        let mut failures = 0u64;
        for case in 0..cases {
            if let Err(why) = hostile(seed.rotate_left(32) ^ case) {
                failures += 1;
                if failures <= 3 {
                    eprintln!("case {case}: {why}");
                }
            }
        }
        println!(
            "evidence: {{\"threat\":\"T2\",\"what\":\"virtqueue of a hostile driver\",{control}\
             \"cases\":{cases},\"failures\":{failures},\"seed\":{seed}}}"
        );
        failures
    }

    #[test]
    fn t2_hostile_virtqueue() {
        assert_eq!(run("", u64::MAX), 0);
    }

    #[cfg(feature = "negative_control")]
    #[test]
    fn control_t2_open_requests() {
        let name = "\"control\":\"as many requests open as the queue has entries\",";
        let failures = portal_device::guard::without(Guard::OpenRequests, || run(name, 5000));
        assert!(failures > 0, "nothing failed");
    }
}
