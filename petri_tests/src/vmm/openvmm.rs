//! OpenVMM with a direct Linux boot, inside L1: one that `openvmm_portal` was put
//! into (the Guide's chapter on OpenVMM).
//!
//! A PCIe port has no INTx, so a guest hears doorbells by MSI-X or looks for itself.

use super::GuestFiles;
use super::Inspected;
use super::Running;
use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::guest::Device;
use crate::lab::Lab;
use crate::process::POLL;
use crate::process::Process;
use crate::process::last_line;
use crate::region::Region;
use crate::region::Source;
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

pub(super) fn start(lab: &Lab, files: &GuestFiles<'_>, regions: &[Region]) -> Passed<Running> {
    let guest = files.guest;
    let Some(program) = &lab.programs.openvmm else {
        return Err(NotPassed::skipped("PORTAL_OPENVMM names no openvmm"));
    };
    let reset = if guest.reboots { "reset" } else { "exit" };
    let mut openvmm = Command::new(program);
    openvmm
        .args(["--single-process", "--kernel"])
        .arg(&lab.programs.debian.guest_kernel.image)
        .arg("--initrd")
        .arg(&files.initrd)
        .args(["-c", &files.kernel_command_line()])
        .args(["-p", &guest.cpus.to_string()])
        .arg("--com1")
        .arg(format!("file={}", files.console.display()))
        .args(["--guest-shutdown-action", "exit"])
        .args(["--guest-reset-action", reset]);
    let mut ram = format!("size={}MB", guest.ram_mib);
    let (mut from, mut peer) = (None, None);
    if let Some(saved) = &guest.saved {
        (from, peer) = (saved.from.as_ref(), saved.peer);
        if from.is_none() {
            ram.push_str(&format!(",file={}", saved.ram.display()));
        }
    }
    openvmm.args(["--memory", &ram]);
    if let Some(from) = from {
        openvmm.arg("--restore-snapshot").arg(from);
    }
    if guest.tsc_khz.is_none() {
        // Linux has no use for the processor's clock where it sees Hyper-V without an
        // invariant one.
        openvmm.arg("--hv");
    }
    if guest.iommu {
        openvmm.args(["--pcie-root-complex", "rc0", "--intel-vtd", "rc0"]);
    }
    for (n, device) in guest.devices.iter().enumerate() {
        let mut option = option(device, regions)?;
        if guest.iommu {
            openvmm.arg("--pcie-root-port").arg(format!("rc0:rp{n}"));
            option.push_str(&format!(",pcie_port=rp{n}"));
        }
        if let Some(peer) = peer {
            option.push_str(&format!(",peer={peer}"));
        }
        openvmm.arg("--portal").arg(option);
    }
    let name = format!("openvmm-{}", guest.name);
    // Its own console is a terminal and nothing else.
    let (keyboard, terminal) = terminal()?;
    let process = Process::start_with(&name, &mut openvmm, &lab.folder, terminal.into())?;
    Ok(Running {
        process,
        consoles: vec![files.console()],
        inspected: Inspected::At(keyboard),
    })
}

/// Starts it with one more `--portal` option, one root port (`rp0`), and a guest that
/// has only a kernel and gets nowhere.
pub(crate) fn bare(lab: &Lab, name: &str, console: &Path, option: &str) -> Passed<Process> {
    let Some(program) = &lab.programs.openvmm else {
        return Err(NotPassed::skipped("PORTAL_OPENVMM names no openvmm"));
    };
    let mut openvmm = Command::new(program);
    openvmm
        .args(["--single-process", "--kernel"])
        .arg(&lab.programs.debian.guest_kernel.image)
        .args(["-c", "console=ttyS0 panic=-1", "-m", "256MB", "-p", "1"])
        .arg("--com1")
        .arg(format!("file={}", console.display()))
        .args(["--guest-reset-action", "exit"])
        .args(["--pcie-root-complex", "rc0", "--pcie-root-port", "rc0:rp0"])
        .args(["--portal", option]);
    let (_keyboard, terminal) = terminal()?;
    Process::start_with(name, &mut openvmm, &lab.folder, terminal.into())
}

/// A new terminal: the end that types, and the end that reads.
fn terminal() -> Passed<(File, OwnedFd)> {
    let failed = |error: Errno| NotPassed::failed(format!("no terminal for openvmm: {error}"));
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let keyboard = rustix::pty::openpt(flags).map_err(failed)?;
    rustix::pty::unlockpt(&keyboard).map_err(failed)?;
    let terminal = rustix::pty::ioctl_tiocgptpeer(&keyboard, flags).map_err(failed)?;
    Ok((keyboard.into(), terminal))
}

/// What OpenVMM's console says of a guest's first device.
pub(super) const INSPECT: &str = "x -r vm/pcie:portal0-portal";

/// Types a line at OpenVMM's console.
pub(super) fn type_line(mut keyboard: &File, line: &str) -> Passed {
    keyboard
        .write_all(format!("{line}\r").as_bytes())
        .map_err(|e| NotPassed::failed(format!("openvmm's terminal: {e}")))
}

/// Types a line at OpenVMM's console; what it says from then on, with a line that has
/// `wanted`.
pub(super) fn typed(
    lab: &Lab,
    process: &mut Process,
    keyboard: &File,
    line: &str,
    wanted: &str,
) -> Passed<String> {
    let before = process.output().len();
    type_line(keyboard, line)?;
    loop {
        let said = process.output();
        let said = without_colours(said.get(before..).unwrap_or_default());
        let line = said.split_once(wanted).map(|(_, after)| after);
        if line.is_some_and(|rest| rest.contains('\n')) {
            return Ok(said);
        }
        if let Some(status) = process.ended() {
            return Err(NotPassed::failed(format!("openvmm ended with {status}")));
        }
        if Instant::now() >= lab.until {
            return Err(NotPassed::failed(format!(
                "openvmm does not say {wanted:?}, but: {}",
                last_line(&said)
            )));
        }
        std::thread::sleep(POLL);
    }
}

/// Takes out what only a terminal reads: `ESC [ ... letter`.
fn without_colours(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |kept, part| {
        let end = part.find(|c: char| c.is_ascii_alphabetic());
        kept + end.map_or("", |end| &part[end + 1..])
    })
}

/// A device as `--portal` takes it.
fn option(device: &Device, regions: &[Region]) -> Passed<String> {
    let (region, kind, writable) = match device {
        Device::IvshmemV1 { region } => (region, "ivshmem", true),
        Device::IvshmemV2 { region, writable } => (region, "ivshmem2", *writable),
        Device::PmemRegion { region, writable } => (region, "pmem", *writable),
        Device::Pmem { file, writable } => {
            let access = if *writable { "rw" } else { "ro" };
            return Ok(format!("file={},kind=pmem,access={access}", file.display()));
        }
    };
    let region = Region::named(regions, region)?;
    let Source::Served { portal, .. } = &region.source else {
        return Err(NotPassed::failed("OpenVMM joins served regions only"));
    };
    let access = if writable { "rw" } else { "ro" };
    let mut option = format!(
        "region={},switchboard={},kind={kind},access={access}",
        region.name,
        portal.display(),
    );
    if kind != "pmem" {
        option.push_str(&format!(",vectors={}", region.vectors));
    }
    Ok(option)
}
