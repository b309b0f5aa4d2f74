//! What portal_vmm tells a flat 64-bit image at its entry point
