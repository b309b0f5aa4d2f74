# System calls: `int 0x80` in ring 3, number in EAX, arguments in RDI, RSI, RDX.
# RAX, RCX, RDX, RSI and RDI are lost.
#
# Some hosts cannot execute `int n` in ring 3 and answer it with #UD. Therefore
# ring 3 has the instruction at one address only, and a #UD from there is the call.
# (`syscall` is no way out: one of those hosts enters LSTAR without leaving ring 3.)

.section .text.warp_gate, "ax"
.balign 16
.globl warp_gate
warp_gate:
    int 0x80
    ret

.section .warp.text, "ax"
.balign 16
warp_invalid_opcode:
    cmp qword ptr [rsp], offset warp_gate
    jne warp_exceptions + 6 * 16
    add qword ptr [rsp], 2
    # falls through

warp_syscall:
    test eax, eax
    jnz 2f

    # WAIT(counter index, value seen, timer count seen): back at once when either
    # has moved, else after the next interrupt. Interrupts are off from the
    # comparison to the sti, whose shadow reaches over the hlt: no wake-up is lost.
    and edi, 63
    lea rax, [rip + warp_counters]
    cmp [rax + rdi * 8], rsi
    jne 7f
    cmp [rax + 0x200], rdx
    jne 7f
    sti
    hlt
7:  iretq

2:  cmp eax, {SYS_TIMER}
    jne 4f
    # TIMER(TSC deadline or 0 for none, nanoseconds for a timer that only counts)
    cmp dword ptr [rip + warp_tsc_deadline], 0
    je 3f
    mov rax, rdi
    mov rdx, rdi
    shr rdx, 32
    mov ecx, 0x6E0
    wrmsr
    iretq
3:  cmp dword ptr [rip + warp_x2apic], 0
    jne 31f
    mov dword ptr [{LAPIC_VA} + 0x380], esi
    iretq
31: mov eax, esi
    xor edx, edx
    mov ecx, 0x838
    wrmsr
    iretq

4:  cmp eax, {SYS_PRINT}
    jne 6f
    # PRINT(address, length): only from the agent's own part of the first 3 GiB.
    # The console is a virtual 16550 whose transmitter is always ready.
    cmp rsi, {PRINT_MAX}
    ja 5f
    cmp rdi, {USER_BASE}
    jb 5f
    mov eax, {USER_END}
    sub rax, rsi
    cmp rdi, rax
    ja 5f
    cld
    mov ecx, esi
    mov rsi, rdi
    mov edx, {CONSOLE_PORT}
    rep outsb
5:  iretq

6:  cmp eax, {SYS_EXIT}
    jne 5b                              # an unknown number does nothing
    # EXIT(code)
    mov eax, edi
    out {EXIT_PORT}, eax
    jmp warp_park
