//! virtio-pmem as a state machine that knows no VMM: one region of memory, any
//! number of partitions, a flush that means durable.
//!
//! Specification: virtio 1.2, 5.19 (PMEM device), device id 27.
//!
//! Distrusted: the guest (every request), and the writer of a saved state.
//! Trusted: the binding, which owns the virtqueue and the transport.
//!
//! Left out: the virtio transport, the ring, `fdatasync` itself.
//!
//! # Memory
//!
//! The transport says where the memory is ([`Input::MemoryAt`]); the device has it
//! mapped there. A transport that knows no shared memory says so once, at the
//! beginning.
//!
//! [`Input::MemoryAt`]: portal_device::Input::MemoryAt
//!
//! # Configuration (device-specific, little-endian, read-only)
//!
//! | offset | width | what |
//! |---|---|---|
//! | 0 | 8 | guest physical address of the memory, 0 while it is nowhere |
//! | 8 | 8 | its size, bytes |
//!
//! Both are given whether or not the driver takes [`FEATURE_SHMEM_REGION`]:
//! Linux 6.1's driver does not know the bit and reads them. Reads of any width
//! up to 8 and at any offset give those bytes, and 0 behind them; writes do
//! nothing.
//!
//! # Requests (queue 0)
//!
//! The driver gives a 32-bit type and room for a 32-bit answer. Type 0 is a
//! flush: answer 0 once every byte that was in memory when the request came is
//! durable, else -1. Another type, or a request that is too short, is answered
//! with -1; one without room for an answer is returned empty.
//!
//! ```text
//!             flush request / Flush(token)
//!   idle ────────────────────────────────────▶ flushing ──┐ flush request: joins the
//!    ▲                                          │  ▲  │   │ next batch, no effect
//!    │  Flushed, nobody waits / Complete each   │  │  └───┘
//!    └──────────────────────────────────────────┘  │
//!                 Flushed, a batch waits / Complete each of the old one,
//!                 Flush(next token) for the new one
//! ```
//!
//! At most one flush runs. A request that comes while it runs may be about
//! stores that the running flush does not cover, so it waits for the next; all
//! that wait share that one. So a guest that floods the queue costs one
//! `fdatasync` at a time and no memory beyond the queue's size.
//!
//! # Failure is sticky
//!
//! Once a flush has failed, every later one is answered with -1 for the life of
//! the device: after a failed write-back the host kernel may have dropped the
//! dirty pages and marked them clean, and a later success would be a lie.
//! Restoring a saved state keeps the failure; a reset of the device does too.
//!
//! # Example
//!
//! ```
//! use portal_device::{Access, Device, Effect, Effects, Input};
//! use portal_pmem::{VirtioPmem, VirtioPmemConfig};
//!
//! # fn main() -> Result<(), portal_pmem::ConfigError> {
//! let size = 64 << 20;
//! let mut device = VirtioPmem::new(VirtioPmemConfig { size, access: Access::ReadWrite })?;
//! let mut effects = Effects::new();
//! device.step(Input::Attach, &mut effects);
//! // The transport has a place for the memory.
//! device.step(Input::MemoryAt { gpa: Some(0x10_0000_0000) }, &mut effects);
//! effects.clear();
//! let flush = Input::Request { queue: 0, token: 7, head: 0, readable: 4, writable: 4 };
//! device.step(flush, &mut effects);
//! assert_eq!(effects.list(), [Effect::Flush { token: 1, offset: 0, len: size }]);
//! effects.clear();
//! device.step(Input::Flushed { token: 1, ok: true }, &mut effects);
//! let done = Effect::Complete { queue: 0, token: 7, answer: 0, len: 4 };
//! assert_eq!(effects.list(), [done]);
//! # Ok(())
//! # }
//! ```

mod device;
pub mod guard;
mod saved;

pub use device::VirtioPmem;
pub use device::VirtioPmemConfig;

/// virtio device id.
pub const DEVICE_ID: u16 = 27;
/// Bytes of the device-specific configuration.
pub const CONFIG_LEN: u64 = 16;
/// Feature bit 0, `VIRTIO_PMEM_F_SHMEM_REGION`: the memory is shared-memory
/// region 0 of the transport.
pub const FEATURE_SHMEM_REGION: u64 = 1 << 0;
/// Number of virtqueues.
pub const QUEUES: u16 = 1;
/// Largest queue, and so the most requests that can be outstanding.
pub const MOST_REQUESTS: u16 = 1024;
/// Start and size are multiples of this: what Linux maps DAX with.
pub const ALIGNMENT: u64 = 2 << 20;
/// Request type of a flush.
pub const FLUSH: u32 = 0;
/// Answer to a request that was done.
pub const DONE: u32 = 0;
/// Answer to a request that was not (-1).
pub const FAILED: u32 = u32::MAX;

/// Why a device cannot be made as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A size that cannot be.
    #[error("size is {value:#x}, it has to be a multiple of {ALIGNMENT:#x} up to {limit:#x}")]
    Size {
        /// The size, bytes.
        value: u64,
        /// The most, bytes.
        limit: u64,
    },
}
