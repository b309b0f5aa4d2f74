//! The kernel's file and the initrd into RAM, by `linux-loader`.
#![expect(
    unsafe_code,
    reason = "the guest's RAM in the type that linux-loader takes"
)]

use super::HIGH_MEMORY_GPA;
use super::LinuxBoot;
use super::PAGE;
use super::shown;
use crate::VmmError;
use crate::boot::GuestRam;
use linux_loader::loader::BzImage;
use linux_loader::loader::Elf;
use linux_loader::loader::KernelLoader as _;
use linux_loader::loader::bootparam::XLF_KERNEL_64;
use linux_loader::loader::bootparam::setup_header;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::path::Path;
use vm_memory::Bytes as _;
use vm_memory::GuestAddress;
use vm_memory::GuestMemoryMmap;
use vm_memory::GuestRegionMmap;
use vm_memory::MmapRegion;

/// How an ELF file begins.
const ELF_MAGIC: [u8; 4] = *b"\x7FELF";
/// Where in the protected-mode part of a bzImage the 64-bit entry lies.
const ENTRY_64: u64 = 0x200;
/// Bytes of a sector, and sectors of the real-mode part when the header says 0.
const SECTOR: u64 = 512;
const SETUP_SECTORS: u8 = 4;
/// Least boot protocol with a 64-bit entry.
const PROTOCOL_64: u16 = 0x20C;

/// A kernel in RAM.
pub(super) struct Loaded {
    /// Its entry in 64-bit mode.
    pub(super) entry: u64,
    /// First byte that it does not use before it has read the memory map.
    pub(super) end: u64,
    /// The header of a bzImage.
    pub(super) header: Option<setup_header>,
}

/// Loads the kernel.
///
/// # Errors
/// [`VmmError::Config`]: no file, no kernel, cut short, too large.
pub(super) fn load(boot: &LinuxBoot<'_>, ram: &GuestRam) -> Result<Loaded, VmmError> {
    let path = &boot.image.kernel;
    let refuse = |limit: String| boot.config("kernel", shown(path), limit);
    let unreadable = |error: io::Error| refuse(format!("which cannot be read: {error}"));
    let (mut file, len) = open(path).map_err(unreadable)?;
    let low = low_end(ram);
    let room = low.saturating_sub(HIGH_MEMORY_GPA);
    if len > room {
        return Err(refuse(format!(
            "which has {len} bytes; a partition with {} bytes of RAM has room for {room}",
            ram.bytes()
        )));
    }
    let mut magic = [0; 4];
    file.read_exact(&mut magic).map_err(unreadable)?;
    let memory = low_memory(ram, low).map_err(unreadable)?;
    let start = Some(GuestAddress(HIGH_MEMORY_GPA));
    if magic == ELF_MAGIC {
        let loaded = Elf::load(&memory, None, &mut file, start);
        let loaded = loaded.map_err(|error| {
            refuse(format!(
                "no 64-bit kernel that fits into {low:#x} bytes: {error}"
            ))
        })?;
        return Ok(Loaded {
            entry: loaded.kernel_load.0,
            end: loaded.kernel_end,
            header: None,
        });
    }
    let loaded = BzImage::load(&memory, None, &mut file, start)
        .map_err(|error| refuse(format!("neither a bzImage nor an ELF kernel: {error}")))?;
    let header = loaded.setup_header.unwrap_or_default();
    let (version, flags) = (header.version, header.xloadflags);
    if version < PROTOCOL_64 || flags & XLF_KERNEL_64 == 0 {
        return Err(refuse("a kernel without a 64-bit entry".to_owned()));
    }
    let sectors = match header.setup_sects {
        0 => SETUP_SECTORS,
        sectors => sectors,
    };
    let whole = (u64::from(sectors) + 1) * SECTOR + u64::from(header.syssize) * 16;
    if len < whole {
        return Err(refuse(format!(
            "cut short: it has {len} bytes, its header says {whole}"
        )));
    }
    // The kernel unpacks itself to its preferred address.
    let needs = header.pref_address.saturating_add(header.init_size.into());
    if needs > low {
        return Err(boot.config(
            "ram",
            format!("{} bytes", ram.bytes()),
            format!("too little: kernel {} needs {needs} bytes", shown(path)),
        ));
    }
    Ok(Loaded {
        entry: loaded.kernel_load.0.saturating_add(ENTRY_64),
        end: loaded.kernel_end.max(needs),
        header: Some(header),
    })
}

/// Loads the initrd as high as it may lie below `top`; returns its address and
/// length.
///
/// # Errors
/// [`VmmError::Config`]: no file, empty, too large.
pub(super) fn load_initrd(
    boot: &LinuxBoot<'_>,
    path: &Path,
    ram: &GuestRam,
    kernel_end: u64,
    top: u64,
) -> Result<(u64, u64), VmmError> {
    let refuse = |limit: String| boot.config("initrd", shown(path), limit);
    let unreadable = |error: io::Error| refuse(format!("which cannot be read: {error}"));
    let (mut file, len) = open(path).map_err(unreadable)?;
    let low = low_end(ram);
    let top = top.min(low);
    let room = top.saturating_sub(kernel_end.next_multiple_of(PAGE));
    let start = top.checked_sub(len).map(|start| start & !(PAGE - 1));
    let start = start.filter(|start| *start >= kernel_end && len > 0);
    let start = start.ok_or_else(|| {
        refuse(format!(
            "which has {len} bytes; beside the kernel, a partition with {} bytes of RAM has room \
             for 1 to {room}",
            ram.bytes()
        ))
    })?;
    let memory = low_memory(ram, low).map_err(unreadable)?;
    let size = usize::try_from(len).map_err(|error| unreadable(io::Error::other(error)))?;
    memory
        .read_exact_volatile_from(GuestAddress(start), &mut file, size)
        .map_err(|error| unreadable(io::Error::other(error)))?;
    Ok((start, len))
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = File::open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    Ok((file, found.len()))
}

/// End of the RAM below 4 GiB.
fn low_end(ram: &GuestRam) -> u64 {
    ram.ranges().next().map_or(0, |(_, range)| range.len())
}

/// The RAM below 4 GiB, in the type that the loader takes. To be dropped before
/// `ram` is.
fn low_memory(ram: &GuestRam, len: u64) -> io::Result<GuestMemoryMmap> {
    let (_, range) = ram.ranges().next().ok_or(io::ErrorKind::InvalidInput)?;
    let size = usize::try_from(len).map_err(io::Error::other)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: `range` keeps `size` bytes from its first mapped readable and writable;
    // the window is not owned, and both of its users drop it before they return.
    let window =
        unsafe { MmapRegion::build_raw(range.as_ptr(), size, protection, libc::MAP_PRIVATE) };
    let region = GuestRegionMmap::new(window.map_err(io::Error::other)?, GuestAddress(0));
    let region = region.ok_or(io::ErrorKind::InvalidInput)?;
    GuestMemoryMmap::from_regions(vec![region]).map_err(io::Error::other)
}
