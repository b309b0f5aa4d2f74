//! Portal's own VMM: `portal run` with a configuration of all guests.

use super::GuestFiles;
use super::Running;
use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::guest::Device;
use crate::lab::Lab;
use crate::process::Process;
use crate::region::Region;
use crate::region::Source;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

pub(super) fn start(lab: &Lab, guests: &[GuestFiles<'_>], regions: &[Region]) -> Passed<Running> {
    let names: Vec<&str> = guests.iter().map(|g| g.guest.name.as_str()).collect();
    let name = format!("portal-{}", names.join("-"));
    let path = lab.folder.join(format!("{name}.toml"));
    let text = configuration(&lab.programs.debian.guest_kernel.image, guests, regions)?;
    fs::write(&path, text).map_err(NotPassed::of_file(&path))?;
    let mut portal = Command::new(&lab.programs.portal);
    portal.arg("run").arg(&path);
    Ok(Running {
        process: Process::start(&name, &mut portal, &lab.folder)?,
        consoles: guests.iter().map(GuestFiles::console).collect(),
    })
}

fn configuration(kernel: &Path, guests: &[GuestFiles<'_>], regions: &[Region]) -> Passed<String> {
    let mut text = String::new();
    for region in regions {
        let _ = writeln!(text, "[[region]]\nname = {:?}", region.name);
        let _ = match &region.source {
            Source::Own { size, peers } => writeln!(text, "size = {size}\npeers = {peers}"),
            Source::Served { portal, .. } => writeln!(text, "switchboard = {portal:?}"),
        };
    }
    for files in guests {
        let guest = files.guest;
        let _ = writeln!(
            text,
            "[[partition]]\nname = {:?}\nvcpus = {}\nram = \"{} MiB\"\nkernel = {kernel:?}\n\
             initrd = {:?}\ncmdline = {:?}\nconsole = \"file:{}\"",
            guest.name,
            guest.cpus,
            guest.ram_mib,
            files.initrd,
            files.kernel_command_line(),
            files.console.display(),
        );
        if guest.iommu {
            text.push_str("iommu = true\n");
        }
        for device in &guest.devices {
            let _ = writeln!(text, "[[partition.device]]");
            let _ = match device {
                Device::IvshmemV1 { region } => {
                    let vectors = Region::named(regions, region)?.vectors;
                    writeln!(
                        text,
                        "kind = \"ivshmem\"\nregion = {region:?}\nvectors = {vectors}"
                    )
                }
                Device::IvshmemV2 { region } => {
                    let vectors = Region::named(regions, region)?.vectors;
                    writeln!(
                        text,
                        "kind = \"ivshmem2\"\nregion = {region:?}\nvectors = {vectors}"
                    )
                }
                Device::Pmem { file, writable } => {
                    let access = if *writable { "rw" } else { "ro" };
                    writeln!(
                        text,
                        "kind = \"pmem\"\npath = {file:?}\naccess = {access:?}"
                    )
                }
            };
        }
    }
    Ok(text)
}
