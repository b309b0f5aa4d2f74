//! Partitions with a Linux kernel.

use crate::GOOD;
use crate::binary::Ran;
use crate::binary::portal_in;
use crate::check;
use crate::flawed;

/// A file with one Linux partition; `RAM`, `KERNEL` and `INITRD` stand for values.
const LINUX: &str = r#"
[[partition]]
name = "a"
ram = "RAM"
kernel = "KERNEL"
initrd = "INITRD"
cmdline = "console=ttyS0"
"#;

/// A bzImage by its header, with `payload` bytes behind its real-mode part.
fn kernel(sectors: u8, payload: usize) -> Vec<u8> {
    let real = (usize::from(sectors) + 1) * 512;
    let mut image = vec![0; real + payload];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1F1, &[sectors]);
    put(0x1F4, &(payload as u32 / 16).to_le_bytes());
    put(0x202, b"HdrS");
    put(0x206, &0x20Fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x214, &0x10_0000u32.to_le_bytes());
    put(0x22C, &0x7FFF_FFFFu32.to_le_bytes());
    put(0x236, &1u16.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x260, &0x200_0000u32.to_le_bytes());
    image
}

/// Checks the Linux file with these files beside it: the exit code and what is said.
fn check_linux(ram: &str, image: &[u8], initrd: usize, change: (&str, &str)) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("image"), image).unwrap();
    let file = std::fs::File::create(folder.path().join("initrd")).unwrap();
    file.set_len(initrd as u64).unwrap();
    let text = LINUX.replace("RAM", ram).replace("KERNEL", "image");
    let text = text.replace("INITRD", "initrd").replace(change.0, change.1);
    std::fs::write(folder.path().join("linux.toml"), text).unwrap();
    portal_in(folder.path(), &["run", "linux.toml", "--check"])
}

#[test]
fn a_kernel_that_cannot_boot_is_told_with_its_place() {
    const AS_IT_IS: (&str, &str) = ("", "");
    let good = kernel(3, 1 << 20);
    let ran = check_linux("128 MiB", &good, 4096, AS_IT_IS);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));

    let mut legacy = good.clone();
    legacy[0x206] = 2;
    let cut = &good[..good.len() - 100_000];
    let at_kernel = "linux.toml:5:10: partition.a.kernel: ";
    let at_initrd = "linux.toml:6:10: partition.a.initrd: ";
    let long = format!("\"{}\"", "x".repeat(2048));
    type Case<'a> = (&'a str, &'a [u8], usize, (&'a str, &'a str), &'a [&'a str]);
    let cases: [Case<'_>; 12] = [
        (
            "128 MiB",
            b"#!/bin/sh\n",
            1,
            AS_IT_IS,
            &[at_kernel, "neither a bzImage nor a"],
        ),
        (
            "128 MiB",
            &[],
            1,
            AS_IT_IS,
            &[at_kernel, "neither a bzImage nor a"],
        ),
        (
            "128 MiB",
            &good[..0x230],
            1,
            AS_IT_IS,
            &[at_kernel, "neither a bzImage nor a"],
        ),
        (
            "128 MiB",
            &legacy,
            1,
            AS_IT_IS,
            &[at_kernel, "without a 64-bit entry"],
        ),
        (
            "128 MiB",
            cut,
            1,
            AS_IT_IS,
            &[at_kernel, "cut short", "its header says 1050624"],
        ),
        (
            "2 MiB",
            &good,
            1,
            AS_IT_IS,
            &[at_kernel, "there is room for 1048576"],
        ),
        (
            "32 MiB",
            &good,
            1,
            AS_IT_IS,
            &["linux.toml:4:7: partition.a.ram: ", "needs 50331648"],
        ),
        ("128 MiB", &good, 0, AS_IT_IS, &[at_initrd, "has 0 bytes"]),
        (
            "128 MiB",
            &good,
            1 << 27,
            AS_IT_IS,
            &[at_initrd, "has 134217728 bytes", "83886080"],
        ),
        (
            "128 MiB",
            &good,
            1,
            ("\"initrd\"", "\"none\""),
            &[at_initrd, "cannot be read"],
        ),
        (
            "128 MiB",
            &good,
            1,
            ("\"image\"", "\".\""),
            &[at_kernel, "it is no file"],
        ),
        (
            "128 MiB",
            &good,
            1,
            ("\"console=ttyS0\"", &long),
            &["cmdline", "2047"],
        ),
    ];
    for (ram, image, initrd, change, told) in cases {
        let ran = check_linux(ram, image, initrd, change);
        assert_eq!(ran.code, 3, "{told:?}: {ran:?}");
        for words in told {
            assert!(ran.err.contains(words), "{words:?} not in:\n{}", ran.err);
        }
    }
}

#[test]
fn only_linux_has_an_iommu() {
    flawed(
        "name = \"a\"",
        "name = \"a\"\niommu = true",
        &["iommu: only a Linux guest", "add kernel = "],
    );
    let good = kernel(3, 1 << 20);
    let ran = check_linux("128 MiB", &good, 1, ("name", "iommu = true\nname"));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let without = GOOD.replace("name = \"a\"", "name = \"a\"\niommu = false");
    assert_eq!(check(without.as_bytes()).code, 0);
}

#[test]
fn keys_of_linux_partitions_are_checked() {
    let good = kernel(3, 1 << 20);
    let two = "\nconsole = \"terminal\"\n[[partition]]\nname = \"b\"\nguest = \"warp\"\n\
               console = \"terminal\"\n";
    let cases: [((&str, &str), &str); 6] = [
        (
            ("kernel = \"image\"", "guest = \"warp\""),
            "only a Linux kernel has an initrd",
        ),
        (
            ("name", "image = \"image\"\nname"),
            "a kernel or an image, not both",
        ),
        (("name", "guest = \"warp\"\nname"), "one of them"),
        (
            ("name", "console = \"stdout\"\nname"),
            "\"file:\" and a path",
        ),
        (
            ("name", "on_reset = \"halt\"\nname"),
            "\"restart\", \"stop\"",
        ),
        (
            ("\ncmdline = \"console=ttyS0\"", two),
            "is the terminal already",
        ),
    ];
    for (change, told) in cases {
        let ran = check_linux("128 MiB", &good, 1, change);
        assert_eq!(ran.code, 3, "{told}: {ran:?}");
        assert!(ran.err.contains(told), "{told:?} not in:\n{}", ran.err);
    }
}
