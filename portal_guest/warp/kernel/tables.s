# Descriptor tables, page tables and the page that ring 3 reads, all laid out at
# link time. The image lies at 10_0000h and `.warp.data` at 10_4000h (linker
# script), so that the split addresses in descriptors are plain arithmetic.

.section .warp.data, "aw"
.globl warp_data
warp_data:

# Page 0: what ring 3 may read (portal_warp::kernel::Info has the same layout).
.globl warp_info
warp_info:
warp_counters:     .fill 64, 8, 0       # +0: interrupts of vectors 40h-7Fh
warp_timer_count:  .quad 0              # +200h
warp_other_count:  .quad 0              # +208h: other vectors, spurious ones
warp_boot_info:    .quad 0              # +210h
warp_apic_id:      .long 0              # +218h
warp_x2apic:       .long 0              # +21Ch
warp_tsc_deadline: .long 0              # +220h
.balign 4096

# Page 1.
.balign 16
warp_gdt:
    .quad 0
    .quad 0x00AF9B000000FFFF            # 08h ring-0 code, 64-bit
    .quad 0x00CF93000000FFFF            # 10h ring-0 data
    .quad 0x00CFF3000000FFFF            # 18h ring-3 data
    .quad 0x00AFFB000000FFFF            # 20h ring-3 code, 64-bit
    .word 103                           # 28h TSS, available
    .word 0x4000 + (warp_tss - warp_data)
    .byte 0x10, 0x89, 0, 0
    .long 0, 0
warp_gdt_end:
.balign 16
warp_gdt_pointer:
    .word warp_gdt_end - warp_gdt - 1
    .quad warp_gdt
.balign 16
warp_idt_xapic_pointer:
    .word 4095
    .quad warp_idt_xapic
.balign 16
warp_idt_x2apic_pointer:
    .word 4095
    .quad warp_idt_x2apic
.balign 16
warp_tss:
    .long 0
    .quad warp_stack_top                # RSP0
    .quad 0, 0, 0
    .quad warp_stack_double_fault_top   # IST1: #DF
    .quad warp_stack_nmi_top            # IST2: NMI, #MC
    .fill 5, 8, 0
    .quad 0
    .word 0, 104                        # no I/O permission bitmap
warp_dying: .long 0
.balign 4096

# Pages 2 and 3: stacks.
    .fill 4096, 1, 0
warp_stack_top:
    .fill 2048, 1, 0
warp_stack_double_fault_top:
    .fill 2048, 1, 0
warp_stack_nmi_top:

# Pages 4 and 5: the two IDTs.
.macro gate handler, ist=0, type=0x8E
    .word \handler - warp_entry
    .word 0x08
    .byte \ist, \type
    .word 0x10
    .long 0, 0
.endm

.macro idt mode
    .set n, 0
    .rept 32
        .if n == 8
        gate warp_exceptions+n*16, 1
        .elseif n == 6
        gate warp_invalid_opcode
        .elseif n == 2 || n == 18
        gate warp_exceptions+n*16, 2
        .else
        gate warp_exceptions+n*16
        .endif
        .set n, n + 1
    .endr
    .rept 32
        gate warp_stub_other_\mode
    .endr
    .set n, 0
    .rept 64
        gate warp_stubs_\mode+n*32
        .set n, n + 1
    .endr
    gate warp_syscall, 0, 0xEE          # 80h, open to ring 3
    gate warp_stub_timer_\mode          # 81h
    .rept 125
        gate warp_stub_other_\mode
    .endr
    gate warp_stub_spurious             # FFh
.endm
.balign 4096
warp_idt_xapic:
    idt xapic
warp_idt_x2apic:
    idt x2apic

# Page tables: identity for the first GiB and the devices below 4 GiB (the rest
# is the VMM's), but for two pages below 1 MiB that show ring 3 the kernel's info page and ring 0 the local APIC's registers within reach of a
# 32-bit displacement. Bits: 1 present, 2 writable, 4 ring 3, 18h uncached,
# 20h/40h accessed/dirty, 80h large, 63 no execution.
.section .warp.tables, "aw"
.balign 4096
.globl warp_pml4
warp_pml4:
    .quad warp_pdpt + 0x27
    .fill 511, 8, 0
warp_pdpt:
    .quad warp_pd_low + 0x27
    .fill 511, 8, 0                     # filled at entry, see entry.s
warp_pd_low:
    .quad warp_pt_low + 0x27
    .quad warp_pt_low + 0x1027
    .set n, 2
    .rept 510
    .quad (n << 21) + 0x80000000000000E7
    .set n, n + 1
    .endr
warp_pd_devices:
    .set n, 0
    .rept 257                           # the 32-bit BAR window and the ECAM
    .quad 0xC0000000 + (n << 21) + 0x80000000000000FF
    .set n, n + 1
    .endr
    .fill 255, 8, 0
# 4 KiB pages of the first 4 MiB. Entries of the image and the RAM behind it are
# filled in by portal_warp_image from the program headers of the linked file.
warp_pt_low:
    .quad 0, 0
    .set n, 2
    .rept 9                             # BootInfo, command line
    .quad (n << 12) + 0x8000000000000025
    .set n, n + 1
    .endr
    .fill 0xF0 - 11, 8, 0
    .quad warp_info + 0x8000000000000025
    .quad {LAPIC_GPA} + 0x800000000000007B
    .fill 0x100 - 0xF2, 8, 0
    .set n, 0x100
    .rept 4                             # kernel text
    .quad (n << 12) + 0x21
    .set n, n + 1
    .endr
    .rept 6                             # kernel data
    .quad (n << 12) + 0x8000000000000063
    .set n, n + 1
    .endr
    .fill 1024 - 0x10A, 8, 0
