//! The guards that a negative control can take out.
//!
//! Without the cargo feature `negative_control` every guard stands and this
//! file is one constant.

/// What keeps a guest from being told that something is durable which is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "negative_control"),
    expect(unreachable_pub, reason = "public only for negative controls")
)]
pub enum Guard {
    /// A request waits for a flush that began after it came.
    NextFlush,
    /// A failure is never followed by a success.
    Sticky,
    /// A flush ends once, with its own token.
    Token,
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
