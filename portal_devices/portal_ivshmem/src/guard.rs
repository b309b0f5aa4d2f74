//! The guards that a negative control can take out.
//!
//! Without the cargo feature `negative_control` every guard stands and this
//! file is one constant. With it, a test may take one guard out for the length
//! of a call on its own thread, to show that its harness notices.

/// A check that keeps a guest or a saved state within what is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "negative_control"),
    expect(unreachable_pub, reason = "public only for negative controls")
)]
pub enum Guard {
    /// Read-only bits of configuration space keep their value.
    ReadOnlyBits,
    /// A BAR that is not decoded is not reached.
    Decoded,
    /// A doorbell reaches known vectors only.
    KnownVector,
    /// Saved read-only bits are compared.
    SavedReadOnlyBits,
    /// Saved pending bits exist.
    SavedPendingBits,
}

/// Whether the guard stands.
#[cfg(not(feature = "negative_control"))]
pub(crate) const fn stands(_: Guard) -> bool {
    true
}

#[cfg(feature = "negative_control")]
std::thread_local! {
    static OUT: std::cell::Cell<Option<Guard>> = const { std::cell::Cell::new(None) };
}

/// Whether the guard stands.
#[cfg(feature = "negative_control")]
pub(crate) fn stands(guard: Guard) -> bool {
    OUT.get() != Some(guard)
}

/// Runs `run` with `guard` taken out on this thread.
#[cfg(feature = "negative_control")]
pub fn without<R>(guard: Guard, run: impl FnOnce() -> R) -> R {
    OUT.set(Some(guard));
    let result = run();
    OUT.set(None);
    result
}
