//! Kernel modules in the order in which they have to be loaded.
//!
//! The package has no `modules.dep`; each module names what it needs in its
//! `.modinfo` section (`depends=a,b`), which never are those that the kernel has built
//! in. Those are listed in `modules.builtin`, a path a line.

use super::LabError;
use super::file_error;
use object::Object as _;
use object::ObjectSection as _;
use std::collections::HashMap;
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// The file with the modules that a kernel has built in.
pub const BUILT_IN: &str = "modules.builtin";

/// The files of `wanted` modules and of all that they need, needed ones first,
/// without those that the kernel has built in.
///
/// # Errors
/// [`LabError::Module`] when one is not below `folder` or cannot be read.
pub fn in_load_order(folder: &Path, wanted: &[&str]) -> Result<Vec<PathBuf>, LabError> {
    let mut files = HashMap::new();
    collect(folder, &mut files)?;
    let built_in = built_in(folder);
    let mut order = Vec::new();
    for name in wanted.iter().map(|name| canonical(name)) {
        if !built_in.contains(&name) {
            add(&name, &files, &mut order)?;
        }
    }
    Ok(order)
}

fn built_in(folder: &Path) -> HashSet<String> {
    let list = fs::read_to_string(folder.join(BUILT_IN)).unwrap_or_default();
    let name = |line: &str| Some(canonical(line.rsplit('/').next()?.strip_suffix(".ko")?));
    list.lines().filter_map(name).collect()
}

/// `-` and `_` are the same in a module's name.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn collect(folder: &Path, files: &mut HashMap<String, PathBuf>) -> Result<(), LabError> {
    for entry in fs::read_dir(folder).map_err(file_error(folder))?.flatten() {
        let path = entry.path();
        // Not through links: `build` leads out of the tree.
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            collect(&path, files)?;
        } else if let Some(name) = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_suffix(".ko"))
        {
            files.insert(canonical(name), path);
        }
    }
    Ok(())
}

fn add(
    name: &str,
    files: &HashMap<String, PathBuf>,
    order: &mut Vec<PathBuf>,
) -> Result<(), LabError> {
    let error = |why: &str| LabError::Module {
        name: name.to_owned(),
        why: why.to_owned(),
    };
    let file = files.get(name).ok_or_else(|| error("not in the package"))?;
    if order.contains(file) {
        return Ok(());
    }
    let bytes = fs::read(file).map_err(file_error(file))?;
    let elf = object::File::parse(&*bytes).map_err(|_| error("no ELF file"))?;
    let info = elf
        .section_by_name(".modinfo")
        .and_then(|s| s.data().ok())
        .ok_or_else(|| error("no .modinfo section"))?;
    for line in info.split(|b| *b == 0) {
        let Some(needs) = line.strip_prefix(b"depends=") else {
            continue;
        };
        let needs = String::from_utf8_lossy(needs);
        for need in needs.split(',').filter(|n| !n.is_empty()) {
            add(&canonical(need), files, order)?;
        }
    }
    order.push(file.clone());
    Ok(())
}
