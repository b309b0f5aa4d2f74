# Entry point and one-time set-up of ring 0. The very first byte of the image.
#
# State here: portal_boot_abi, "State at entry". Everything that can be prepared
# at link time is (descriptor tables, page tables), so that only some sixty
# instructions run in ring 0 before the agent does.

.section .warp.text, "ax"
.globl warp_entry
warp_entry:
    cmp dword ptr [rdi + {BOOT_VCPU_INDEX}], 0
    jne warp_park                       # one vCPU works, the others sleep
    mov [rip + warp_boot_info], rdi

    mov ecx, 0xC0000080                 # EFER: NXE
    rdmsr
    or eax, 0x800
    wrmsr

    # The VMM's page directories of everything above 1 GiB stay in use, but not
    # for code: its entries go into this kernel's PDPT with the NX bit.
    cld
    mov rsi, cr3
    mov rsi, [rsi]
    and rsi, -4096
    add rsi, 8
    lea rdi, [rip + warp_pdpt + 8]
    mov ecx, 127
    rep movsq
    lea rax, [rip + warp_pd_devices + 0x27]
    mov [rip + warp_pdpt + 24], rax
    lea rdi, [rip + warp_pdpt + 8]
    mov ecx, 127
    xor eax, eax
2:  repe scasq
    je 3f
    bts qword ptr [rdi - 8], 63
    test ecx, ecx
    jnz 2b
3:
    lea rax, [rip + warp_pml4]
    mov cr3, rax
    lgdt [rip + warp_gdt_pointer]
    mov eax, {SELECTOR_TSS}
    ltr ax
    lea rsp, [rip + warp_stack_top]

    # The legacy PICs stay masked: every interrupt here is an MSI or the timer.
    mov al, 0xFF
    out 0x21, al
    out 0xA1, al

    mov eax, 1                          # CPUID 1 ECX.24: TSC-deadline timer
    cpuid
    shr ecx, 24
    and ecx, 1
    mov [rip + warp_tsc_deadline], ecx
    shl ecx, 18                         # LVT timer mode 10b, else one-shot
    or ecx, {VECTOR_TIMER}
    mov r8d, ecx

    mov ecx, 0x1B                       # IA32_APIC_BASE bit 10: x2APIC mode
    rdmsr
    test eax, 0x400
    jnz 2f

    lidt [rip + warp_idt_xapic_pointer]
    mov dword ptr [{LAPIC_VA} + 0xF0], 0x1FF    # enabled, spurious vector FFh
    mov dword ptr [{LAPIC_VA} + 0x80], 0        # task priority
    mov dword ptr [{LAPIC_VA} + 0x350], 0x10000 # LINT0 masked
    mov dword ptr [{LAPIC_VA} + 0x3E0], 0xB     # timer divides by 1
    mov dword ptr [{LAPIC_VA} + 0x320], r8d
    mov eax, dword ptr [{LAPIC_VA} + 0x20]
    shr eax, 24
    mov [rip + warp_apic_id], eax
    jmp 3f

2:  lidt [rip + warp_idt_x2apic_pointer]
    mov dword ptr [rip + warp_x2apic], 1
    xor edx, edx
    mov eax, 0x1FF
    mov ecx, 0x80F                      # the same registers as MSRs 800h + n/16
    wrmsr
    xor eax, eax
    mov ecx, 0x808
    wrmsr
    mov eax, 0x10000
    mov ecx, 0x835
    wrmsr
    mov eax, 0xB
    mov ecx, 0x83E
    wrmsr
    mov eax, r8d
    mov ecx, 0x832
    wrmsr
    mov ecx, 0x802
    rdmsr
    mov [rip + warp_apic_id], eax

    # To ring 3.
3:  lea rax, [rip + warp_user_stack_top]
    lea rcx, [rip + warp_user_start]
    push {SELECTOR_USER_DATA}
    push rax
    push 0x202                          # RFLAGS: IF
    push {SELECTOR_USER_CODE}
    push rcx
    iretq

warp_park:
    cli
    hlt
    jmp warp_park

# Ring 3 begins. The stack is 16-byte aligned, so `call` gives the function what
# the System V ABI promises it.
.section .text.warp_user_start, "ax"
.globl warp_user_start
warp_user_start:
    xor ebp, ebp
    call warp_start
    ud2
