//! What a device asks of its binding.

/// What the guest may do with mapped memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Loads only. A store comes back as [`crate::Input::BarWrite`].
    ReadOnly,
    /// Loads and stores.
    ReadWrite,
}

/// A message-signalled interrupt: the write that raises it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Msi {
    /// 64-bit address.
    pub address: u64,
    /// 32-bit data.
    pub data: u32,
}

/// Why a device cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StopReason {
    /// The guest wrote where it may only read, and that is configured to be
    /// the end.
    #[error(
        "{device}: store to offset {offset:#x} of the region, which is read-only to this partition"
    )]
    DeniedWrite {
        /// Name of the device.
        device: &'static str,
        /// Offset in the region, bytes.
        offset: u64,
    },
    /// The storage behind the device failed in a way that the guest cannot be
    /// told about.
    #[error("{device}: storage failed: {what}")]
    Storage {
        /// Name of the device.
        device: &'static str,
        /// What failed.
        what: &'static str,
    },
}

/// One thing to do.
///
/// Every effect that sets something up has one that undoes it with the same
/// place; a device gives them in pairs and in an order that can be carried out
/// front to back (undo before do).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Give guest accesses to this window to the device as `BarRead` and
    /// `BarWrite`.
    Trap {
        /// BAR index.
        bar: u8,
        /// Guest physical address of the BAR's first byte.
        gpa: u64,
        /// Bytes; a power of two.
        len: u64,
    },
    /// Undo [`Effect::Trap`].
    Untrap {
        /// BAR index.
        bar: u8,
        /// Where it was.
        gpa: u64,
        /// Bytes.
        len: u64,
    },
    /// Map `len` bytes of the region from `offset` at `gpa`, write-back.
    Map {
        /// BAR index that this belongs to, or for a virtio device the id of the
        /// shared-memory region.
        bar: u8,
        /// Guest physical address.
        gpa: u64,
        /// Offset in the region, bytes.
        offset: u64,
        /// Bytes.
        len: u64,
        /// What the guest may do there.
        access: Access,
    },
    /// Undo [`Effect::Map`].
    Unmap {
        /// BAR index.
        bar: u8,
        /// Where it was.
        gpa: u64,
        /// Offset in the region, bytes.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// A 32-bit store of `value` at `gpa` is to ring `vector` of `peer` with no
    /// exit, where the host can (ioeventfd with a data match). Where it cannot,
    /// leave it undone: the store arrives as `BarWrite` and answers with
    /// [`Effect::Ring`].
    RouteDoorbell {
        /// Guest physical address of the doorbell register.
        gpa: u64,
        /// The 32-bit value to match.
        value: u32,
        /// Peer to ring.
        peer: u16,
        /// Its vector.
        vector: u16,
    },
    /// Undo [`Effect::RouteDoorbell`].
    UnrouteDoorbell {
        /// Guest physical address of the doorbell register.
        gpa: u64,
        /// The 32-bit value.
        value: u32,
        /// Peer.
        peer: u16,
        /// Its vector.
        vector: u16,
    },
    /// From now on an event on `vector` is to be delivered to the guest as this
    /// message with no exit where the host can (irqfd). Given again with
    /// another message it replaces the one before. A binding that cannot keeps
    /// giving [`crate::Input::Rung`] and gets [`Effect::Raise`] for it.
    Connect {
        /// Vector that this device receives on.
        vector: u16,
        /// What to deliver.
        msi: Msi,
    },
    /// Undo [`Effect::Connect`] or [`Effect::Listen`]: events on `vector` stay
    /// in the binding's event and are delivered by nobody.
    Disconnect {
        /// Vector that this device receives on.
        vector: u16,
    },
    /// Give every event on `vector` to the device as [`crate::Input::Rung`].
    Listen {
        /// Vector that this device receives on.
        vector: u16,
    },
    /// Deliver this message to the guest once, now.
    Raise {
        /// Vector that this device receives on.
        vector: u16,
        /// What to deliver.
        msi: Msi,
    },
    /// Level of the INTx pin.
    Line {
        /// Whether it is asserted.
        asserted: bool,
    },
    /// Ring `vector` of `peer` once, now.
    Ring {
        /// Peer to ring.
        peer: u16,
        /// Its vector.
        vector: u16,
    },
    /// Work on a virtqueue: its driver has set it up.
    QueueStart {
        /// Queue index.
        queue: u16,
        /// Entries, a power of two.
        size: u16,
        /// Guest physical address of the descriptor table.
        descriptors: u64,
        /// Guest physical address of the driver's (available) ring.
        driver: u64,
        /// Guest physical address of the device's (used) ring.
        device: u64,
        /// Go on where the device's ring ends, for a queue of a restored device;
        /// else begin with the first entry.
        resume: bool,
    },
    /// Undo [`Effect::QueueStart`]: requests that came off it are not returned.
    QueueStop {
        /// Queue index.
        queue: u16,
    },
    /// Give what is in the driver's ring to the device, each as
    /// [`crate::Input::Request`], at most as many as the queue has entries.
    QueueKick {
        /// Queue index.
        queue: u16,
    },
    /// Write the own entry of the region's state table (ivshmem v2).
    PublishState {
        /// The new state.
        state: u32,
    },
    /// Make these bytes of the region durable, then answer with
    /// [`crate::Input::Flushed`].
    Flush {
        /// To be given back.
        token: u32,
        /// Offset in the region, bytes.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Finish a virtqueue request: write `len` bytes of `answer`
    /// (little-endian) to the guest and return the chain; then
    /// [`crate::Input::QueueUsed`].
    Complete {
        /// Queue index.
        queue: u16,
        /// Token of the request.
        token: u32,
        /// Answer, little-endian.
        answer: u64,
        /// Bytes of it, 0 to 8.
        len: u32,
    },
    /// The device cannot go on: stop this partition with this reason.
    Stop(StopReason),
}

/// Where a device puts its answer and its effects; reused from step to step.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    answer: u64,
    list: Vec<Effect>,
}

/// Effects that one step yields without growing the list: a move of the region
/// BAR of a device with ten peers of three vectors each.
const CAPACITY: usize = 128;

impl Effects {
    /// An empty list with room for a usual step.
    pub fn new() -> Self {
        Effects {
            answer: 0,
            list: Vec::with_capacity(CAPACITY),
        }
    }

    /// Forgets answer and list, keeps the room.
    pub fn clear(&mut self) {
        self.answer = 0;
        self.list.clear();
    }

    /// Device side: answers the read with `value` in its low bytes.
    pub fn answer(&mut self, value: u64) {
        self.answer = value;
    }

    /// Device side: appends an effect.
    pub fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// Binding side: the answer of the last read, 0 when there was none.
    pub fn value(&self) -> u64 {
        self.answer
    }

    /// Binding side: the effects, to be carried out front to back.
    pub fn list(&self) -> &[Effect] {
        &self.list
    }

    /// Binding side: takes the effects out, front to back, keeping the room.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Effect> {
        self.list.drain(..)
    }
}
