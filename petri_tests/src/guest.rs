//! A stock Debian guest: what is on its RAM disk, what it runs, what it said.
//!
//! A guest has one serial port. Its init loads modules, says `##up`, runs its
//! script, says `##done` and powers off. Each step of the script is framed by
//! `##begin NAME` and `##end NAME STATUS`, so that tests read results from the
//! console of any VMM alike.

use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::lab::Initramfs;
use crate::lab::in_load_order;
use crate::programs::Programs;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// What guests have loaded unless they say otherwise.
const MODULES: &[&str] = &["uio_pci_generic"];

/// A device of a guest.
#[derive(Debug, Clone)]
pub enum Device {
    /// ivshmem v1 with doorbells, on a region that a switchboard serves or that the
    /// VMM makes itself.
    IvshmemV1 {
        /// The region's name.
        region: String,
    },
    /// ivshmem v2 on such a region.
    IvshmemV2 {
        /// The region's name.
        region: String,
        /// Whether the guest may write its own section and the common one.
        writable: bool,
    },
    /// virtio-pmem on such a region, whole.
    PmemRegion {
        /// The region's name.
        region: String,
        /// Whether the guest may write.
        writable: bool,
    },
    /// virtio-pmem on a file of the machine that runs the VMM.
    Pmem {
        /// The file.
        file: PathBuf,
        /// Whether the guest may write.
        writable: bool,
    },
}

/// What it takes for a guest to go on later in another process, where a VMM can save.
#[derive(Debug, Clone)]
pub struct Saved {
    /// The file that has its RAM.
    pub ram: PathBuf,
    /// The folder with the rest of it, to start from; else it boots.
    pub from: Option<PathBuf>,
    /// Which peer of its regions it asks to be.
    pub peer: Option<u16>,
}

/// A guest to be started.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Name in files and messages.
    pub name: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// RAM in MiB.
    pub ram_mib: u32,
    /// Its devices, in the order in which the VMM gets them.
    pub devices: Vec<Device>,
    /// Whether a reset starts it again; else it ends the VMM.
    pub reboots: bool,
    /// An IOMMU, where the VMM can give one: for VFIO.
    pub iommu: bool,
    /// What it is saved to and comes from, if it is.
    pub saved: Option<Saved>,
    /// The rate of the processor's clock in kHz, for a guest that is to read that one
    /// and none of its VMM's.
    pub tsc_khz: Option<u32>,
    modules: Vec<String>,
    script: String,
}

impl Guest {
    /// A guest with one CPU, 256 MiB and nothing to do.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            cpus: 1,
            ram_mib: 256,
            devices: Vec::new(),
            reboots: false,
            iommu: false,
            saved: None,
            tsc_khz: None,
            modules: MODULES.iter().map(|&m| m.to_owned()).collect(),
            script: String::new(),
        }
    }

    /// With a device more.
    #[must_use]
    pub fn device(mut self, device: Device) -> Self {
        self.devices.push(device);
        self
    }

    /// With ivshmem v1 on `region`.
    #[must_use]
    pub fn ivshmem(self, region: &str) -> Self {
        self.device(Device::IvshmemV1 {
            region: region.to_owned(),
        })
    }

    /// With these modules loaded too.
    #[must_use]
    pub fn modules(mut self, names: &[&str]) -> Self {
        self.modules.extend(names.iter().map(|&n| n.to_owned()));
        self
    }

    /// With a step more: `command` for the shell, ended after `seconds`.
    #[must_use]
    pub fn step(mut self, name: &str, seconds: u64, command: &str) -> Self {
        let quoted = command.replace('\'', r"'\''");
        let _ = writeln!(self.script, "step {name} {seconds} '{quoted}'");
        self
    }

    /// With a line of the init script itself: not framed, no deadline.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.script.push_str(line);
        self.script.push('\n');
        self
    }

    /// Writes its RAM disk.
    ///
    /// # Errors
    /// [`NotPassed::Failed`] when a file cannot be read or written.
    pub fn write_initrd(&self, programs: &Programs, to: &Path) -> Passed {
        let failed = |error: crate::lab::LabError| NotPassed::failed(error);
        let mut files = Initramfs::with_busybox(&programs.debian.busybox).map_err(failed)?;
        files
            .copy("bin/portal-guest", &programs.portal_guest)
            .map_err(failed)?;
        let names: Vec<&str> = self.modules.iter().map(String::as_str).collect();
        let mut load = String::new();
        for file in in_load_order(&programs.debian.guest_kernel.modules, &names).map_err(failed)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            files
                .copy(&format!("modules/{name}"), &file)
                .map_err(failed)?;
            let _ = writeln!(load, "insmod /modules/{name} || echo cannot load {name}");
        }
        files.file("init", format!("{INIT}{load}{STEPS}{}{END}", self.script));
        files.write(to).map_err(failed)
    }
}

const INIT: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
echo '##up'
";

const STEPS: &str = "step() {
echo \"##begin $1\"
timeout \"$2\" sh -c \"$3\" 2>&1 </dev/null
echo \"##end $1 $?\"
}
";

/// A change of the terminal's settings waits until all before it is out.
const END: &str = "echo '##done'
stty -echo </dev/console
poweroff -f
";

/// What a guest wrote to its serial port.
#[derive(Debug, Clone)]
pub struct Console {
    file: PathBuf,
}

impl Console {
    /// In this file, which may not be there yet.
    pub const fn new(file: PathBuf) -> Self {
        Self { file }
    }

    /// Everything so far.
    pub fn everything(&self) -> String {
        let bytes = fs::read(&self.file).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// Everything so far that programs wrote: the kernel's lines are taken out, which
    /// may stand in the middle of a program's line.
    pub fn text(&self) -> String {
        without_kernel_lines(&self.everything())
    }

    /// A step's output and exit status, once it has ended.
    pub fn step(&self, name: &str) -> Option<(i32, String)> {
        let text = self.text();
        let (_, after) = text.split_once(&format!("##begin {name}\n"))?;
        let (output, rest) = after.split_once(&format!("##end {name} "))?;
        let (status, _) = rest.split_once('\n')?;
        let status = status.trim().parse().ok()?;
        Some((status, output.trim_end().to_owned()))
    }
}

/// Takes out each `[seconds.microseconds] ...` up to its line's end. The kernel writes
/// such a line in one piece, whatever it comes between.
fn without_kernel_lines(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('[') {
        let (before, line) = rest.split_at(at);
        kept.push_str(before);
        if is_kernel_line(line) {
            rest = line.split_once('\n').map_or("", |(_, after)| after);
        } else {
            kept.push('[');
            rest = &line[1..];
        }
    }
    kept.push_str(rest);
    kept
}

fn is_kernel_line(line: &str) -> bool {
    let time = line
        .strip_prefix('[')
        .and_then(|line| line.split_once("] "));
    let Some((seconds, micros)) = time.and_then(|(time, _)| time.split_once('.')) else {
        return false;
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits(seconds.trim_start_matches(' ')) && digits(micros) && micros.len() == 6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_may_split_a_line_of_a_program() {
        let said = "##begin ping\n{\"count\":2[    8.612190] reboot: Power down\n00,\"a\":[1,2]}\n\
                    [   12.000001] audit: [x] y\n##end ping 0\n##done\n[  13.000000] reb";
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), said).unwrap();
        let console = Console::new(file.path().to_owned());
        let report = "{\"count\":200,\"a\":[1,2]}".to_owned();
        assert_eq!(console.step("ping"), Some((0, report)));
        assert!(console.text().ends_with("##done\n"));
        assert!(console.everything().contains("Power down"));
    }

    #[test]
    fn brackets_of_programs_stay() {
        for line in [
            "[",
            "[] a",
            "[1] a",
            "[1.2] a",
            "[1.2345678] a",
            "[a.123456] ",
            "[.123456] ",
        ] {
            assert_eq!(without_kernel_lines(line), line);
        }
    }
}
