//! The guards that a negative control can take out.
//!
//! Without the cargo feature `negative_control` every guard stands and this file
//! is one constant. With it, a test may take one guard out of the whole process
//! for the length of a call, to show that its harness notices.

/// A check that keeps one partition from hurting another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "negative_control"),
    expect(unreachable_pub, reason = "public only for negative controls")
)]
pub enum Guard {
    /// Guest physical addresses are given out once.
    Overlap,
    /// What others write is read-only in the second stage.
    SecondStage,
    /// A load from a region that is gone is not answered.
    LostBacking,
    /// A partition's end ends its places in regions.
    Leaving,
    /// No more requests of a virtqueue are open than it has entries.
    OpenRequests,
    /// An IOMMU reports nothing as done that it cannot do.
    Commands,
    /// A vector interrupts no more often than its partition's budget.
    Budget,
}

/// Whether the guard stands.
#[cfg(not(feature = "negative_control"))]
pub(crate) const fn stands(_: Guard) -> bool {
    true
}

#[cfg(feature = "negative_control")]
static OUT: std::sync::RwLock<Option<Guard>> = std::sync::RwLock::new(None);

/// Whether the guard stands.
#[cfg(feature = "negative_control")]
pub(crate) fn stands(guard: Guard) -> bool {
    let out = OUT
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    *out != Some(guard)
}

/// Runs `run` with `guard` taken out of this process; it stands again also when `run`
/// panics. One at a time.
#[cfg(feature = "negative_control")]
pub fn without<R>(guard: Guard, run: impl FnOnce() -> R) -> R {
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    struct Again;
    impl Drop for Again {
        fn drop(&mut self) {
            set(None);
        }
    }
    let _one = ONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let _again = Again;
    set(Some(guard));
    run()
}

#[cfg(feature = "negative_control")]
fn set(to: Option<Guard>) {
    let out = OUT.write();
    *out.unwrap_or_else(std::sync::PoisonError::into_inner) = to;
}
