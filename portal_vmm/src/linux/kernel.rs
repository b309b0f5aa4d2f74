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
use std::io::Seek as _;
use std::path::Path;
use vm_memory::ByteValued as _;
use vm_memory::Bytes as _;
use vm_memory::GuestAddress;
use vm_memory::GuestMemoryMmap;
use vm_memory::GuestRegionMmap;
use vm_memory::MmapRegion;

/// How a 64-bit little-endian ELF file begins.
const ELF_64: [u8; 6] = *b"\x7FELF\x02\x01";
/// Where the header of a bzImage lies in its file.
const HEADER_AT: usize = 0x1F1;
const HEADER_END: usize = HEADER_AT + size_of::<setup_header>();
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

/// What a kernel's file says of itself.
pub(super) struct Found {
    file: File,
    /// The header of a bzImage; an ELF file has none.
    pub(super) header: Option<setup_header>,
    /// End of what is known to be taken below 4 GiB.
    pub(super) end: u64,
}

/// Opens the kernel's file and checks what can be seen before it is loaded, for a
/// partition whose RAM below 4 GiB ends at `low`.
///
/// # Errors
/// [`VmmError::Config`]: no file, no kernel, cut short, too large.
pub(super) fn inspect(boot: &LinuxBoot<'_>, low: u64) -> Result<Found, VmmError> {
    let path = &boot.image.kernel;
    let refuse = |limit: String| boot.config("kernel", shown(path), limit);
    let unreadable = |error: io::Error| refuse(format!("which cannot be read: {error}"));
    let (mut file, len) = open(path).map_err(unreadable)?;
    let room = low.saturating_sub(HIGH_MEMORY_GPA);
    if len > room {
        return Err(refuse(format!(
            "which has {len} bytes; with this much RAM there is room for {room}"
        )));
    }
    let mut start = [0; HEADER_END];
    let got = read_start(&mut file, &mut start).map_err(unreadable)?;
    let end = HIGH_MEMORY_GPA.saturating_add(len);
    if start.starts_with(&ELF_64) {
        let header = None;
        return Ok(Found { file, header, end });
    }
    let header = start.get(HEADER_AT..).map(setup_header::from_slice);
    let header = header.flatten().filter(|_| got == HEADER_END);
    let header = header.filter(|header| header.header == super::HEADER_MAGIC);
    let Some(header) = header.copied() else {
        return Err(refuse("neither a bzImage nor a 64-bit ELF file".to_owned()));
    };
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
        let limit = format!("too little: kernel {} needs {needs} bytes", shown(path));
        return Err(boot.config("ram", format!("{low} bytes below 4 GiB"), limit));
    }
    Ok(Found {
        file,
        header: Some(header),
        end: end.max(needs),
    })
}

/// As many bytes as there are, up to `to`; leaves the file at its start.
fn read_start(file: &mut File, to: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while let Some(rest) = to.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.rewind()?;
    Ok(got)
}

/// Loads the kernel.
///
/// # Errors
/// As [`inspect`], and what `linux-loader` finds.
pub(super) fn load(boot: &LinuxBoot<'_>, ram: &GuestRam) -> Result<Loaded, VmmError> {
    let path = &boot.image.kernel;
    let refuse = |limit: String| boot.config("kernel", shown(path), limit);
    let low = low_end(ram);
    let mut found = inspect(boot, low)?;
    let memory =
        low_memory(ram, low).map_err(|error| refuse(format!("which cannot be loaded: {error}")))?;
    let start = Some(GuestAddress(HIGH_MEMORY_GPA));
    let Some(header) = found.header else {
        let loaded = Elf::load(&memory, None, &mut found.file, start);
        let loaded = loaded.map_err(|error| {
            refuse(format!(
                "no kernel that fits into {low:#x} bytes of RAM: {error}"
            ))
        })?;
        return Ok(Loaded {
            entry: loaded.kernel_load.0,
            end: loaded.kernel_end,
            header: None,
        });
    };
    let loaded = BzImage::load(&memory, None, &mut found.file, start)
        .map_err(|error| refuse(format!("which cannot be loaded: {error}")))?;
    Ok(Loaded {
        entry: loaded.kernel_load.0.saturating_add(ENTRY_64),
        end: loaded.kernel_end.max(found.end),
        header: Some(loaded.setup_header.unwrap_or(header)),
    })
}

/// Opens the initrd's file and finds the highest place for it below `top`: the
/// file, its address and its length.
///
/// # Errors
/// [`VmmError::Config`]: no file, empty, too large.
pub(super) fn place_initrd(
    boot: &LinuxBoot<'_>,
    path: &Path,
    kernel_end: u64,
    top: u64,
) -> Result<(File, u64, u64), VmmError> {
    let refuse = |limit: String| boot.config("initrd", shown(path), limit);
    let (file, len) =
        open(path).map_err(|error| refuse(format!("which cannot be read: {error}")))?;
    let room = top.saturating_sub(kernel_end.next_multiple_of(PAGE));
    let start = top.checked_sub(len).map(|start| start & !(PAGE - 1));
    let start = start.filter(|start| *start >= kernel_end && len > 0);
    let start = start.ok_or_else(|| {
        refuse(format!(
            "which has {len} bytes; with this much RAM there is room for 1 to {room} beside the \
             kernel"
        ))
    })?;
    Ok((file, start, len))
}

/// Loads the initrd as high as it may lie below `top`; returns its address and
/// length.
///
/// # Errors
/// As [`place_initrd`], and when it cannot be read.
pub(super) fn load_initrd(
    boot: &LinuxBoot<'_>,
    path: &Path,
    ram: &GuestRam,
    kernel_end: u64,
    top: u64,
) -> Result<(u64, u64), VmmError> {
    let unreadable = |error: io::Error| {
        boot.config(
            "initrd",
            shown(path),
            format!("which cannot be read: {error}"),
        )
    };
    let low = low_end(ram);
    let (mut file, start, len) = place_initrd(boot, path, kernel_end, top.min(low))?;
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
