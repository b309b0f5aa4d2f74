# Exceptions end the partition: one line on the console with the name, then the
# exit port with the vector in the code.

.section .warp.text, "ax"

# Vectors whose exception pushes an error code: 8, 10-14, 17, 21, 29, 30.
.balign 16
warp_exceptions:
.set n, 0
.rept 32
    .balign 16
    .if ((1 << n) & 0x60227D00) == 0
    push 0
    .endif
    push n
    jmp warp_exception
.set n, n + 1
.endr

# Stack: vector, error code, RIP, CS, RFLAGS, RSP, SS.
.balign 16
warp_exception:
    cmp dword ptr [rip + warp_dying], 0
    jne 2f                              # a fault while reporting one
    mov dword ptr [rip + warp_dying], 1
    cld
    mov edx, {CONSOLE_PORT}
    lea rsi, [rip + warp_text_prefix]
    call warp_print_text
    mov rsi, [rsp]
    shl rsi, 5
    lea rax, [rip + warp_exception_names]
    add rsi, rax
    call warp_print_text
    lea rsi, [rip + warp_text_rip]
    mov rbx, [rsp + 16]
    call warp_print_field
    lea rsi, [rip + warp_text_cr2]
    mov rbx, cr2
    call warp_print_field
    lea rsi, [rip + warp_text_error]
    mov rbx, [rsp + 8]
    call warp_print_field
    lea rsi, [rip + warp_text_cs]
    mov rbx, [rsp + 24]
    call warp_print_field
    lea rsi, [rip + warp_text_rsp]
    mov rbx, [rsp + 40]
    call warp_print_field
    mov al, 10
    out dx, al
2:  mov eax, [rsp]
    or eax, {EXIT_EXCEPTION}
    out {EXIT_PORT}, eax
    jmp warp_park

# Prints the counted text at RSI; EDX is the port.
warp_print_text:
    movzx ecx, byte ptr [rsi]
    inc rsi
    rep outsb
    ret

# Prints the counted text at RSI, then RBX as 16 hexadecimal digits.
warp_print_field:
    call warp_print_text
    mov ecx, 16
3:  rol rbx, 4
    mov eax, ebx
    and eax, 15
    lea rsi, [rip + warp_digits]
    mov al, [rsi + rax]
    out dx, al
    dec ecx
    jnz 3b
    ret

warp_digits:
    .ascii "0123456789abcdef"

.macro counted label, text
\label:
    .byte 9f - 8f
8:  .ascii "\text"
9:
.endm
counted warp_text_prefix, "WARP: exception "
counted warp_text_rip, ": rip=0x"
counted warp_text_cr2, " cr2=0x"
counted warp_text_error, " error=0x"
counted warp_text_cs, " cs=0x"
counted warp_text_rsp, " rsp=0x"

.macro exception text
    .balign 32
    .byte 9f - 8f
8:  .ascii "\text"
9:
.endm
.balign 32
warp_exception_names:
    exception "#DE divide error"
    exception "#DB debug"
    exception "NMI"
    exception "#BP breakpoint"
    exception "#OF overflow"
    exception "#BR bound range"
    exception "#UD invalid opcode"
    exception "#NM no FPU"
    exception "#DF double fault"
    exception "9 (reserved)"
    exception "#TS invalid TSS"
    exception "#NP segment not present"
    exception "#SS stack segment"
    exception "#GP general protection"
    exception "#PF page fault"
    exception "15 (reserved)"
    exception "#MF x87"
    exception "#AC alignment"
    exception "#MC machine check"
    exception "#XM SIMD"
    exception "#VE virtualization"
    exception "#CP control protection"
    exception "22 (reserved)"
    exception "23 (reserved)"
    exception "24 (reserved)"
    exception "25 (reserved)"
    exception "26 (reserved)"
    exception "27 (reserved)"
    exception "#HV hypervisor injection"
    exception "#VC VMM communication"
    exception "#SX security"
    exception "31 (reserved)"
.balign 32
