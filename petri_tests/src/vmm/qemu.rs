//! Stock QEMU: q35 with direct boot, KVM inside L1 and TCG outside of it.
//!
//! It has no ivshmem v2, and its ivshmem v1 has no INTx.

use super::GuestFiles;
use super::Inspected;
use super::Running;
use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::guest::Device;
use crate::lab::Lab;
use crate::process::Process;
use crate::region::Region;
use crate::region::Source;
use std::fs;
use std::process::Command;

pub(super) fn start(lab: &Lab, files: &GuestFiles<'_>, regions: &[Region]) -> Passed<Running> {
    let guest = files.guest;
    let mut qemu = Command::new(&lab.programs.debian.qemu);
    if lab.inside {
        qemu.args(["-L", crate::programs::INSIDE, "-cpu", "host"]);
        qemu.args(["-accel", "kvm"]);
    } else {
        qemu.args(["-cpu", "max", "-accel", "tcg,thread=multi"]);
    }
    let has_pmem = |d: &Device| matches!(d, Device::Pmem { .. });
    let room = match guest.devices.iter().any(has_pmem) {
        true => ",slots=4,maxmem=16G",
        false => "",
    };
    qemu.args(["-M", "q35", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-monitor", "none"])
        .args(["-smp", &guest.cpus.to_string()])
        .args(["-m", &format!("{}M{room}", guest.ram_mib)])
        .arg("-kernel")
        .arg(&lab.programs.debian.guest_kernel.image)
        .arg("-initrd")
        .arg(&files.initrd)
        .args(["-append", &files.kernel_command_line()])
        .arg("-serial")
        .arg(format!("file:{}", files.console.display()));
    if !guest.reboots {
        qemu.arg("-no-reboot");
    }
    if guest.iommu {
        // Without interrupt remapping: with it, QEMU 7.2 gives ivshmem's vectors no
        // route under KVM ("kvm_irqchip_add_msi_route failed") and none is delivered.
        qemu.args(["-device", "intel-iommu,intremap=off"]);
    }
    for (n, device) in guest.devices.iter().enumerate() {
        match device {
            Device::IvshmemV1 { region } => {
                let region = Region::named(regions, region)?;
                let Source::Served { qemu: socket, .. } = &region.source else {
                    return Err(NotPassed::failed("QEMU joins served regions only"));
                };
                let (socket, vectors) = (socket.display(), region.vectors);
                qemu.args(["-chardev", &format!("socket,path={socket},id=r{n}")]);
                let device = format!("ivshmem-doorbell,chardev=r{n},vectors={vectors}");
                qemu.args(["-device", &device]);
            }
            Device::IvshmemV2 { .. } => {
                return Err(NotPassed::skipped("stock QEMU has no ivshmem v2"));
            }
            Device::PmemRegion { .. } => {
                return Err(NotPassed::skipped("stock QEMU's pmem is a file"));
            }
            Device::Pmem { file, writable } => {
                let size = fs::metadata(file).map_err(NotPassed::of_file(file))?.len();
                let read_only = if *writable { "off" } else { "on" };
                let path = file.display();
                qemu.arg("-object").arg(format!(
                    "memory-backend-file,id=p{n},share=on,mem-path={path},size={size},\
                     readonly={read_only}"
                ));
                qemu.args(["-device", &format!("virtio-pmem-pci,memdev=p{n}")]);
            }
        }
    }
    let name = format!("qemu-{}", guest.name);
    Ok(Running {
        process: Process::start(&name, &mut qemu, &lab.folder)?,
        consoles: vec![files.console()],
        inspected: Inspected::Never,
    })
}
