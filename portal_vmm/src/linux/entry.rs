//! The processor's tables when the kernel is entered: GDT and identity page tables
//! over the first 4 GiB (`boot.rst`, 64-bit boot protocol: `__BOOT_CS` 10h,
//! `__BOOT_DS` 18h, paging on, interrupts off, RSI = boot parameters).

use crate::hv::LongModeStart;

const GDT_GPA: u64 = 0x500;
/// Null, unused, 64-bit code, data.
const GDT: [u64; 4] = [0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF];
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const ROOT_GPA: u64 = 0x9000;
const PAGE: u64 = 4096;
const TWO_MIB: u64 = 2 << 20;
/// Large pages that cover 4 GiB.
const LEAVES: u64 = 2048;
/// Present, writable.
const OPEN: u64 = 0b11;
/// A leaf above the last level.
const LARGE: u64 = 1 << 7;
/// Top of a stack that the kernel leaves at once.
const STACK_GPA: u64 = 0x8FF0;

/// What lies at which address.
pub(super) fn tables() -> [(u64, Vec<u8>); 2] {
    let bytes = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let third = ROOT_GPA + PAGE;
    let leaves = third + PAGE;
    let mut pages = vec![third | OPEN];
    pages.resize(512, 0);
    pages.extend((0..4).map(|gib| (leaves + gib * PAGE) | OPEN));
    pages.resize(1024, 0);
    pages.extend((0..LEAVES).map(|leaf| (leaf * TWO_MIB) | OPEN | LARGE));
    [(GDT_GPA, bytes(&GDT)), (ROOT_GPA, bytes(&pages))]
}

/// The first vCPU's registers.
pub(super) fn start(rip: u64, boot_params: u64) -> LongModeStart {
    LongModeStart {
        rip,
        rsp: STACK_GPA,
        rdi: 0,
        rsi: boot_params,
        code: CODE,
        data: DATA,
        xsave: false,
        cr3: ROOT_GPA,
        gdt: GDT_GPA,
        gdt_limit: (size_of_val(&GDT) - 1) as u16,
    }
}
