//! Page states from the heap, untouched until a page is used.
//!
//! A section of 1 GiB has 40 MiB of them; a peer that uses a hundred pages of it
//! should not pay for the rest.
#![cfg_attr(
    not(feature = "loom"),
    expect(unsafe_code, reason = "zeroed memory is taken as page states")
)]

use super::pages::PageState;
use alloc::boxed::Box;

/// Records of `pages` pages that were never used.
pub(super) fn fresh(pages: u32) -> Box<[PageState]> {
    #[cfg(not(feature = "loom"))]
    {
        let states = Box::<[PageState]>::new_zeroed_slice(pages as usize);
        // SAFETY: a `PageState` is made of atomic integers only, for which all
        // bits zero is a value; it is the one that `PageState::new` gives.
        unsafe { states.assume_init() }
    }
    #[cfg(feature = "loom")]
    (0..pages).map(|_| PageState::new()).collect()
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    #[test]
    fn fresh_states_are_new_ones() {
        for state in super::fresh(100) {
            let new = super::PageState::new();
            assert_eq!(format!("{state:?}"), format!("{new:?}"));
        }
    }
}
