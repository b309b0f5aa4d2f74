//! Flat images for the tests, assembled into the test binary, and the check
//! whether this host can run them.
#![expect(
    unsafe_code,
    reason = "the bytes of an image lie between two labels of the assembler"
)]

use portal_vmm::Image;
use portal_vmm::Kvm;
use portal_vmm::PartitionBuilder;
use std::time::Duration;

/// Opens KVM, or says on one line why the test is skipped.
pub(crate) fn hypervisor() -> Option<Kvm> {
    match Kvm::open() {
        Ok(kvm) => Some(kvm),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// A small partition with a short deadline.
pub(crate) fn partition(name: &str, image: &'static [u8]) -> PartitionBuilder {
    PartitionBuilder::new(name, Image::Flat(image.into()))
        .ram(4 << 20)
        .deadline(Duration::from_secs(20))
}

/// Longest time that a test waits for a run's end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Makes a function `$name` that gives the bytes of an image. The code must be
/// position-independent; it starts at its first byte with RDI = `BootInfo`.
#[macro_export]
macro_rules! image {
    ($name:ident, $($line:literal),+ $(,)?) => {
        core::arch::global_asm!(
            ".pushsection .rodata",
            concat!(".global image_", stringify!($name), "_start"),
            concat!(".global image_", stringify!($name), "_end"),
            concat!("image_", stringify!($name), "_start:"),
            $($line),+,
            concat!("image_", stringify!($name), "_end:"),
            ".popsection",
        );
        pub(crate) fn $name() -> &'static [u8] {
            unsafe extern "C" {
                #[link_name = concat!("image_", stringify!($name), "_start")]
                static START: u8;
                #[link_name = concat!("image_", stringify!($name), "_end")]
                static END: u8;
            }
            $crate::guest::between(&raw const START, &raw const END)
        }
    };
}

/// The bytes from one label to another.
pub(crate) fn between(start: *const u8, end: *const u8) -> &'static [u8] {
    let len = end.addr() - start.addr();
    // SAFETY: the assembler put both labels around one run of read-only bytes.
    unsafe { core::slice::from_raw_parts(start, len) }
}
