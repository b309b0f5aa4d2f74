//! The common configuration structure: features, status, queues.
//!
//! Specification: virtio 1.2, 4.1.4.3 (registers), 2.1 (status), 3.1.1
//! (initialisation). Distrusted: the guest. Left out: resetting one queue alone,
//! additional notification data, administration queues.
//!
//! | offset | width | register | access |
//! |---|---|---|---|
//! | 00h | 4 | feature word that 04h shows | read/write |
//! | 04h | 4 | 32 features of the device | read |
//! | 08h | 4 | feature word that 0Ch is | read/write |
//! | 0Ch | 4 | 32 features that the driver takes | read/write until FEATURES_OK |
//! | 10h | 2 | vector of configuration changes | read/write |
//! | 12h | 2 | number of queues | read |
//! | 14h | 1 | status; 0 resets the device | read/write |
//! | 15h | 1 | generation of the device configuration | read |
//! | 16h | 2 | queue that the rest is about | read/write |
//! | 18h | 2 | size of the queue, entries: a power of two | read/write until enabled |
//! | 1Ah | 2 | vector of the queue | read/write |
//! | 1Ch | 2 | 1: the queue is enabled | 1 once, between FEATURES_OK and DRIVER_OK |
//! | 1Eh | 2 | where the queue is notified | read |
//! | 20h | 8 | address of the descriptors | read/write until enabled |
//! | 28h | 8 | address of the driver's ring | read/write until enabled |
//! | 30h | 8 | address of the device's ring | read/write until enabled |
//!
//! Registers are written in their own width; of the addresses each half alone.
//! Reads of any natural width give the bytes.

use crate::guard::Guard;
use portal_device::guard::stands;

/// Bytes of the structure.
pub(crate) const LEN: u64 = 0x38;
/// Vector that stands for none.
pub(crate) const NO_VECTOR: u16 = 0xffff;
/// `VIRTIO_F_VERSION_1`.
pub(crate) const VERSION_1: u64 = 1 << 32;

pub(crate) const ACKNOWLEDGE: u8 = 1;
pub(crate) const DRIVER: u8 = 2;
pub(crate) const DRIVER_OK: u8 = 4;
pub(crate) const FEATURES_OK: u8 = 8;
pub(crate) const NEEDS_RESET: u8 = 64;
pub(crate) const FAILED: u8 = 128;
/// Bits that a driver sets.
const DRIVERS: u8 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;

/// What a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// It is there.
    Done,
    /// Against the specification: nothing has changed.
    Refused,
    /// The driver resets the device; the caller does it.
    Reset,
}

/// The registers of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    /// The largest size.
    pub(crate) most: u16,
    pub(crate) size: u16,
    pub(crate) vector: u16,
    pub(crate) enabled: bool,
    /// Guest physical addresses of the three parts.
    pub(crate) descriptors: u64,
    pub(crate) driver: u64,
    pub(crate) device: u64,
}

impl Queue {
    fn new(most: u16) -> Self {
        Queue {
            most,
            size: most,
            vector: NO_VECTOR,
            enabled: false,
            descriptors: 0,
            driver: 0,
            device: 0,
        }
    }

    /// Whether size and alignment are such as 2.7 demands.
    pub(crate) fn is_sound(&self) -> bool {
        self.size.is_power_of_two()
            && self.size <= self.most
            && self.descriptors.is_multiple_of(16)
            && self.driver.is_multiple_of(2)
            && self.device.is_multiple_of(4)
    }
}

/// All registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Common {
    pub(crate) offered: u64,
    pub(crate) offered_word: u32,
    pub(crate) taken_word: u32,
    pub(crate) taken: u64,
    pub(crate) config_vector: u16,
    pub(crate) status: u8,
    pub(crate) generation: u8,
    pub(crate) selected: u16,
    pub(crate) queues: Vec<Queue>,
    /// Number of MSI-X vectors.
    pub(crate) vectors: u16,
}

impl Common {
    pub(crate) fn new(features: u64, queues: &[u16], vectors: u16) -> Self {
        Common {
            offered: features | VERSION_1,
            offered_word: 0,
            taken_word: 0,
            taken: 0,
            config_vector: NO_VECTOR,
            status: 0,
            generation: 0,
            selected: 0,
            queues: queues.iter().map(|most| Queue::new(*most)).collect(),
            vectors,
        }
    }

    /// Everything to its value after reset; the generation goes on.
    pub(crate) fn reset(&mut self) {
        let queues: Vec<_> = self.queues.iter().map(|queue| queue.most).collect();
        *self = Common {
            generation: self.generation,
            ..Common::new(self.offered, &queues, self.vectors)
        };
    }

    /// Whether the device works on its queues.
    pub(crate) fn is_driven(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
    }

    pub(crate) fn queue(&self, index: u16) -> Option<&Queue> {
        self.queues.get(usize::from(index))
    }

    /// `len` bytes from `offset` (a natural access inside the structure).
    pub(crate) fn read(&self, offset: u64, len: u8) -> u64 {
        let word = |features: u64, select: u32| match select {
            0 => features as u32,
            1 => (features >> 32) as u32,
            _ => 0,
        };
        let mut bytes = [0u8; LEN as usize];
        let mut put = |at: usize, value: &[u8]| {
            for (to, from) in bytes.iter_mut().skip(at).zip(value) {
                *to = *from;
            }
        };
        put(0x00, &self.offered_word.to_le_bytes());
        put(0x04, &word(self.offered, self.offered_word).to_le_bytes());
        put(0x08, &self.taken_word.to_le_bytes());
        put(0x0c, &word(self.taken, self.taken_word).to_le_bytes());
        put(0x10, &self.config_vector.to_le_bytes());
        put(0x12, &(self.queues.len() as u16).to_le_bytes());
        put(0x14, &[self.status, self.generation]);
        put(0x16, &self.selected.to_le_bytes());
        // A queue that does not exist has size 0 and nothing else.
        if let Some(queue) = self.queue(self.selected) {
            put(0x18, &queue.size.to_le_bytes());
            put(0x1a, &queue.vector.to_le_bytes());
            put(0x1c, &u16::from(queue.enabled).to_le_bytes());
            put(0x1e, &self.selected.to_le_bytes());
            put(0x20, &queue.descriptors.to_le_bytes());
            put(0x28, &queue.driver.to_le_bytes());
            put(0x30, &queue.device.to_le_bytes());
        }
        let mut value = [0u8; 8];
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let from = bytes.iter().skip(from).take(len.min(8).into());
        for (to, from) in value.iter_mut().zip(from) {
            *to = *from;
        }
        u64::from_le_bytes(value)
    }

    /// A write of `len` bytes at `offset`.
    pub(crate) fn write(&mut self, offset: u64, len: u8, value: u64) -> Written {
        let dword = value as u32;
        let word = value as u16;
        match (offset, len) {
            (0x00, 4) => self.offered_word = dword,
            (0x08, 4) => self.taken_word = dword,
            (0x0c, 4) => return self.take_features(dword),
            (0x10, 2) => self.config_vector = self.vector(word),
            (0x14, 1) => return self.write_status(value as u8),
            (0x16, 2) => self.selected = word,
            (0x18, 2) => return self.set_size(word),
            (0x1a, 2) => {
                let vector = self.vector(word);
                match self.queues.get_mut(usize::from(self.selected)) {
                    Some(queue) => queue.vector = vector,
                    None => return Written::Refused,
                }
            }
            (0x1c, 2) => return self.enable(word),
            (0x20 | 0x24 | 0x28 | 0x2c | 0x30 | 0x34, 4) => return self.set_address(offset, dword),
            _ => return Written::Refused,
        }
        Written::Done
    }

    /// A vector that does not exist reads back as none (4.1.5.1.2).
    fn vector(&self, vector: u16) -> u16 {
        if vector < self.vectors {
            vector
        } else {
            NO_VECTOR
        }
    }

    fn take_features(&mut self, word: u32) -> Written {
        if self.status & FEATURES_OK != 0 && stands(Guard::AcceptedFeatures) {
            return Written::Refused;
        }
        let word = u64::from(word);
        match self.taken_word {
            0 => self.taken = (self.taken & !0xffff_ffff) | word,
            1 => self.taken = (self.taken & 0xffff_ffff) | (word << 32),
            _ => return Written::Refused,
        }
        Written::Done
    }

    pub(crate) fn acceptable(&self, features: u64) -> bool {
        features & !self.offered == 0 && features & VERSION_1 != 0
    }

    /// Status bits are only ever added (2.1.1); 0 resets.
    fn write_status(&mut self, value: u8) -> Written {
        if value == 0 {
            return Written::Reset;
        }
        let value = value & !NEEDS_RESET;
        let held = self.status & !NEEDS_RESET;
        if value & held != held || value & !DRIVERS != 0 {
            return Written::Refused;
        }
        let mut added = value & !held;
        if added & FEATURES_OK != 0 && !self.acceptable(self.taken) {
            added &= !FEATURES_OK;
        }
        let after = self.status | added;
        if added & DRIVER_OK != 0 && after & FEATURES_OK == 0 {
            added &= !DRIVER_OK;
        }
        self.status |= added;
        if value & !self.status == 0 {
            Written::Done
        } else {
            Written::Refused
        }
    }

    fn set_size(&mut self, size: u16) -> Written {
        match self.queues.get_mut(usize::from(self.selected)) {
            Some(queue)
                if (!queue.enabled || !stands(Guard::ActiveQueue))
                    && size.is_power_of_two()
                    && size <= queue.most =>
            {
                queue.size = size;
                Written::Done
            }
            _ => Written::Refused,
        }
    }

    fn enable(&mut self, value: u16) -> Written {
        let ready = self.status & (FEATURES_OK | DRIVER_OK) == FEATURES_OK;
        match self.queues.get_mut(usize::from(self.selected)) {
            Some(queue) if value == 1 && ready && queue.is_sound() => {
                queue.enabled = true;
                Written::Done
            }
            _ => Written::Refused,
        }
    }

    fn set_address(&mut self, offset: u64, half: u32) -> Written {
        let Some(queue) = self.queues.get_mut(usize::from(self.selected)) else {
            return Written::Refused;
        };
        if queue.enabled && stands(Guard::ActiveQueue) {
            return Written::Refused;
        }
        let address = match offset & !7 {
            0x20 => &mut queue.descriptors,
            0x28 => &mut queue.driver,
            _ => &mut queue.device,
        };
        let half = u64::from(half);
        *address = if offset & 4 == 0 {
            (*address & !0xffff_ffff) | half
        } else {
            (*address & 0xffff_ffff) | (half << 32)
        };
        Written::Done
    }
}
