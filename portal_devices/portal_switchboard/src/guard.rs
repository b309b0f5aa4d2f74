//! The guards that a negative control can take out.
//!
//! Without the cargo feature `negative_control` every guard stands and this
//! file is one constant.

/// A check that keeps a peer within its quota or its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "negative_control"),
    expect(unreachable_pub, reason = "public only for negative controls")
)]
pub enum Guard {
    /// A key of an earlier life has no effect.
    Epoch,
    /// The vectors of a peer that is gone are given back.
    VectorsReturn,
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
