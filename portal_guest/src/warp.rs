//! The image of the WARP kernel with the built-in agents.

/// The flat image, as `portal_vmm` boots it at `portal_boot_abi::IMAGE_GPA`: x86-64
/// code and data, about a quarter of a MiB. The partition needs 8 MiB of RAM or
/// more, and a region to work in; what the agents do then is in
/// `portal_agent_abi`.
pub fn image() -> &'static [u8] {
    include_bytes!(env!("PORTAL_AGENTS_IMAGE"))
}

#[cfg(test)]
mod tests {
    use super::image;

    /// Entry, kernel pages and page tables are where `portal_boot_abi` and the
    /// linker script say; the rest fits behind them.
    #[test]
    fn the_image_is_whole_and_small() {
        let image = image();
        assert!(image.len() > 0x1_0000, "kernel, tables and an agent");
        assert!(image.len() < 1 << 20, "{} bytes", image.len());
        // The first page-table root entry: the PDPT, present, writable, ring 3.
        let root = u64::from_le_bytes(image[0xA000..0xA008].try_into().unwrap());
        assert_eq!(root, 0x10_B027);
    }

    /// No page of the image is both writable and executable, and ring 3 cannot
    /// write to the kernel's.
    #[test]
    fn what_is_writable_cannot_be_run() {
        let image = image();
        let (tables, _) = image[0xE000..0x1_0000].as_chunks::<8>();
        let mut executable = 0;
        for (page, entry) in tables.iter().enumerate() {
            let entry = u64::from_le_bytes(*entry);
            let (present, writable, ring3) = (entry & 1, entry >> 1 & 1, entry >> 2 & 1);
            let runs = entry >> 63 == 0;
            if present == 0 {
                continue;
            }
            assert!(!(writable == 1 && runs), "page {page:#x}: {entry:#x}");
            if (0x100..0x110).contains(&page) {
                assert_eq!(ring3, 0, "page {page:#x} is the kernel's");
            }
            if page < 0x100 {
                assert!(!(writable == 1 && ring3 == 1), "page {page:#x}: {entry:#x}");
            }
            executable += usize::from(runs);
        }
        assert!(executable > 4, "kernel and agent code");
    }
}
