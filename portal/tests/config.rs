//! `portal run --check` on files with one mistake each: the exit code, the line,
//! the key, the value and what to write instead.

mod binary;

use binary::Ran;
use binary::portal_in;
use std::path::Path;

const GOOD: &str = r#"
[[region]]
name = "shared"
size = "64 MiB"
peers = 4

[[partition]]
name = "a"
guest = "warp"
ram = "16 MiB"

[[partition.device]]
kind = "ivshmem"
region = "shared"

[[partition.device]]
kind = "fixed"
region = "board"
gpa = 0x10_0000_0000

[[partition.task]]
do = "ping"
peer = "b"

[[partition]]
name = "b"
guest = "warp"

[[partition.device]]
kind = "ivshmem"
region = "shared"
vectors = 2

[[region]]
name = "board"
size = 0x400_0000
"#;

fn check(text: &[u8]) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pair.toml"), text).unwrap();
    portal_in(folder.path(), &["run", "pair.toml", "--check"])
}

/// Replaces `from` in the good file, and expects exit code 3 and each of `told`.
#[track_caller]
fn flawed(from: &str, to: &str, told: &[&str]) {
    assert_eq!(GOOD.matches(from).count(), 1, "{from:?} has to be unique");
    let ran = check(GOOD.replace(from, to).as_bytes());
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_eq!(ran.out, "");
    for words in told {
        assert!(ran.err.contains(words), "{words:?} not in:\n{}", ran.err);
    }
}

#[test]
fn the_good_file_is_good() {
    let ran = check(GOOD.as_bytes());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(ran.out.contains("partitions: 2, regions: 2; no flaw"));
}

#[test]
fn the_example_is_good() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let ran = portal_in(root, &["run", "examples/pair.toml", "--check"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn unknown_key() {
    let told = ["pair.toml:10:1: partition.a.rams", "did you mean `ram`?"];
    flawed("ram = ", "rams = ", &told);
}

#[test]
fn unknown_table() {
    flawed(
        "[[partition.task]]",
        "[[partition.tusk]]",
        &["partition.a.tusk", "`task`"],
    );
}

#[test]
fn size_no_power_of_two() {
    let told = [
        "pair.toml:4:8: region.shared.size: 60 MiB",
        "32 MiB and 64 MiB are",
    ];
    flawed("\"64 MiB\"", "\"60 MiB\"", &told);
}

#[test]
fn decimal_megabytes_are_told_apart() {
    flawed(
        "\"64 MiB\"",
        "\"64 MB\"",
        &["64000000 bytes is no power of two"],
    );
}

#[test]
fn size_out_of_limits() {
    flawed(
        "\"64 MiB\"",
        "4096",
        &["4 KiB is not between 64 KiB and 1024 GiB"],
    );
}

#[test]
fn interrupts_have_a_budget_above_none() {
    let told = ["partition.a.interrupt_budget: 0 is not"];
    flawed("ram = ", "interrupt_budget = 0\nram = ", &told);
    let good = GOOD.replace("ram = ", "interrupt_budget = 500\nram = ");
    assert_eq!(check(good.as_bytes()).code, 0);
}

#[test]
fn size_that_is_none() {
    flawed(
        "\"64 MiB\"",
        "\"plenty\"",
        &["region.shared.size: is no number of bytes"],
    );
    flawed(
        "\"64 MiB\"",
        "true",
        &["region.shared.size: is true or false"],
    );
    flawed(
        "\"64 MiB\"",
        "-1",
        &["region.shared.size: is no number of bytes"],
    );
}

#[test]
fn missing_key() {
    flawed(
        "size = \"64 MiB\"\n",
        "",
        &["region.shared.size: is missing", "size = \"64 MiB\""],
    );
}

#[test]
fn too_few_peer_slots() {
    let told = [
        "pair.toml:5:9: region.shared.peers: 2 slots",
        "write peers = 3 or more",
    ];
    flawed("peers = 4", "peers = 2", &told);
}

#[test]
fn more_peers_than_the_region_has_room_for() {
    flawed(
        "peers = 4",
        "peers = 1024",
        &["region.shared.peers: max_peers is 1024"],
    );
}

#[test]
fn common_section_without_room() {
    let told = [
        "region.shared.common: common is 1073741824 bytes",
        "at most",
    ];
    flawed("peers = 4", "peers = 4\ncommon = \"1 GiB\"", &told);
    flawed(
        "peers = 4",
        "peers = 4\ncommon = 4096",
        &["multiple of 2097152"],
    );
}

#[test]
fn unknown_region() {
    let told = [
        "partition.b.device[0].region: there is no region \"shard\"",
        "\"shared\"",
    ];
    flawed(
        "region = \"shared\"\nvectors",
        "region = \"shard\"\nvectors",
        &told,
    );
}

#[test]
fn duplicate_names() {
    let told = ["partition[1].name: there is a partition \"a\""];
    flawed("name = \"b\"", "name = \"a\"", &told);
}

#[test]
fn names_are_plain() {
    flawed(
        "name = \"b\"",
        "name = \"b/../c\"",
        &["is no name", "letters, digits"],
    );
    flawed("name = \"b\"", "name = \"\"", &["\"\" is no name"]);
}

#[test]
fn address_outside_the_window() {
    let told = [
        "partition.a.device[1].gpa: 64 MiB at 0x1000",
        "0x1000000000..0x2000000000",
    ];
    flawed("gpa = 0x10_0000_0000", "gpa = 0x1000", &told);
    flawed(
        "gpa = 0x10_0000_0000",
        "gpa = \"0xffff_ffff_fff0_0000\"",
        &["do not lie"],
    );
}

#[test]
fn address_not_aligned() {
    flawed(
        "gpa = 0x10_0000_0000",
        "gpa = 0x10_0000_1000",
        &["not aligned to 2 MiB"],
    );
}

#[test]
fn overlapping_addresses() {
    let second = "[[region]]\nname = \"other\"\nsize = \"2 MiB\"\n\n[[partition]]\nname = \"b\"";
    let text = GOOD.replace("[[partition]]\nname = \"b\"", second).replace(
        "kind = \"ivshmem\"\nregion = \"shared\"\nvectors = 2",
        "kind = \"fixed\"\nregion = \"shared\"\ngpa = 0x10_0000_0000\n\
         [[partition.device]]\nkind = \"fixed\"\nregion = \"other\"\ngpa = 0x10_03e0_0000",
    );
    let ran = check(text.as_bytes());
    assert_eq!(ran.code, 3, "{ran:?}");
    for words in [
        "partition.b.device[1].gpa",
        "0x1003e00000..0x1004000000 overlaps region \"shared\" at 0x1000000000..0x1004000000",
        "0x1004000000 is free",
    ] {
        assert!(ran.err.contains(words), "{words:?} not in:\n{}", ran.err);
    }
}

#[test]
fn one_region_twice_in_a_partition() {
    let twice = "vectors = 2\n[[partition.device]]\nkind = \"ivshmem\"\nregion = \"shared\"";
    flawed(
        "vectors = 2",
        twice,
        &["partition \"b\" has region \"shared\" already"],
    );
}

#[test]
fn missing_image_and_backing_files() {
    let image = "name = \"b\"\nimage = \"not-there.bin\"";
    let text = GOOD
        .replace("name = \"b\"\nguest = \"warp\"", image)
        .replace("[[partition.task]]\ndo = \"ping\"\npeer = \"b\"\n", "");
    let ran = check(text.as_bytes());
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(
        ran.err
            .contains("partition.b.image: cannot open not-there.bin"),
        "{}",
        ran.err
    );
    flawed(
        "peers = 4",
        "backing = \"file\"\npath = \"gone.region\"",
        &[
            "region.shared.path: cannot open gone.region",
            "portal region create",
        ],
    );
}

#[test]
fn an_image_is_a_file_with_bytes_that_fit() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[[partition]]\nname = \"a\"\nram = \"2 MiB\"\nimage = \"i.bin\"\n";
    std::fs::write(folder.path().join("pair.toml"), text).unwrap();
    let image = folder.path().join("i.bin");
    for (bytes, told) in [(0, "is empty"), (3 << 20, "room for 1 MiB")] {
        std::fs::write(&image, vec![0u8; bytes]).unwrap();
        let ran = portal_in(folder.path(), &["run", "pair.toml", "--check"]);
        assert_eq!(ran.code, 3, "{ran:?}");
        assert!(ran.err.contains(told), "{}", ran.err);
    }
    std::fs::remove_file(&image).unwrap();
    std::fs::create_dir(&image).unwrap();
    let ran = portal_in(folder.path(), &["run", "pair.toml", "--check"]);
    assert!(ran.code == 3 && ran.err.contains("is no file"), "{ran:?}");
}

#[test]
fn more_memory_than_the_host_has() {
    let told = [
        "partition.a.ram: all partitions and regions need",
        "this host has",
    ];
    // 60 GiB a partition: more than CI machines have.
    let text = GOOD.replace("ram = \"16 MiB\"", "ram = \"60 GiB\"");
    let available = std::fs::read_to_string("/proc/meminfo").unwrap();
    let kib: u64 = available
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))
        .and_then(|l| l.trim().strip_suffix(" kB"))
        .and_then(|n| n.parse().ok())
        .unwrap();
    if kib > 60 << 20 {
        eprintln!("skipped: this host has more than 60 GiB");
        return;
    }
    let ran = check(text.as_bytes());
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(told.iter().all(|t| ran.err.contains(t)), "{}", ran.err);
}

#[test]
fn tasks_need_a_partner() {
    flawed(
        "peer = \"b\"",
        "peer = \"a\"",
        &["a partition's task is with another partition"],
    );
    flawed(
        "peer = \"b\"",
        "peer = \"zebra\"",
        &["there is no partition \"zebra\""],
    );
    flawed(
        "do = \"ping\"",
        "do = \"pin\"",
        &["\"pin\" is not known", "\"ping\""],
    );
}

#[test]
fn broken_toml_names_its_line() {
    flawed(
        "[[partition.task]]",
        "[[partition.task]",
        &["pair.toml:21:"],
    );
    let ran = check(b"");
    assert!(
        ran.code == 3 && ran.err.contains("at least one [[partition]]"),
        "{ran:?}"
    );
}

#[test]
fn bytes_that_are_no_text() {
    let ran = check(&[b'a', 0xff, 0xfe]);
    assert!(
        ran.code == 3 && ran.err.contains("byte 1 is not UTF-8"),
        "{ran:?}"
    );
}

#[test]
fn files_that_are_not_there_or_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let ran = portal_in(folder.path(), &["run", "gone.toml"]);
    assert!(
        ran.code == 3 && ran.err.contains("cannot open gone.toml"),
        "{ran:?}"
    );
    let ran = portal_in(folder.path(), &["run", "."]);
    assert!(ran.code == 3 && ran.err.contains("is no file"), "{ran:?}");
}

#[test]
fn every_flaw_is_told_at_once() {
    let text = GOOD
        .replace("64 MiB", "63 MiB")
        .replace("peers = 4", "pears = 4");
    let ran = check(text.as_bytes());
    assert!(ran.err.contains("2 flaws in pair.toml"), "{}", ran.err);
}

#[test]
fn mutilated_files_never_crash() {
    for at in 0..GOOD.len() {
        let mut text = GOOD.as_bytes().to_vec();
        text.truncate(at);
        // Every tenth prefix keeps the test short; each is a process.
        if at % 10 == 0 {
            let ran = check(&text);
            assert!(matches!(ran.code, 0 | 3), "prefix of {at}: {ran:?}");
        }
    }
}

#[test]
fn each_kind_of_device_has_its_keys() {
    let of = |keys: &str| {
        let text = format!(
            "[[region]]\nname = \"shared\"\nsize = \"64 MiB\"\n\
             [[partition]]\nname = \"a\"\nguest = \"warp\"\n\
             [[partition.device]]\nregion = \"shared\"\n{keys}"
        );
        check(text.as_bytes())
    };
    let good = "kind = \"ivshmem2\"\nvectors = 1\naccess = \"ro\"\none_shot = true";
    assert_eq!((of(good).code, of(good).err), (0, String::new()));
    assert_eq!(of("kind = \"pmem\"\naccess = \"ro\"").code, 0);
    for (keys, told) in [
        (
            "kind = \"ivshmem2\"\nmapping = \"flat\"",
            "mapping: is no key",
        ),
        ("kind = \"ivshmem\"\naccess = \"ro\"", "access: is no key"),
        (
            "kind = \"ivshmem2\"\naccess = \"wo\"",
            "\"wo\" is not known",
        ),
        ("kind = \"ivshmem2\"\none_shot = 1", "not true or false"),
        ("kind = \"ivshmem2\"\nvectors = 0", "0 is not between 1"),
        (
            "kind = \"pmem\"\npath = \"disk.img\"",
            "path: a pmem device shows a region or a file",
        ),
        ("kind = \"pmem\"\nvectors = 2", "vectors: is no key"),
        (
            "kind = \"pmem\"",
            "sections of region \"shared\" are enforced",
        ),
    ] {
        let ran = of(keys);
        assert_eq!(ran.code, 3, "{keys}: {ran:?}");
        assert!(ran.err.contains(told), "{told:?} not in:\n{}", ran.err);
    }
}

#[test]
fn a_pmem_file_is_whole_large_pages() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[[partition]]\nname = \"a\"\nguest = \"warp\"\n\
                [[partition.device]]\nkind = \"pmem\"\npath = \"disk.img\"";
    std::fs::write(folder.path().join("one.toml"), text).unwrap();
    let run = || portal_in(folder.path(), &["run", "one.toml", "--check"]);
    assert!(run().err.contains("truncate --size 64M"), "{:?}", run());
    let file = std::fs::File::create(folder.path().join("disk.img")).unwrap();
    file.set_len(3 << 20).unwrap();
    let ran = run();
    assert!(
        ran.err.contains("3 MiB, not a multiple of 2 MiB"),
        "{ran:?}"
    );
    assert!(ran.err.contains("truncate --size 4194304"), "{ran:?}");
    file.set_len(4 << 20).unwrap();
    assert_eq!((run().code, run().err), (0, String::new()));
    file.set_len(66 << 30).unwrap();
    let ran = run();
    assert!(
        ran.err.contains("disk.img has 66 GiB") && ran.err.contains("room for 64 GiB"),
        "{ran:?}"
    );
}

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

#[test]
fn a_region_that_no_bar_can_hold_is_told() {
    flawed(
        "size = \"64 MiB\"",
        "size = \"128 GiB\"",
        &[
            "region \"shared\" has 128 GiB",
            "room for 64 GiB",
            "has to be smaller",
        ],
    );
}

#[test]
fn consoles_have_a_file_each_in_a_folder_that_is_there() {
    let to = |console: &str| format!("guest = \"warp\"\nram = \"16 MiB\"\nconsole = \"{console}\"");
    let ram = "guest = \"warp\"\nram = \"16 MiB\"";
    flawed(
        ram,
        &to("file:no/such/folder/a.log"),
        &["partition.a.console", "no folder", "mkdir -p"],
    );
    flawed(ram, &to("file:."), &["is a folder"]);
    let good = GOOD.replace(ram, &to("file:a.log"));
    let ran = check(good.as_bytes());
    assert_eq!(ran.code, 0, "{ran:?}");
    let both = good.replace("name = \"b\"\n", "name = \"b\"\nconsole = \"file:a.log\"\n");
    let ran = check(both.as_bytes());
    assert!(
        ran.code == 3 && ran.err.contains("console of partition \"a\""),
        "{ran:?}"
    );
}
