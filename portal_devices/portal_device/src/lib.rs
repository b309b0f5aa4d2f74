//! The contract between a Portal device and the VMM that hosts it.
//!
//! A device is a state machine that knows no VMM: it takes an [`Input`] (a
//! register access, a peer's coming or going, a reset) and gives back
//! [`Effect`]s (map this, route that doorbell, raise this vector). A *binding*
//! carries the effects out in the words of one VMM. The same device so runs
//! under `portal_vmm`, under OpenVMM, in a unit test and in a fuzzer.
//!
//! Specification: none of its own; the words *BAR*, *configuration space*,
//! *memory decoding*, *MSI-X* and *INTx* are those of the PCI Local Bus
//! Specification 3.0.
//!
//! Distrusted: the guest (every access and value in an [`Input`] that comes
//! from it) and whoever wrote a [`SavedState`]. Trusted: the binding, as far as
//! the order of calls goes; an input that makes no sense is counted and has no
//! effect.
//!
//! Left out: threads, file descriptors, guest memory, time. A device holds none
//! of them.

pub mod access;
mod bar;
mod counter;
mod effect;
pub mod guard;
mod input;
pub mod inspect;
pub mod saved;
pub mod standing;

pub use bar::{BarBacking, BarInfo, BarKind};
pub use counter::Counter;
pub use effect::{Access, Effect, Effects, Msi, StopReason};
pub use input::Input;
pub use saved::{RestoreError, Saved, SavedState};

/// A device: one state, one entry point.
///
/// # State machine
///
/// Three parts that move independently. `A / B` reads: input `A` gives effect
/// `B`.
///
/// The binding:
///
/// ```text
///              Attach / everything that stands now
///   detached ─────────────────────────────────────▶ attached
///      ▲  └─ every other input: state moves,            │ every input: state moves,
///      │     reads are answered, no effects             │ the difference is given as effects
///      └────────────────────────────────────────────────┘
///              Detach / undo everything that stands
/// ```
///
/// Memory decoding (the memory-space bit of the PCI command register):
///
/// ```text
///               ConfigWrite(command.memory = 1)
///               / Trap register BARs, Map region BAR, RouteDoorbell of every peer
///   decode off ────────────────────────────────────────────────▶ decode on ──┐
///       ▲                                                           │  ▲     │ ConfigWrite(BAR moved)
///       │       ConfigWrite(command.memory = 0), Reset              │  └─────┘ / undo at the old place,
///       └───────────────────────────────────────────────────────────┘           do at the new one
///               / UnrouteDoorbell, Unmap, Untrap
/// ```
///
/// Each vector that the device receives on:
///
/// ```text
///                 vector usable / Connect(msi)
///   disconnected ─────────────────────────────▶ connected ──┐ message changed
///     │   ▲  ▲            masked / Disconnect       │  ▲    │ / Connect(new msi)
///     │   │  └──────────────────────────────────────┘  └────┘
///     │   └── Disconnect ────────┐
///     └── INTx in use / Listen ─▶ listening ── Rung / Line
/// ```
///
/// `Rung` while disconnected sets the pending bit; the vector is raised when it
/// is connected again.
///
/// A peer: `absent -PeerJoined-> joined -PeerReady-> ready -PeerQuiescing->
/// quiescing -PeerGone-> absent`, and `PeerGone` from every state. Doorbells to
/// it are routed from joined to gone.
///
/// # What a binding does
///
/// 1. `step(Input::Attach)` once, before the guest runs.
/// 2. For each guest access: [`Effects::clear`], `step`, carry out the list
///    from front to back, hand [`Effects::value`] to the guest for a read.
///    What an effect has for the device in turn (requests that came off a virtqueue,
///    the return of one) is the next input.
/// 3. `step(Input::Detach)` at the end, or before the binding itself goes away.
///
/// An effect that cannot be carried out because of what the guest asked for (a
/// BAR laid over RAM) is the binding's to count and to leave undone; the effect
/// that undoes it comes all the same and must then be harmless.
///
/// # Example
///
/// ```
/// use portal_device::{BarInfo, Device, Effect, Effects, Input, RestoreError, Saved, SavedState};
/// use portal_device::inspect::Node;
///
/// /// Answers every read with the number of reads before it.
/// #[derive(Default)]
/// struct Tally(u64);
///
/// impl Device for Tally {
///     fn step(&mut self, input: Input, effects: &mut Effects) {
///         if let Input::BarRead { .. } = input {
///             effects.answer(self.0);
///             self.0 = self.0.wrapping_add(1);
///         }
///     }
///     fn bars(&self) -> &[BarInfo] { &[] }
///     fn save(&self) -> Saved { Saved::Never("an example") }
///     fn restore(&mut self, _: &SavedState, _: &mut Effects) -> Result<(), RestoreError> {
///         Err(RestoreError::WrongDevice { found: 0, expected: 1 })
///     }
///     fn inspect(&self) -> Node { Node::new().with("reads", self.0) }
///     fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) { visit("reads", self.0) }
/// }
///
/// let (mut device, mut effects) = (Tally::default(), Effects::new());
/// device.step(Input::BarRead { bar: 0, offset: 0, len: 4 }, &mut effects);
/// assert_eq!((effects.value(), effects.list()), (0, &[] as &[Effect]));
/// ```
pub trait Device: Send {
    /// Moves the state by one input and appends what has to be done.
    ///
    /// Never panics and never blocks, whatever the input. An input that is
    /// answered (`ConfigRead`, `BarRead`) allocates nothing as long as
    /// `effects` has capacity left, which [`Effects::new`] provides for.
    fn step(&mut self, input: Input, effects: &mut Effects);

    /// The base address registers, as configuration space reports them, in
    /// ascending order. Empty for a device that is not a PCI function.
    fn bars(&self) -> &[BarInfo];

    /// Whether this read can show events that the binding still holds.
    ///
    /// When true, the binding first drains the event of every *disconnected*
    /// vector and gives [`Input::Rung`] for each that was signalled; only then
    /// the read. (MSI-X: the pending-bit array.)
    fn shows_pending(&self, bar: u8, offset: u64) -> bool {
        let _ = (bar, offset);
        false
    }

    /// The state as bytes, or why there is none.
    ///
    /// Vectors that the binding holds events for must be drained into
    /// [`Input::Rung`] first, as for [`Device::shows_pending`].
    fn save(&self) -> Saved;

    /// Takes over a saved state and appends the difference as effects: what
    /// stood before is undone, what stands now is done. On an error the device
    /// is as it was and nothing is appended.
    ///
    /// Identity (region size, number of vectors, features) is not restored but
    /// compared: a state of another device is an error.
    fn restore(&mut self, saved: &SavedState, effects: &mut Effects) -> Result<(), RestoreError>;

    /// Everything an operator may want to see, as a tree.
    fn inspect(&self) -> inspect::Node;

    /// Calls `visit` with the name and value of every counter, in a fixed
    /// order. Counters saturate and survive [`Input::Reset`].
    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64));
}
