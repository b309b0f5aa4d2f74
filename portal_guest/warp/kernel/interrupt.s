# Interrupts: each vector has a stub of its own that counts and ends the
# interrupt. In xAPIC mode that is three instructions.

.section .warp.text, "ax"

# Stubs are 32 bytes apart so that the IDT can be laid out by arithmetic.
.balign 32
warp_stubs_xapic:
.set n, 0
.rept 64
    .balign 32
    inc qword ptr [rip + warp_counters + n * 8]
    mov dword ptr [{LAPIC_VA} + 0xB0], 0
    iretq
.set n, n + 1
.endr
.balign 32
warp_stub_timer_xapic:
    inc qword ptr [rip + warp_timer_count]
    mov dword ptr [{LAPIC_VA} + 0xB0], 0
    iretq
.balign 32
warp_stub_other_xapic:
    inc qword ptr [rip + warp_other_count]
    mov dword ptr [{LAPIC_VA} + 0xB0], 0
    iretq

.balign 32
warp_stubs_x2apic:
.set n, 0
.rept 64
    .balign 32
    inc qword ptr [rip + warp_counters + n * 8]
    jmp warp_end_x2apic
.set n, n + 1
.endr
.balign 32
warp_stub_timer_x2apic:
    inc qword ptr [rip + warp_timer_count]
    jmp warp_end_x2apic
.balign 32
warp_stub_other_x2apic:
    inc qword ptr [rip + warp_other_count]
warp_end_x2apic:
    push rax
    push rcx
    push rdx
    mov ecx, 0x80B
    xor eax, eax
    xor edx, edx
    wrmsr
    pop rdx
    pop rcx
    pop rax
    iretq

# A spurious interrupt is not in service, so it gets no EOI.
.balign 32
warp_stub_spurious:
    inc qword ptr [rip + warp_other_count]
    iretq
