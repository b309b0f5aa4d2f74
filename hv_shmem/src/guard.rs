//! Guards that a negative control can take out.
//!
//! Without the cargo feature `negative_control` every guard stands, and asking is a
//! constant. With it, a test may take one out for the length of a call on its own
//! thread (`without`), to show that its harness notices.

/// A check or an order that keeps another peer's claim from doing harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A consumer's cursor lies within what was produced.
    Cursor,
    /// A ring's places lie inside their section.
    Directory,
    /// The producer index is loaded once, to be checked and to be used.
    Fetch,
    /// A block whose generations have run out is retired.
    Generation,
    /// The producer index is at most a ring ahead.
    Index,
    /// A batch is no longer than what there is, a span than its block.
    Length,
    /// Block words are stored before the page's word.
    Order,
    /// What is handed out is zero.
    Residue,
    /// What is returned was lent to who returns it.
    Returns,
    /// A sequence word is one of the two that can be there.
    Sequence,
    /// A span's generation is its block's.
    Stale,
}

/// Whether the guard stands.
#[cfg(not(feature = "negative_control"))]
#[inline(always)]
pub(crate) const fn stands(_: Guard) -> bool {
    true
}

#[cfg(feature = "negative_control")]
std::thread_local! {
    static OUT: core::cell::Cell<Option<Guard>> = const { core::cell::Cell::new(None) };
}

/// Whether the guard stands.
#[cfg(feature = "negative_control")]
pub(crate) fn stands(guard: Guard) -> bool {
    OUT.get() != Some(guard)
}

/// Runs `run` with `guard` taken out on this thread; it stands again also when `run`
/// panics.
#[cfg(feature = "negative_control")]
pub fn without<R>(guard: Guard, run: impl FnOnce() -> R) -> R {
    struct Again;
    impl Drop for Again {
        fn drop(&mut self) {
            OUT.set(None);
        }
    }
    let _again = Again;
    OUT.set(Some(guard));
    run()
}
