//! Regions are found in whatever a machine shows: a tree in place of `/`, with PCI
//! functions, device-DAX devices, mounts and block devices, whole and broken.

use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::Storage;
use hv_shmem::backing::View;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::name::Name;
use portal_guest_linux::BarAccess;
use portal_guest_linux::Carrier;
use portal_guest_linux::Found;
use portal_guest_linux::GuestError;
use portal_guest_linux::Wanted;
use portal_guest_linux::find;
use portal_guest_linux::scan_below;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use uuid::Uuid;

const SIZE: u64 = 64 << 10;
/// Flags of a line of `resource`: memory, ports.
const MEMORY: &str = "0x0000000000140204";
const PORTS: &str = "0x0000000000040101";

/// A tree in place of `/`.
struct Tree(tempfile::TempDir);

/// A line of `resource`.
fn line(start: u64, len: u64, flags: &str) -> String {
    format!("{start:#018x} {:#018x} {flags}\n", start + len - 1)
}

/// A line for a BAR that is not there.
fn absent() -> String {
    "0x0000000000000000 0x0000000000000000 0x0000000000000000\n".to_owned()
}

/// The `resource` of a function with all BARs of ivshmem.
fn all_bars() -> String {
    let registers = line(0xfebf_d000, 256, "0x0000000000040200");
    let table = line(0xfebf_e000, 4096, "0x0000000000040200");
    format!("{registers}{table}{}", line(0x8_0000_0000, SIZE, MEMORY))
}

impl Tree {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, path: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        path
    }

    /// A function with these ids, as its files have them.
    fn ids(&self, address: &str, vendor: &str, device: &str) -> String {
        let folder = format!("sys/bus/pci/devices/{address}");
        self.put(&format!("{folder}/vendor"), vendor);
        self.put(&format!("{folder}/device"), device);
        self.put(&format!("{folder}/config"), [0; 256]);
        self.put(&format!("{folder}/resource"), all_bars());
        folder
    }

    /// An ivshmem v1 function of this peer with this region.
    fn ivshmem(&self, address: &str, peer: u32, name: &str, uuid: u128) -> String {
        let folder = self.ids(address, "0x1af4\n", "0x1110\n");
        let mut registers = [0; 4096];
        registers[8..12].copy_from_slice(&peer.to_le_bytes());
        self.put(&format!("{folder}/resource0"), registers);
        self.region(&format!("{folder}/resource2"), name, uuid);
        folder
    }

    /// A file with a region.
    fn region(&self, path: &str, name: &str, uuid: u128) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let spec = RegionSpec::new(Name::new(name).unwrap(), SIZE, 2).sectioned(false);
        let config = BackingConfig {
            storage: Storage::File(path),
            ..BackingConfig::default()
        };
        let mapping = Backing::create(&spec, &config).unwrap();
        let mapping = mapping.map(View::OWNER).unwrap();
        HostPages::format(mapping.mem(), &spec, Uuid::from_u128(uuid)).unwrap();
    }

    fn scan(&self) -> Vec<Found> {
        scan_below(self.0.path(), BarAccess::Sysfs)
    }
}

/// Kind and name of each region.
fn summary(found: &[Found]) -> Vec<(&'static str, &str)> {
    let each = found.iter().map(|found| {
        let header = found.header.as_ref();
        (found.carrier.kind(), header.map_or("", |h| h.name.as_str()))
    });
    each.collect()
}

fn why(found: &Found) -> String {
    found.header.as_ref().unwrap_err().to_string()
}

#[test]
fn an_empty_machine_has_nothing() {
    let tree = Tree::new();
    assert!(tree.scan().is_empty());
    let error = find(tree.scan(), Wanted::Any).unwrap_err().to_string();
    assert!(error.contains("no ivshmem function"), "{error}");
}

#[test]
fn functions_are_told_apart_by_their_ids() {
    let tree = Tree::new();
    tree.ivshmem("0000:00:09.0", 3, "lake", 9);
    let second = tree.ids("0000:00:0a.0", "0x110a\n", "0x4106\n");
    tree.region(&format!("{second}/resource2"), "pond", 10);
    let mut registers = [0; 4096];
    registers[0] = 5;
    tree.put(&format!("{second}/resource0"), registers);
    for (slot, (vendor, device)) in [
        ("0x1af4\n", "0x1041\n"),
        ("0x1110\n", "0x1af4\n"),
        ("0x110a\n", "0x1110\n"),
        // Numbers that are none, or are too wide.
        ("1af4\n", "1110\n"),
        ("0x1af4 0\n", "0x1110\n"),
        ("0x11af4\n", "0x1110\n"),
        ("0x", "0x1110\n"),
        ("", "0x1110\n"),
        ("0x-1af4\n", "0x1110\n"),
        ("0xffffffffffffffffff\n", "0x1110\n"),
    ]
    .into_iter()
    .enumerate()
    {
        tree.ids(&format!("0000:01:{slot:02x}.0"), vendor, device);
    }
    // Ids that are no text, a function without files, a file where a folder is meant.
    tree.put("sys/bus/pci/devices/0000:02:00.0/vendor", [0xff, 0xfe]);
    fs::create_dir_all(tree.0.path().join("sys/bus/pci/devices/0000:02:01.0")).unwrap();
    tree.put("sys/bus/pci/devices/0000:02:02.0", "0x1af4");
    let found = tree.scan();
    let expected = [("ivshmem-v1", "lake"), ("ivshmem-v2", "pond")];
    assert_eq!(summary(&found), expected);
    let peers: Vec<_> = found.iter().map(|f| f.peer).collect();
    assert_eq!(peers, [Some(PeerId(3)), Some(PeerId(5))]);
    assert_eq!(found[0].carrier.to_string(), "0000:00:09.0");
}

#[test]
fn a_function_without_its_bar_is_found_with_the_reason() {
    let tree = Tree::new();
    let registers = line(0xfebf_d000, 256, "0x0000000000040200");
    let cases = [
        ("no file", None),
        ("empty", Some(String::new())),
        ("too short", Some(registers.clone())),
        (
            "absent",
            Some(format!("{registers}{}{}", absent(), absent())),
        ),
        (
            "ports",
            Some(format!(
                "{registers}{}{}",
                absent(),
                line(0x8_0000_0000, SIZE, PORTS)
            )),
        ),
        (
            "no address",
            Some(format!("{registers}{}{}", absent(), line(0, SIZE, MEMORY))),
        ),
        (
            "the end before the start",
            Some(format!(
                "{registers}{}0x0000000800010000 0x0000000800000000 {MEMORY}\n",
                absent()
            )),
        ),
        (
            "all addresses there are",
            Some(format!(
                "{registers}{}0x0000000000000000 0xffffffffffffffff {MEMORY}\n",
                absent()
            )),
        ),
        (
            "garbage",
            Some(format!("{registers}{}twelve 0x 0xzz\n", absent())),
        ),
        (
            "no flags",
            Some(format!(
                "{registers}{}0x0000000800000000 0x000000080000ffff\n",
                absent()
            )),
        ),
    ];
    for (what, resource) in cases {
        let folder = tree.ivshmem("0000:00:04.0", 1, "lake", 1);
        let path = tree.0.path().join(&folder).join("resource");
        match resource {
            Some(text) => fs::write(path, text).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let [found] = &tree.scan()[..] else {
            panic!("{what}: one function");
        };
        let why = why(found);
        assert!(why.contains("no BAR2 with memory"), "{what}: {why}");
        assert_eq!(found.peer, None, "{what}: without BAR1 it is the plain one");
        fs::remove_file(tree.0.path().join(folder).join("resource2")).unwrap();
    }
    let error = find(tree.scan(), Wanted::Any).unwrap_err().to_string();
    assert!(error.contains("none at 0000:00:04.0"), "{error}");
}

#[test]
fn what_is_no_region_is_found_with_the_reason() {
    let tree = Tree::new();
    // Less than a region can be.
    let folder = tree.ids("0000:00:01.0", "0x1af4\n", "0x1110\n");
    let bars = format!("{}{}{}", absent(), absent(), line(4096, 4096, MEMORY));
    tree.put(&format!("{folder}/resource"), bars);
    tree.put(&format!("{folder}/resource2"), [0; 4096]);
    // Nothing in it; something else in it.
    let folder = tree.ids("0000:00:02.0", "0x1af4\n", "0x1110\n");
    tree.put(&format!("{folder}/resource2"), [0; SIZE as usize]);
    let folder = tree.ids("0000:00:03.0", "0x1af4\n", "0x1110\n");
    tree.put(&format!("{folder}/resource2"), [0xa5; SIZE as usize]);
    // One byte of a header changed.
    let folder = tree.ivshmem("0000:00:04.0", 1, "lake", 1);
    let path = tree.0.path().join(&folder).join("resource2");
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096 + 20] ^= 1;
    fs::write(&path, bytes).unwrap();
    // A number that no peer can have, with a region.
    let folder = tree.ivshmem("0000:00:05.0", 0x1_0000, "pond", 2);
    assert!(tree.0.path().join(folder).exists());
    let found = tree.scan();
    assert_eq!(found.len(), 5);
    for (n, reason) in ["truncated", "magic", "magic", "CRC"]
        .into_iter()
        .enumerate()
    {
        let why = why(&found[n]);
        assert!(why.contains(reason), "{n}: {why}");
    }
    assert_eq!(found[4].peer, None);
    let only = find(tree.scan(), Wanted::Any).unwrap();
    assert_eq!(only.carrier.to_string(), "0000:00:05.0");
}

#[test]
fn two_regions_of_one_name_are_told_apart_by_uuid() {
    let tree = Tree::new();
    tree.ivshmem("0000:00:04.0", 1, "lake", 1);
    tree.ivshmem("0000:00:05.0", 1, "lake", 2);
    tree.ivshmem("0000:00:06.0", 1, "pond", 3);
    for wanted in [Wanted::Name("lake"), Wanted::Any] {
        let error = find(tree.scan(), wanted).unwrap_err();
        assert!(matches!(error, GuestError::Ambiguous { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&Uuid::from_u128(2).to_string()), "{text}");
    }
    let uuid = Uuid::from_u128(2).to_string();
    let second = find(tree.scan(), Wanted::parse(&uuid)).unwrap();
    assert_eq!(second.carrier.to_string(), "0000:00:05.0");
    let pond = find(tree.scan(), Wanted::Name("pond")).unwrap();
    assert_eq!(pond.carrier.to_string(), "0000:00:06.0");
    let error = find(tree.scan(), Wanted::Name("sea")).unwrap_err();
    assert!(matches!(error, GuestError::NotFound { .. }), "{error}");
}

#[test]
fn one_region_in_several_carriers_is_found_where_there_is_most() {
    let tree = Tree::new();
    let mount = tree.0.path().join("mnt");
    tree.region("mnt/lake", "lake", 1);
    let mountinfo = format!(
        "36 1 259:0 / {} rw - ext4 /dev/pmem0 rw,dax\n",
        mount.display()
    );
    tree.put("proc/self/mountinfo", mountinfo);
    let file = find(tree.scan(), Wanted::Any).unwrap();
    assert_eq!(file.carrier, Carrier::File(mount.join("lake")));
    tree.ivshmem("0000:00:05.0", 2, "lake", 1);
    tree.ivshmem("0000:00:04.0", 1, "lake", 1);
    let first = find(tree.scan(), Wanted::Name("lake")).unwrap();
    assert_eq!(first.carrier.to_string(), "0000:00:04.0");
    assert_eq!(first.peer, Some(PeerId(1)));
}

#[test]
fn files_are_looked_for_on_dax_mounts_alone() {
    let tree = Tree::new();
    let at = |name: &str| tree.0.path().join(name);
    tree.region("dax/lake", "lake", 1);
    tree.put("dax/notes", "no region");
    tree.region("dax/below/pond", "pond", 2);
    std::os::unix::fs::symlink(at("dax/lake"), at("dax/link")).unwrap();
    tree.region("always/sea", "sea", 3);
    tree.region("plain/bay", "bay", 4);
    tree.region("never/bay", "bay", 4);
    let line = |folder: &str, options: &str| {
        format!(
            "1 1 259:0 / {} rw,noatime - ext4 /dev/pmem0 {options}\n",
            at(folder).display()
        )
    };
    let text = [
        line("dax", "rw,dax"),
        line("always", "rw,dax=always,x"),
        line("plain", "rw,nodax"),
        line("never", "rw,dax=never"),
        line("gone", "rw,dax"),
        "nonsense - \n - \n\n1 - a b dax\n".to_owned(),
    ];
    tree.put("proc/self/mountinfo", text.concat());
    let found = tree.scan();
    let kinds: Vec<_> = found.iter().map(|f| f.carrier.to_string()).collect();
    let expected = ["dax/lake", "dax/notes", "always/sea"];
    let expected = expected.map(|name| at(name).display().to_string());
    assert_eq!(kinds, expected);
    assert!(why(&found[1]).contains("notes"), "{}", why(&found[1]));
}

#[test]
fn device_dax_is_what_sysfs_says() {
    let tree = Tree::new();
    let device = |name: &str, size: &str, align: &str| {
        tree.put(&format!("sys/bus/dax/devices/{name}/size"), size);
        tree.put(&format!("sys/bus/dax/devices/{name}/align"), align);
    };
    let size = SIZE.to_string();
    device("dax0.0", &size, "4096\n");
    device("dax1.0", "much\n", "4096\n");
    device("dax2.0", &size, "-1\n");
    device("dax3.0", &size, "4096\n");
    fs::create_dir_all(tree.0.path().join("sys/bus/dax/devices/dax4.0")).unwrap();
    for node in ["dax0.0", "dax1.0", "dax2.0", "dax4.0"] {
        tree.region(&format!("dev/{node}"), "lake", 1);
    }
    let found = tree.scan();
    assert_eq!(found.len(), 5);
    assert!(
        found
            .iter()
            .all(|f| f.carrier.kind() == "dax" && f.peer.is_none())
    );
    let reasons = ["", "size", "align", "dax3.0", "size"];
    for (found, reason) in found.iter().zip(reasons).skip(1) {
        assert!(
            why(found).contains(reason),
            "{}: {}",
            found.carrier,
            why(found)
        );
    }
    let lake = find(found, Wanted::Any).unwrap();
    assert_eq!(lake.carrier.to_string(), node(&tree, "dax0.0"));
}

fn node(tree: &Tree, name: &str) -> String {
    tree.0.path().join("dev").join(name).display().to_string()
}

#[test]
fn persistent_memory_is_listed_and_not_taken_for_shared() {
    let tree = Tree::new();
    for name in ["pmem0", "pmem12s", "pmemory", "sda", "pmem"] {
        fs::create_dir_all(tree.0.path().join("sys/class/block").join(name)).unwrap();
        tree.region(&format!("dev/{name}"), "lake", 1);
    }
    let found = tree.scan();
    let carriers: Vec<_> = found.iter().map(|f| f.carrier.to_string()).collect();
    assert_eq!(carriers, [node(&tree, "pmem0"), node(&tree, "pmem12s")]);
    assert!(found.iter().all(|f| f.carrier.kind() == "pmem"));
    let open = |found: &Found| {
        let opened = found
            .carrier
            .open(BarAccess::Sysfs, hv_shmem::backing::OpenAs::Peer);
        opened.unwrap_err()
    };
    for found in &found {
        let error = open(found);
        assert!(matches!(error, GuestError::NotShared { .. }), "{error}");
        assert!(Path::new(&found.carrier.to_string()).exists());
    }
}
