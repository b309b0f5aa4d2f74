//! The image of the WARP kernel with the built-in agents.

/// The flat image, as `portal_vmm` boots it.
pub fn image() -> &'static [u8] {
    include_bytes!(env!("PORTAL_AGENTS_IMAGE"))
}
