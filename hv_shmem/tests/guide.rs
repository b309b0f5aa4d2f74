//! The Guide's region format is the code's: every row of every field table in the
//! modules that define the format stands on the Guide's page.

use std::fs;
use std::path::Path;

const MODULES: &[&str] = &[
    "arena/layout.rs",
    "arena/returns.rs",
    "arena/word.rs",
    "directory.rs",
    "header.rs",
    "peers.rs",
    "ring/complete.rs",
    "ring/event.rs",
    "ring/in_place.rs",
    "ring/inline.rs",
    "ring/place.rs",
    "ring/submit.rs",
    "ring/upcall.rs",
    "section.rs",
    "span.rs",
];

/// Without rustdoc's link brackets and paths.
fn plain(row: &str) -> String {
    let mut out = String::new();
    let mut rest = row;
    while let Some((before, link)) = rest.split_once("[`") {
        let Some((name, after)) = link.split_once("`]") else {
            break;
        };
        out.push_str(before);
        let short = name.rsplit("::").next().unwrap_or(name);
        out.push_str(&format!("`{short}`"));
        rest = after;
    }
    out + rest
}

#[test]
fn every_field_is_in_the_guide() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("../Guide/src/region-format.md")).expect("the page");
    let mut rows = 0;
    for module in MODULES {
        let source = fs::read_to_string(root.join("src").join(module)).expect(module);
        let table = source.lines().filter_map(|line| {
            let doc = line.trim_start();
            let doc = doc
                .strip_prefix("//!")
                .or_else(|| doc.strip_prefix("///"))?;
            doc.trim_start().starts_with('|').then(|| plain(doc.trim()))
        });
        for row in table {
            assert!(page.contains(&row), "{module}: not in the Guide: {row}");
            rows += 1;
        }
    }
    assert!(
        rows > 100,
        "only {rows} rows found: has the form of the tables changed?"
    );
}
