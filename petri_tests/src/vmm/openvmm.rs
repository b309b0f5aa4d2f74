//! OpenVMM with a direct Linux boot, inside L1: one that `openvmm_portal` was put
//! into (the Guide's chapter on OpenVMM).
//!
//! A PCIe port has no INTx, so a guest hears doorbells by MSI-X or looks for itself.

use super::GuestFiles;
use super::Running;
use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::guest::Device;
use crate::lab::Lab;
use crate::process::Process;
use crate::region::Region;
use crate::region::Source;
use std::process::Command;

pub(super) fn start(lab: &Lab, files: &GuestFiles<'_>, regions: &[Region]) -> Passed<Running> {
    let guest = files.guest;
    let Some(program) = &lab.programs.openvmm else {
        return Err(NotPassed::skipped("PORTAL_OPENVMM names no openvmm"));
    };
    let reset = if guest.reboots { "reset" } else { "exit" };
    // Its console wants a terminal on standard input and gives up on /dev/null.
    let mut openvmm = Command::new("/bin/sh");
    openvmm
        .args(["-c", "exec \"$@\" </dev/console", "sh"])
        .arg(program)
        .args(["--hv", "--single-process", "--kernel"])
        .arg(&lab.programs.debian.guest_kernel.image)
        .arg("--initrd")
        .arg(&files.initrd)
        .args(["-c", &files.kernel_command_line()])
        .args(["-m", &format!("{}MB", guest.ram_mib)])
        .args(["-p", &guest.cpus.to_string()])
        .arg("--com1")
        .arg(format!("file={}", files.console.display()))
        .args(["--guest-shutdown-action", "exit"])
        .args(["--guest-reset-action", reset]);
    if guest.iommu {
        openvmm.args(["--pcie-root-complex", "rc0", "--intel-vtd", "rc0"]);
    }
    for (n, device) in guest.devices.iter().enumerate() {
        let mut option = option(device, regions)?;
        if guest.iommu {
            openvmm.arg("--pcie-root-port").arg(format!("rc0:rp{n}"));
            option.push_str(&format!(",pcie_port=rp{n}"));
        }
        openvmm.arg("--portal").arg(option);
    }
    let name = format!("openvmm-{}", guest.name);
    Ok(Running {
        process: Process::start(&name, &mut openvmm, &lab.folder)?,
        consoles: vec![files.console()],
    })
}

/// A device as `--portal` takes it.
fn option(device: &Device, regions: &[Region]) -> Passed<String> {
    let (region, kind) = match device {
        Device::IvshmemV1 { region } => (region, "ivshmem"),
        Device::IvshmemV2 { region } => (region, "ivshmem2"),
        Device::Pmem { file, writable } => {
            let access = if *writable { "rw" } else { "ro" };
            return Ok(format!("file={},kind=pmem,access={access}", file.display()));
        }
    };
    let region = Region::named(regions, region)?;
    let Source::Served { portal, .. } = &region.source else {
        return Err(NotPassed::failed("OpenVMM joins served regions only"));
    };
    Ok(format!(
        "region={},switchboard={},kind={kind},vectors={}",
        region.name,
        portal.display(),
        region.vectors
    ))
}
