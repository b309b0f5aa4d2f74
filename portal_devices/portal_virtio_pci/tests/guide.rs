//! The Guide's page of virtio-pmem is the code's: every row of the register tables
//! stands on it.

const PAGE: &str = include_str!("../../../Guide/src/virtio-pmem.md");
const SOURCES: [&str; 3] = [
    include_str!("../src/lib.rs"),
    include_str!("../src/common.rs"),
    include_str!("../../portal_pmem/src/lib.rs"),
];

#[test]
fn every_register_is_in_the_guide() {
    let lines = SOURCES.iter().flat_map(|source| source.lines());
    let mut seen = 0;
    for row in lines.filter_map(|line| line.strip_prefix("//! ")) {
        if row.starts_with('|') {
            assert!(PAGE.contains(row), "not in the Guide: {row}");
            seen += 1;
        }
    }
    assert!(seen > 25, "only {seen} rows: has the form changed?");
}
