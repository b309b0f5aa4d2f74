//! Booting an unmodified Linux: what a boot loader and firmware would have left in
//! memory (kernel documentation, `arch/x86/boot.rst`, 64-bit protocol).
//!
//! | part | file |
//! |---|---|
//! | where everything lies | here |
//! | the kernel's file, by `linux-loader` | `kernel` |
//! | memory map | `e820` |
//! | ACPI tables and the description of devices | `acpi`, `dsdt` |
//! | GDT and page tables at entry | `entry` |
//! | an IOMMU, where one is wanted | `iommu` |
//! | power-off and reset | `power` |
//!
//! The kernel's and the initrd's files come from whoever configures the partition:
//! a file that is no kernel or does not fit is an error with its name and limit.
//! Left out: the 16- and 32-bit protocols, PVH, EFI.

mod acpi;
mod dsdt;
mod e820;
mod entry;
pub(crate) mod iommu;
mod kernel;
pub(crate) mod power;

pub(crate) use dsdt::COM1_INPUT;

use crate::VmmError;
use crate::boot::GuestRam;
use crate::hv::LongModeStart;
use linux_loader::loader::bootparam::boot_params;
use linux_loader::loader::bootparam::setup_header;
use std::path::Path;
use std::path::PathBuf;
use vm_memory::ByteValued as _;

/// Where the boot parameters ("zero page") lie.
const BOOT_PARAMS_GPA: u64 = 0x7000;
/// Where the command line lies.
const CMDLINE_GPA: u64 = 0x2_0000;
/// Longest command line of a kernel whose file does not say.
const CMDLINE_DEFAULT_MAX: u32 = 2047;
/// Lowest address of kernels and initrds.
const HIGH_MEMORY_GPA: u64 = 0x10_0000;
/// Highest address of an initrd for kernels whose file does not say.
const INITRD_DEFAULT_MAX: u32 = 0x37FF_FFFF;
const PAGE: u64 = 4096;
/// "A boot loader without a number of its own".
const LOADER_UNDEFINED: u8 = 0xFF;
/// Boot sector's and header's magic numbers, for kernels without a header.
const BOOT_FLAG: u16 = 0xAA55;
const HEADER_MAGIC: u32 = 0x5372_6448;
/// Alignment for kernels without a header: their default.
const KERNEL_ALIGNMENT: u32 = 0x100_0000;

/// A Linux kernel, and an initial RAM file system if it is to have one. The files
/// are opened when the partition is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinuxImage {
    /// A bzImage, or a `vmlinux` ELF file.
    pub kernel: PathBuf,
    /// An initrd or initramfs in a form that the kernel knows.
    pub initrd: Option<PathBuf>,
}

impl LinuxImage {
    /// Checks what can be seen before a partition with `ram` bytes is built: files
    /// that are there, are what they should be, and fit.
    ///
    /// # Errors
    /// [`VmmError::Config`] with field `kernel`, `initrd`, `cmdline` or `ram`.
    pub fn check(&self, partition: &str, cmdline: &str, ram: u64) -> Result<(), VmmError> {
        let boot = LinuxBoot {
            partition,
            image: self,
            cmdline,
            vcpus: 1,
            iommu: false,
        };
        let (_, low) = portal_boot_abi::low_ram(ram);
        let found = kernel::inspect(&boot, low)?;
        let header = found.header.unwrap_or_else(without_header);
        if let Some(path) = &self.initrd {
            kernel::place_initrd(&boot, path, found.end, initrd_top(&header).min(low))?;
        }
        boot.check_cmdline(&header)
    }
}

/// The header of a kernel whose file has none.
fn without_header() -> setup_header {
    setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        kernel_alignment: KERNEL_ALIGNMENT,
        cmdline_size: CMDLINE_DEFAULT_MAX,
        initrd_addr_max: INITRD_DEFAULT_MAX,
        ..setup_header::default()
    }
}

/// First address behind the highest place of an initrd.
fn initrd_top(header: &setup_header) -> u64 {
    u64::from(header.initrd_addr_max) + 1
}

/// What is to be booted.
pub(crate) struct LinuxBoot<'a> {
    pub(crate) partition: &'a str,
    pub(crate) image: &'a LinuxImage,
    pub(crate) cmdline: &'a str,
    pub(crate) vcpus: u32,
    /// Whether there is an IOMMU.
    pub(crate) iommu: bool,
}

impl LinuxBoot<'_> {
    fn config(&self, field: &'static str, value: String, limit: String) -> VmmError {
        VmmError::Config {
            partition: self.partition.to_owned(),
            field,
            value,
            limit,
        }
    }

    fn check_cmdline(&self, header: &setup_header) -> Result<(), VmmError> {
        let most = header.cmdline_size;
        if self.cmdline.len() as u64 > u64::from(most) || self.cmdline.contains('\0') {
            let limit = format!("must be at most {most} bytes, none of them zero");
            return Err(self.config("cmdline", format!("{} bytes", self.cmdline.len()), limit));
        }
        Ok(())
    }

    /// Puts everything into RAM; returns how the first vCPU starts. The others
    /// wait for it to wake them.
    ///
    /// # Errors
    /// [`VmmError::Config`] with field `kernel`, `initrd`, `cmdline` or `ram`.
    pub(crate) fn load(&self, ram: &GuestRam) -> Result<LongModeStart, VmmError> {
        let mut params = boot_params::default();
        let loaded = kernel::load(self, ram)?;
        params.hdr = loaded.header.unwrap_or_else(without_header);
        self.check_cmdline(&params.hdr)?;
        params.hdr.type_of_loader = LOADER_UNDEFINED;
        if let Some(path) = &self.image.initrd {
            let top = initrd_top(&params.hdr);
            let (start, len) = kernel::load_initrd(self, path, ram, loaded.end, top)?;
            // Both lie below 4 GiB, as `top` does.
            params.hdr.ramdisk_image = start as u32;
            params.hdr.ramdisk_size = len as u32;
        }
        params.hdr.cmd_line_ptr = CMDLINE_GPA as u32;
        params.acpi_rsdp_addr = acpi::RSDP_GPA;
        e820::describe(ram, &mut params);

        let put = |gpa, bytes: &[u8]| {
            let limit = "too small for boot tables".to_owned();
            let outside = || self.config("ram", format!("{} bytes", ram.bytes()), limit);
            ram.write(gpa, bytes).ok_or_else(outside)
        };
        put(CMDLINE_GPA, self.cmdline.as_bytes())?;
        put(CMDLINE_GPA + self.cmdline.len() as u64, &[0])?;
        put(BOOT_PARAMS_GPA, params.as_slice())?;
        put(power::RESET_VECTOR_GPA, &power::RESET_VECTOR)?;
        for (gpa, bytes) in acpi::tables(self.vcpus, self.iommu) {
            put(gpa, &bytes)?;
        }
        for (gpa, bytes) in entry::tables() {
            put(gpa, &bytes)?;
        }
        Ok(entry::start(loaded.entry, BOOT_PARAMS_GPA))
    }
}

/// A file's name in errors.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
