//! OpenVMM with a direct Linux boot, inside L1.

use super::GuestFiles;
use super::Running;
use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::lab::Lab;
use crate::process::Process;
use crate::region::Region;
use std::process::Command;

pub(super) fn start(lab: &Lab, files: &GuestFiles<'_>, _regions: &[Region]) -> Passed<Running> {
    let guest = files.guest;
    let Some(program) = &lab.programs.openvmm else {
        return Err(NotPassed::skipped("PORTAL_OPENVMM names no openvmm"));
    };
    if !guest.devices.is_empty() {
        return Err(NotPassed::skipped("this openvmm has no Portal devices"));
    }
    // Its console wants a terminal on standard input and gives up on /dev/null.
    let mut openvmm = Command::new("/bin/sh");
    openvmm
        .args(["-c", "exec \"$@\" </dev/console", "sh"])
        .arg(program)
        .args(["--hv", "--single-process", "--kernel"])
        .arg(&lab.programs.debian.kernel)
        .arg("--initrd")
        .arg(&files.initrd)
        .args(["-c", &files.kernel_command_line()])
        .args(["-m", &format!("{}MB", guest.ram_mib)])
        .args(["-p", &guest.cpus.to_string()])
        .arg("--com1")
        .arg(format!("file={}", files.console.display()));
    let name = format!("openvmm-{}", guest.name);
    Ok(Running {
        process: Process::start(&name, &mut openvmm, &lab.folder)?,
        consoles: vec![files.console()],
    })
}
