//! Puts a flat 64-bit image and what it needs at its entry into guest RAM: GDT,
//! identity page tables, `BootInfo`s and command line, as `portal_boot_abi` says.
//!
//! Page tables follow the Intel SDM, volume 3, 4.5 (4-level paging).

use crate::VmmError;
use crate::hv::LongModeStart;
use crate::memory::HostRange;
use portal_boot_abi as abi;
use portal_boot_abi::BootInfo;
use std::collections::BTreeSet;

const GIB: u64 = 1 << 30;
const TWO_MIB: u64 = 2 << 20;
const PAGE: u64 = 4096;
/// Entries of one paging structure.
const ENTRIES: u64 = 512;
/// Present, writable, open to ring 3.
const OPEN: u64 = 0b111;
/// A leaf above the last level.
const LARGE: u64 = 1 << 7;
/// Write-through and cache-disable: device registers.
const UNCACHED: u64 = 0b11 << 3;
/// Null, ring-0 code and data, ring-3 data and code (64-bit).
const GDT: [u64; 5] = [
    0,
    0x00AF_9B00_0000_FFFF,
    0x00CF_9300_0000_FFFF,
    0x00CF_F300_0000_FFFF,
    0x00AF_FB00_0000_FFFF,
];
/// Least RAM with which there is room for an image behind the boot tables.
pub(crate) const MIN_RAM: u64 = abi::IMAGE_GPA + 0x10_0000;

/// A partition's RAM at its guest physical addresses.
pub(crate) struct GuestRam {
    low: HostRange,
    high: Option<HostRange>,
}

impl GuestRam {
    /// Splits one host range at the hole below 4 GiB.
    pub(crate) fn new(all: &HostRange) -> Option<Self> {
        let (_, low) = abi::low_ram(all.len());
        Some(Self {
            low: all.part(0, low)?,
            high: match abi::high_ram(all.len()) {
                Some((_, len)) => Some(all.part(low, len)?),
                None => None,
            },
        })
    }

    /// Guest physical address and memory of each range.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u64, &HostRange)> {
        let high = self.high.iter().map(|range| (abi::HIGH_RAM_GPA, range));
        std::iter::once((0, &self.low)).chain(high)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.ranges().map(|(_, range)| range.len()).sum()
    }

    fn at(&self, gpa: u64) -> Option<(&HostRange, u64)> {
        self.ranges().find_map(|(start, range)| {
            let offset = gpa.checked_sub(start)?;
            (offset < range.len()).then_some((range, offset))
        })
    }

    /// Copies into guest RAM; `None` when it does not all lie in one range.
    pub(crate) fn write(&self, gpa: u64, from: &[u8]) -> Option<()> {
        let (range, offset) = self.at(gpa)?;
        range.write(offset, from)
    }

    /// Copies out of guest RAM; `None` as for [`GuestRam::write`].
    pub(crate) fn read(&self, gpa: u64, to: &mut [u8]) -> Option<()> {
        let (range, offset) = self.at(gpa)?;
        range.read(offset, to)
    }
}

/// What is to be booted.
pub(crate) struct FlatBoot<'a> {
    pub(crate) partition: &'a str,
    pub(crate) image: &'a [u8],
    pub(crate) cmdline: &'a str,
    /// Everything but the fields that this module knows better.
    pub(crate) info: BootInfo,
    pub(crate) vcpus: u32,
    /// Guest physical ranges outside RAM that are to be reachable: (start, length).
    pub(crate) windows: &'a [(u64, u64)],
    pub(crate) gib_pages: bool,
}

impl FlatBoot<'_> {
    fn config(&self, field: &'static str, value: String, limit: String) -> VmmError {
        VmmError::Config {
            partition: self.partition.to_owned(),
            field,
            value,
            limit,
        }
    }

    /// Writes everything; returns how each vCPU starts.
    ///
    /// # Errors
    /// [`VmmError::Config`] when the image, the command line or the page tables
    /// do not fit.
    pub(crate) fn load(&self, ram: &GuestRam) -> Result<Vec<LongModeStart>, VmmError> {
        let (_, low) = abi::low_ram(ram.bytes());
        let room = low.saturating_sub(abi::IMAGE_GPA);
        let len = self.image.len() as u64;
        if len == 0 || len > room {
            let limit = format!("must be 1 to {room} bytes with this much RAM");
            return Err(self.config("image", format!("{len} bytes"), limit));
        }
        if self.cmdline.len() > abi::CMDLINE_MAX {
            let limit = format!("must be at most {} bytes", abi::CMDLINE_MAX);
            return Err(self.config("cmdline", format!("{} bytes", self.cmdline.len()), limit));
        }
        let outside = || self.config("ram", format!("{low} bytes"), "too small".to_owned());
        let put = |gpa, bytes: &[u8]| ram.write(gpa, bytes).ok_or_else(outside);

        put(abi::IMAGE_GPA, self.image)?;
        put(abi::CMDLINE_GPA, self.cmdline.as_bytes())?;
        for (index, entry) in (0u64..).zip(GDT) {
            put(abi::GDT_GPA + index * 8, &entry.to_le_bytes())?;
        }
        self.page_tables(ram)?;

        let mut starts = Vec::new();
        for index in 0..self.vcpus {
            let (Some(rdi), Some(rsp)) = (abi::boot_info_gpa(index), abi::boot_stack_top(index))
            else {
                let limit = format!("must be 1 to {}", abi::MAX_VCPUS);
                return Err(self.config("vcpus", self.vcpus.to_string(), limit));
            };
            let info = BootInfo {
                ram_bytes: ram.bytes(),
                vcpu_index: index,
                vcpu_count: self.vcpus,
                image_gpa: abi::IMAGE_GPA,
                image_bytes: len,
                cmdline_gpa: abi::CMDLINE_GPA,
                cmdline_len: self.cmdline.len() as u32,
                ..self.info
            };
            put(rdi, &info.to_bytes())?;
            starts.push(LongModeStart {
                rip: abi::IMAGE_GPA,
                rsp,
                rdi,
                rsi: 0,
                code: abi::SELECTOR_KERNEL_CODE,
                data: abi::SELECTOR_KERNEL_DATA,
                xsave: true,
                cr3: abi::PAGE_TABLES_GPA,
                gdt: abi::GDT_GPA,
                gdt_limit: (size_of_val(&GDT) - 1) as u16,
            });
        }
        Ok(starts)
    }

    /// Identity maps RAM, the devices below 4 GiB and the windows: one root, one
    /// second level (512 GiB), and large pages below that.
    fn page_tables(&self, ram: &GuestRam) -> Result<(), VmmError> {
        let devices = (abi::LOW_RAM_MAX, GIB);
        let mut gibs = BTreeSet::new();
        let ranges = ram.ranges().map(|(start, range)| (start, range.len()));
        for (start, len) in ranges.chain(self.windows.iter().copied()).chain([devices]) {
            let last = start.saturating_add(len).saturating_sub(1);
            if len == 0 || last >= ENTRIES * GIB {
                let limit = format!("must end below {:#x}", ENTRIES * GIB);
                return Err(self.config("address", format!("{start:#x}"), limit));
            }
            gibs.extend(start / GIB..=last / GIB);
        }
        let second = abi::PAGE_TABLES_GPA + PAGE;
        let mut next = second + PAGE;
        let put = |gpa: u64, value: u64| {
            ram.write(gpa, &value.to_le_bytes())
                .ok_or_else(|| self.config("ram", ram.bytes().to_string(), "too small".to_owned()))
        };
        put(abi::PAGE_TABLES_GPA, second | OPEN)?;
        for gib in gibs {
            let start = gib * GIB;
            let kind = if start == devices.0 { UNCACHED } else { 0 };
            if self.gib_pages {
                put(second + gib * 8, start | OPEN | LARGE | kind)?;
                continue;
            }
            if next >= abi::PAGE_TABLES_END {
                let pages = (abi::PAGE_TABLES_END - abi::PAGE_TABLES_GPA) / PAGE - 2;
                let limit = format!("RAM and regions may touch {pages} GiB without 1 GiB pages");
                return Err(self.config("ram", ram.bytes().to_string(), limit));
            }
            put(second + gib * 8, next | OPEN)?;
            let mut table = Vec::with_capacity(PAGE as usize);
            for index in 0..ENTRIES {
                let leaf = (start + index * TWO_MIB) | OPEN | LARGE | kind;
                table.extend_from_slice(&leaf.to_le_bytes());
            }
            ram.write(next, &table).ok_or_else(|| {
                self.config("ram", ram.bytes().to_string(), "too small".to_owned())
            })?;
            next += PAGE;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HostMemory;
    use crate::memory::RamBacking;

    fn ram(bytes: u64) -> GuestRam {
        let memory = HostMemory::new("test RAM", bytes, RamBacking::Anonymous).unwrap();
        GuestRam::new(&memory.range()).unwrap()
    }

    fn boot<'a>(image: &'a [u8], gib_pages: bool, windows: &'a [(u64, u64)]) -> FlatBoot<'a> {
        FlatBoot {
            partition: "test",
            image,
            cmdline: "a=b",
            info: BootInfo::new(),
            vcpus: 2,
            windows,
            gib_pages,
        }
    }

    /// Walks the tables as the processor would; `None` is a page fault.
    fn translate(ram: &GuestRam, cr3: u64, address: u64) -> Option<u64> {
        let entry = |table: u64, index: u64| {
            let mut bytes = [0; 8];
            ram.read(table + index * 8, &mut bytes)?;
            let value = u64::from_le_bytes(bytes);
            (value & 0b111 == OPEN).then_some(value)
        };
        let frame = 0x000F_FFFF_FFFF_F000;
        let second = entry(cr3, address >> 39 & 511)? & frame;
        let third = entry(second, address >> 30 & 511)?;
        if third & LARGE != 0 {
            return Some((third & !(GIB - 1) & frame) + address % GIB);
        }
        let leaf = entry(third & frame, address >> 21 & 511)?;
        assert_ne!(leaf & LARGE, 0);
        Some((leaf & !(TWO_MIB - 1) & frame) + address % TWO_MIB)
    }

    #[test]
    fn tables_are_the_identity_over_what_was_asked_for() {
        let windows = [(abi::WINDOW64_GPA + 5 * GIB, 3 << 20)];
        for gib_pages in [true, false] {
            let ram = ram(4 << 20);
            let starts = boot(&[0xF4], gib_pages, &windows).load(&ram).unwrap();
            assert_eq!(starts.len(), 2);
            let cr3 = starts[0].cr3;
            for address in [0, 0x10_0000, 0xE000_0123, 0xFEE0_0020, windows[0].0 + 12345] {
                assert_eq!(translate(&ram, cr3, address), Some(address), "{address:#x}");
            }
            assert_eq!(translate(&ram, cr3, abi::WINDOW64_GPA), None);
            assert_eq!(translate(&ram, cr3, 1 << 40), None);
        }
    }

    #[test]
    fn each_vcpu_gets_its_own_information_and_stack() {
        let ram = ram(4 << 20);
        let starts = boot(&[0xF4; 100], true, &[]).load(&ram).unwrap();
        assert_ne!(starts[0].rsp, starts[1].rsp);
        let mut bytes = [0; 384];
        ram.read(starts[1].rdi, &mut bytes).unwrap();
        assert_eq!(bytes[32], 1);
        assert_eq!(bytes[36], 2);
        assert_eq!(bytes[56], 100);
        let mut text = [0; 4];
        ram.read(abi::CMDLINE_GPA, &mut text).unwrap();
        assert_eq!(&text, b"a=b\0");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let ram = ram(4 << 20);
        assert!(boot(&[], true, &[]).load(&ram).is_err());
        let huge = vec![0; 4 << 20];
        assert!(boot(&huge, true, &[]).load(&ram).is_err());
        let text = "x".repeat(abi::CMDLINE_MAX + 1);
        let mut long = boot(&[0xF4], true, &[]);
        long.cmdline = &text;
        assert!(long.load(&ram).is_err());
        assert!(boot(&[0xF4], true, &[(1 << 40, 4096)]).load(&ram).is_err());
        assert!(
            boot(&[0xF4], true, &[(u64::MAX - 5, 4096)])
                .load(&ram)
                .is_err()
        );
        let wide = [(abi::WINDOW64_GPA, 64 * GIB), (HIGH, 60 * GIB)];
        const HIGH: u64 = abi::HIGH_RAM_GPA;
        assert!(boot(&[0xF4], false, &wide).load(&ram).is_err());
        assert!(boot(&[0xF4], true, &wide).load(&ram).is_ok());
    }
}
