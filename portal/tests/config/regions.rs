//! Regions: sizes, peers, the common section, the file behind one.

use crate::flawed;

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
fn missing_backing_file() {
    flawed(
        "peers = 4",
        "backing = \"file\"\npath = \"gone.region\"",
        &[
            "region.shared.path: cannot open gone.region",
            "portal region create",
        ],
    );
}
