//! What a binding tells a device.
//!
//! Offsets, lengths and values come from the guest unchecked; peer ids come
//! from the switchboard.

/// One thing that happened.
///
/// Peers are named by their 16-bit id in the region, vectors by their 16-bit
/// index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input {
    /// A binding stands ready and has carried out nothing yet.
    Attach,
    /// The binding goes away: undo what stands.
    Detach,
    /// The guest reads configuration space (PCI's, or a virtio device's own);
    /// answered in the low `len` bytes.
    ConfigRead {
        /// Byte offset, 0 to 4095.
        offset: u16,
        /// Width in bytes: 1, 2 or 4.
        len: u8,
    },
    /// The guest writes configuration space (PCI's, or a virtio device's own).
    ConfigWrite {
        /// Byte offset, 0 to 4095.
        offset: u16,
        /// Width in bytes: 1, 2 or 4.
        len: u8,
        /// Value, little-endian, in the low `len` bytes.
        value: u32,
    },
    /// The guest reads a BAR that is trapped; answered in the low `len` bytes.
    BarRead {
        /// BAR index, 0 to 5.
        bar: u8,
        /// Byte offset into the BAR.
        offset: u64,
        /// Width in bytes: 1, 2, 4 or 8.
        len: u8,
    },
    /// The guest writes a BAR that is trapped, or a part of a mapped BAR that
    /// is read-only to it.
    BarWrite {
        /// BAR index, 0 to 5.
        bar: u8,
        /// Byte offset into the BAR.
        offset: u64,
        /// Width in bytes: 1, 2, 4 or 8.
        len: u8,
        /// Value, little-endian, in the low `len` bytes.
        value: u64,
    },
    /// A request came off a virtqueue. The binding owns the ring (for example
    /// through `virtio-queue`) and has already copied the request's head.
    Request {
        /// Queue index.
        queue: u16,
        /// Chosen by the binding; comes back in [`crate::Effect::Complete`].
        token: u32,
        /// First bytes that the guest wrote for the device, little-endian.
        head: u64,
        /// Bytes that the guest wrote for the device.
        readable: u32,
        /// Bytes that the device may write.
        writable: u32,
    },
    /// A request of this queue was given back to the guest, who wants to know.
    QueueUsed {
        /// Queue index.
        queue: u16,
    },
    /// The guest has made a ring that cannot be walked. The binding has stopped
    /// working on the queue.
    QueueBroken {
        /// Queue index.
        queue: u16,
    },
    /// Where the device's shared memory is from now on; told by its transport.
    MemoryAt {
        /// Guest physical address of the first byte; `None` while it is nowhere.
        gpa: Option<u64>,
    },
    /// A [`crate::Effect::Flush`] ended.
    Flushed {
        /// The token of the effect.
        token: u32,
        /// Whether the bytes are durable.
        ok: bool,
    },
    /// Somebody rang this device on `vector` and no kernel path delivered it.
    Rung {
        /// Index of the vector that this device receives on.
        vector: u16,
    },
    /// A peer came. Doorbells to it can be routed from now on.
    PeerJoined {
        /// Its id.
        peer: u16,
        /// How many vectors it receives on.
        vectors: u16,
    },
    /// A peer has formatted its section and answers.
    PeerReady {
        /// Its id.
        peer: u16,
    },
    /// A peer will leave and starts nothing new.
    PeerQuiescing {
        /// Its id.
        peer: u16,
    },
    /// A peer, or this one itself, hears on other events from now on, as many as before:
    /// doorbells that stand ring the old ones.
    PeerBells {
        /// Its id.
        peer: u16,
    },
    /// A peer is gone, by leave or by death.
    PeerGone {
        /// Its id.
        peer: u16,
    },
    /// The platform was reset: registers go to their power-on values, memory
    /// decoding goes off, peers and identity stay.
    Reset,
}
