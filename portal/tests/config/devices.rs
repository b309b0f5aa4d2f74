//! Devices: the regions and files that they show, and where.

use crate::GOOD;
use crate::binary::portal_in;
use crate::check;
use crate::flawed;

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
fn a_served_region_as_writable_pmem_is_told_what_helps() {
    let of = |place: &str| {
        let text = format!(
            "[[region]]\nname = \"shared\"\n{place}\n\
             [[partition]]\nname = \"a\"\nguest = \"warp\"\n\
             [[partition.device]]\nregion = \"shared\"\nkind = \"pmem\""
        );
        check(text.as_bytes())
    };
    for (place, hint) in [
        ("size = \"64 MiB\"", "give the region backing"),
        ("switchboard = \"s.sock\"", "or kind = \"ivshmem\""),
    ] {
        let ran = of(place);
        assert_eq!(ran.code, 3, "{place}: {ran:?}");
        assert!(ran.err.contains(hint), "{hint:?} not in:\n{}", ran.err);
    }
}
