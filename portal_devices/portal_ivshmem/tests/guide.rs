//! The Guide's page of ivshmem v2 is the code's: every row of the register tables
//! stands on it.

const PAGE: &str = include_str!("../../../Guide/src/ivshmem-v2.md");
const SOURCE: &str = include_str!("../src/v2/mod.rs");

#[test]
fn every_register_is_in_the_guide() {
    let rows = SOURCE.lines().filter_map(|line| line.strip_prefix("//! |"));
    let mut seen = 0;
    for row in rows.map(|row| format!("|{row}")) {
        // The configuration's type stands for what it says.
        let row = row.replace("[`IvshmemV2Config::base`]", "a base address");
        assert!(PAGE.contains(&row), "not in the Guide: {row}");
        seen += 1;
    }
    assert!(seen > 15, "only {seen} rows: has the form changed?");
}
