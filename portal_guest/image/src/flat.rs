//! From the linked ELF file to the flat image: the bytes of its segments from
//! 1 MiB on, and page rights from its program headers.
//!
//! Each 4 KiB page of the first 4 MiB behind the kernel gets the rights of the
//! segment that covers it (code read-only, everything else not executable); pages
//! between segments stay unmapped (the stack's guard); pages behind the image are
//! the agent's free memory.

use crate::ImageError;
use object::Endianness;
use object::Object;
use object::ObjectSymbol;
use object::elf;
use object::read::elf::ElfFile64;
use object::read::elf::ProgramHeader;

/// Address of the image's first byte (`portal_boot_abi::IMAGE_GPA`).
const BASE: u64 = 0x10_0000;
/// End of the kernel's own pages, whose rights are fixed in `tables.s`.
const KERNEL_END: u64 = 0x11_0000;
/// End of the memory that has 4 KiB page-table entries.
const TABLES_COVER: u64 = 0x40_0000;
/// Where the two last-level page tables lie: the last two pages of the kernel.
const PAGE_TABLE: u64 = KERNEL_END - 0x2000;
const PAGE: u64 = 0x1000;

const PRESENT_USER: u64 = 0x25;
const WRITABLE_DIRTY: u64 = 0x42;
const NO_EXECUTE: u64 = 1 << 63;

struct Segment {
    start: u64,
    end: u64,
    flags: elf::ProgramFlags,
}

/// The flat image of a linked agent.
///
/// # Errors
/// [`ImageError::Layout`] when the file is not what the linker script makes.
pub fn flat(linked: &[u8]) -> Result<Vec<u8>, ImageError> {
    let wrong = |what: String| ImageError::Layout(what);
    let file = ElfFile64::<Endianness>::parse(linked).map_err(|e| wrong(e.to_string()))?;
    let endian = file.endian();
    if file.entry() != BASE {
        return Err(wrong(format!(
            "entry {:#x} instead of {BASE:#x}",
            file.entry()
        )));
    }
    let mut image = Vec::new();
    let mut segments = Vec::new();
    for header in file.elf_program_headers() {
        if header.p_type(endian) != elf::PT_LOAD {
            continue;
        }
        let start = header.p_vaddr(endian);
        let len = header.p_memsz(endian);
        let end = start
            .checked_add(len)
            .filter(|end| start >= BASE && *end <= TABLES_COVER)
            .ok_or_else(|| wrong(format!("segment of {len:#x} bytes at {start:#x}")))?;
        if len == 0 {
            continue;
        }
        let bytes = header
            .data(endian, linked)
            .map_err(|()| wrong(format!("segment at {start:#x} has no bytes")))?;
        let at = (start - BASE) as usize;
        if image.len() < at + bytes.len() {
            image.resize(at + bytes.len(), 0);
        }
        image[at..at + bytes.len()].copy_from_slice(bytes);
        segments.push(Segment {
            start,
            end,
            flags: header.p_flags(endian),
        });
    }
    let image_end = file
        .symbol_by_name("warp_image_end")
        .map(|symbol| symbol.address())
        .ok_or_else(|| wrong("no symbol warp_image_end".into()))?;
    if (image.len() as u64) < KERNEL_END - BASE {
        return Err(wrong(format!("only {} bytes", image.len())));
    }
    for page in (KERNEL_END..TABLES_COVER).step_by(PAGE as usize) {
        let at = (PAGE_TABLE - BASE + page / PAGE * 8) as usize;
        image[at..at + 8].copy_from_slice(&entry(page, &segments, image_end)?.to_le_bytes());
    }
    Ok(image)
}

/// The page-table entry of the page at `page`.
fn entry(page: u64, segments: &[Segment], image_end: u64) -> Result<u64, ImageError> {
    let mut inside = segments
        .iter()
        .filter(|s| s.start < page + PAGE && s.end > page);
    let Some(segment) = inside.next() else {
        let free = page >= image_end;
        return Ok(if free {
            page | PRESENT_USER | WRITABLE_DIRTY | NO_EXECUTE
        } else {
            0
        });
    };
    if inside.next().is_some() {
        return Err(ImageError::Layout(format!(
            "two segments share the page at {page:#x}"
        )));
    }
    let mut entry = page | PRESENT_USER;
    if segment.flags.contains(elf::PF_W) {
        entry |= WRITABLE_DIRTY;
    }
    if !segment.flags.contains(elf::PF_X) {
        entry |= NO_EXECUTE;
    } else if segment.flags.contains(elf::PF_W) {
        return Err(ImageError::Layout(format!(
            "the segment at {:#x} is writable and executable",
            segment.start
        )));
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENTS: [Segment; 3] = [
        Segment {
            start: 0x11_0000,
            end: 0x11_2800,
            flags: elf::PF_X,
        },
        Segment {
            start: 0x11_3000,
            end: 0x11_3010,
            flags: elf::PF_R,
        },
        Segment {
            start: 0x11_5000,
            end: 0x11_6000,
            flags: elf::PF_W,
        },
    ];

    #[test]
    fn rights_follow_the_segments() {
        let of = |page| entry(page, &SEGMENTS, 0x11_6000).unwrap();
        assert_eq!(of(0x11_2000), 0x11_2025);
        assert_eq!(of(0x11_3000), 0x11_3025 | NO_EXECUTE);
        assert_eq!(of(0x11_4000), 0, "the guard page");
        assert_eq!(of(0x11_5000), 0x11_5067 | NO_EXECUTE);
        assert_eq!(of(0x11_6000), 0x11_6067 | NO_EXECUTE, "free memory");
    }

    #[test]
    fn what_is_writable_is_not_code() {
        let both = [Segment {
            start: 0x11_0000,
            end: 0x11_1000,
            flags: elf::ProgramFlags(3),
        }];
        assert!(entry(0x11_0000, &both, 0x11_1000).is_err());
        let shared = [
            Segment {
                start: 0x11_0000,
                end: 0x11_0800,
                flags: elf::PF_X,
            },
            Segment {
                start: 0x11_0800,
                end: 0x11_1000,
                flags: elf::PF_W,
            },
        ];
        assert!(entry(0x11_0000, &shared, 0x11_1000).is_err());
    }

    #[test]
    fn other_files_are_refused() {
        assert!(matches!(flat(b""), Err(ImageError::Layout(_))));
        assert!(matches!(flat(&[0x7F; 200]), Err(ImageError::Layout(_))));
    }
}
