//! `[[partition.device]]`: its kinds, the keys of each, their defaults.

use super::Device;
use super::Place;
use super::reader::Reader;
use super::reader::absent;
use super::reader::choice;
use super::source::Flaw;
use portal_resources::DeniedWrites;
use portal_resources::GuestAccess;
use portal_resources::Mapping;
use std::path::PathBuf;

/// The kinds of devices.
const KINDS: [&str; 4] = ["ivshmem", "ivshmem2", "pmem", "fixed"];
/// Most vectors of an ivshmem device: MSI-X allows 2048, the Windows driver 64.
const VECTORS_MAX: u64 = 64;
/// Fewest vectors of ivshmem v1: the agents ring for rings on 0 and for doorbell
/// tasks on 1.
const VECTORS_MIN: u64 = 2;

/// Reads one device; `None` when it made a flaw that leaves nothing to build.
pub(super) fn device(mut table: Reader<'_, '_>, flaws: &mut Vec<Flaw>) -> Option<Device> {
    let kind = choice(&mut table, "kind", &KINDS, flaws);
    if kind.is_none() && !table.has("kind") {
        let hint = format!("write kind = one of \"{}\"", KINDS.join("\", \""));
        flaws.push(table.missing("kind", &hint));
    }
    // Which keys there are depends on the kind.
    let kind = kind?;
    let region = table.string("region", flaws);
    if kind.value != "pmem" && region.is_none() && !table.has("region") {
        flaws.push(table.missing("region", "name the region: region = \"shared\""));
    }
    let place = match kind.value.as_str() {
        "pmem" => pmem(&mut table, region.is_some(), flaws),
        "fixed" => fixed(&mut table, flaws),
        "ivshmem2" => Some(ivshmem2(&mut table, flaws)),
        _ => Some(ivshmem(&mut table, flaws)),
    };
    table.finish(flaws);
    let place = place?;
    let complete = region.is_some() || matches!(place, Place::Pmem { .. });
    complete.then_some(Device { region, place })
}

fn fixed(table: &mut Reader<'_, '_>, flaws: &mut Vec<Flaw>) -> Option<Place> {
    let mapping = mapping(table, flaws);
    let denied_writes = denied_writes(table, DeniedWrites::Stop, flaws);
    let gpa = table.number("gpa", 0..u64::MAX, flaws);
    if gpa.is_none() && !table.has("gpa") {
        let hint = "write the address: gpa = 0x10_0000_0000";
        flaws.push(table.missing("gpa", hint));
    }
    Some(Place::Fixed {
        gpa: gpa?,
        mapping,
        denied_writes,
    })
}

fn ivshmem(table: &mut Reader<'_, '_>, flaws: &mut Vec<Flaw>) -> Place {
    let vectors = table.number("vectors", VECTORS_MIN..VECTORS_MAX + 1, flaws);
    Place::Ivshmem {
        vectors: vectors.unwrap_or_else(|| absent(table, 2)),
        mapping: mapping(table, flaws),
        denied_writes: denied_writes(table, DeniedWrites::Stop, flaws),
    }
}

fn ivshmem2(table: &mut Reader<'_, '_>, flaws: &mut Vec<Flaw>) -> Place {
    let vectors = table.number("vectors", 1..VECTORS_MAX + 1, flaws);
    Place::Ivshmem2 {
        vectors: vectors.unwrap_or_else(|| absent(table, 2)),
        access: access(table, flaws),
        one_shot: table.flag("one_shot", flaws).is_some_and(|it| it.value),
        denied_writes: denied_writes(table, DeniedWrites::Drop, flaws),
    }
}

/// A region is named outside; here is the other thing that it can be.
fn pmem(table: &mut Reader<'_, '_>, has_region: bool, flaws: &mut Vec<Flaw>) -> Option<Place> {
    let path = table.string("path", flaws);
    let access = access(table, flaws);
    match &path {
        Some(path) if has_region => {
            flaws.push(path.flaw("a pmem device shows a region or a file, not both"));
            return None;
        }
        None if !has_region && !table.has("path") && !table.has("region") => {
            let hint = "name a region, or a file: path = \"disk.img\"";
            flaws.push(table.missing("region", hint));
            return None;
        }
        _ => {}
    }
    Some(Place::Pmem {
        path: path.map(|path| path.map(PathBuf::from)),
        access,
    })
}

fn mapping(table: &mut Reader<'_, '_>, flaws: &mut Vec<Flaw>) -> Mapping {
    let known = ["sectioned", "flat", "read-only"];
    let found = choice(table, "mapping", &known, flaws);
    found.map_or(Mapping::Sectioned, |it| match it.value.as_str() {
        "flat" => Mapping::Flat,
        "read-only" => Mapping::ReadOnly,
        _ => Mapping::Sectioned,
    })
}

fn access(table: &mut Reader<'_, '_>, flaws: &mut Vec<Flaw>) -> GuestAccess {
    let found = choice(table, "access", &["rw", "ro"], flaws);
    found.map_or(GuestAccess::ReadWrite, |it| match it.value.as_str() {
        "ro" => GuestAccess::ReadOnly,
        _ => GuestAccess::ReadWrite,
    })
}

fn denied_writes(
    table: &mut Reader<'_, '_>,
    otherwise: DeniedWrites,
    flaws: &mut Vec<Flaw>,
) -> DeniedWrites {
    let found = choice(table, "denied_writes", &["stop", "drop"], flaws);
    found.map_or(otherwise, |it| match it.value.as_str() {
        "drop" => DeniedWrites::Drop,
        _ => DeniedWrites::Stop,
    })
}
