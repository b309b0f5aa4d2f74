//! The C header in the tree is the one that the sources give.

use std::path::Path;

#[test]
fn the_header_is_fresh() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).unwrap();
    let mut made = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_src(here.join("src/status.rs"))
        .with_src(here.join("src/region.rs"))
        .with_src(here.join("src/span.rs"))
        .with_src(here.join("src/ring.rs"))
        .generate()
        .unwrap()
        .write(&mut made);
    let made = String::from_utf8(made).unwrap();
    let path = here.join("../include/hv_shmem.h");
    if std::env::var_os("PORTAL_BLESS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == made,
        "hv_shmem/include/hv_shmem.h is stale: run PORTAL_BLESS=1 cargo test -p hv_shmem_c --test header"
    );
}
