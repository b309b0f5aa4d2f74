//! Guards that a negative control can take out.
//!
//! A crate names its guards in an enum and asks [`stands`] where one of them is
//! applied. Without the cargo feature `negative_control` the answer is the
//! constant `true`. With it, a test may take one guard out for the length of a
//! call on its own thread (`without`), to show that its harness
//! notices.

/// Whether the guard stands.
#[cfg(not(feature = "negative_control"))]
#[inline(always)]
pub const fn stands<G: Copy>(_: G) -> bool {
    true
}

#[cfg(feature = "negative_control")]
std::thread_local! {
    static OUT: std::cell::RefCell<Option<Box<dyn std::any::Any>>> =
        const { std::cell::RefCell::new(None) };
}

/// Whether the guard stands.
#[cfg(feature = "negative_control")]
pub fn stands<G: Copy + Eq + 'static>(guard: G) -> bool {
    OUT.with_borrow(|out| {
        let out = out.as_ref().and_then(|out| out.downcast_ref::<G>());
        out != Some(&guard)
    })
}

/// Runs `run` with `guard` taken out on this thread; it stands again also when `run`
/// panics.
#[cfg(feature = "negative_control")]
pub fn without<G: Copy + Eq + 'static, R>(guard: G, run: impl FnOnce() -> R) -> R {
    struct Again;
    impl Drop for Again {
        fn drop(&mut self) {
            OUT.set(None);
        }
    }
    let _again = Again;
    OUT.set(Some(Box::new(guard)));
    run()
}
