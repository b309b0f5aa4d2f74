//! Portal's own VMM: `portal run` with a configuration of all guests.

use super::GuestFiles;
use super::Inspected;
use super::Running;
use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::ended::check;
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
    let control = lab.sockets.join(format!("{name}.control"));
    let mut portal = Command::new(&lab.programs.portal);
    portal.arg("run").arg("--control").arg(&control).arg(&path);
    Ok(Running {
        process: Process::start(&name, &mut portal, &lab.folder)?,
        consoles: guests.iter().map(GuestFiles::console).collect(),
        inspected: Inspected::By(control),
    })
}

/// Starts it with a region and a device of it, which a `;` separates, and a guest that
/// has only a kernel and gets nowhere.
pub(crate) fn bare(lab: &Lab, name: &str, console: &Path, keys: &str) -> Passed<Process> {
    let (region, device) = keys.split_once(';').unwrap_or((keys, ""));
    let kernel = &lab.programs.debian.guest_kernel.image;
    let console = console.display();
    let text = format!(
        "[[region]]\n{region}\n[[partition]]\nname = \"guest\"\nkernel = {kernel:?}\n\
         cmdline = \"console=ttyS0 panic=-1\"\nconsole = \"file:{console}\"\n\
         [[partition.device]]\n{device}\n"
    );
    let path = lab.folder.join(format!("{name}.toml"));
    fs::write(&path, text).map_err(NotPassed::of_file(&path))?;
    let mut portal = Command::new(&lab.programs.portal);
    portal.args(["run", "--until-done"]).arg(&path);
    Process::start(name, &mut portal, &lab.folder)
}

/// What `portal inspect` says of a guest's first device.
pub(super) fn inspect(lab: &Lab, control: &Path, guest: &str) -> Passed<String> {
    let mut portal = Command::new(&lab.programs.portal);
    portal
        .args(["inspect", &format!("partitions/{guest}/devices")])
        .arg("--socket")
        .arg(control);
    let mut process = Process::start(&format!("inspect-{guest}"), &mut portal, &lab.folder)?;
    let status = process.wait(lab.until)?;
    let said = process.output();
    check(status.success(), || format!("portal inspect: {said}"))?;
    Ok(said)
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
                        "kind = \"ivshmem\"\nregion = {region:?}\nvectors = {vectors}\n\
                         denied_writes = \"drop\""
                    )
                }
                Device::IvshmemV2 { region, writable } => {
                    let vectors = Region::named(regions, region)?.vectors;
                    let access = if *writable { "rw" } else { "ro" };
                    writeln!(
                        text,
                        "kind = \"ivshmem2\"\nregion = {region:?}\nvectors = {vectors}\n\
                         access = {access:?}"
                    )
                }
                Device::PmemRegion { region, writable } => {
                    let access = if *writable { "rw" } else { "ro" };
                    writeln!(
                        text,
                        "kind = \"pmem\"\nregion = {region:?}\naccess = {access:?}"
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
