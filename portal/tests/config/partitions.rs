//! Partitions: names, images, memory, tasks, consoles.

use crate::GOOD;
use crate::binary::portal_in;
use crate::check;
use crate::flawed;

#[test]
fn interrupts_have_a_budget_above_none() {
    let told = ["partition.a.interrupt_budget: 0 is not"];
    flawed("ram = ", "interrupt_budget = 0\nram = ", &told);
    let good = GOOD.replace("ram = ", "interrupt_budget = 500\nram = ");
    assert_eq!(check(good.as_bytes()).code, 0);
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
fn missing_image() {
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
