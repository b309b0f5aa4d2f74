//! `memcpy` and its kin, which compiled code calls and no libc provides here.
//!
//! In assembly, so that no compiler turns a copy loop into a call of itself.
//! `rep movsb` and `rep stosb` are the fast way on every CPU with ERMS.
#![expect(unsafe_code, reason = "symbols that the compiler calls, in assembly")]

core::arch::global_asm!(
    r#"
    .section .text.memory, "ax"
    .globl memcpy
    .globl memmove
    .globl memset
    .globl memcmp
    .globl bcmp
    .globl strlen
    .balign 16
memmove:
    mov rax, rdi
    sub rax, rsi
    cmp rax, rdx                # 0 < to - from < n: copy from the end
    jb 3f
    .balign 16
memcpy:
    mov rax, rdi
    cmp rdx, 16
    ja 2f
    cmp rdx, 8
    jae 4f
    cmp rdx, 4
    jae 5f
    test rdx, rdx
    je 6f
    movzx ecx, byte ptr [rsi]
    movzx r8d, byte ptr [rsi + rdx - 1]
    cmp rdx, 3
    jne 7f
    movzx r9d, byte ptr [rsi + 1]
    mov byte ptr [rdi + 1], r9b
7:  mov byte ptr [rdi + rdx - 1], r8b
    mov byte ptr [rdi], cl
6:  ret
5:  mov ecx, dword ptr [rsi]
    mov r8d, dword ptr [rsi + rdx - 4]
    mov dword ptr [rdi], ecx
    mov dword ptr [rdi + rdx - 4], r8d
    ret
4:  mov rcx, qword ptr [rsi]
    mov r8, qword ptr [rsi + rdx - 8]
    mov qword ptr [rdi], rcx
    mov qword ptr [rdi + rdx - 8], r8
    ret
2:  cmp rdx, 256
    ja 8f
    # 17 to 256 bytes: 16 at a time, the last 16 first read, last written.
    movups xmm1, [rsi + rdx - 16]
    lea r8, [rdi + rdx - 16]
    mov rcx, rdi
9:  movups xmm0, [rsi]
    movups [rcx], xmm0
    add rsi, 16
    add rcx, 16
    cmp rcx, r8
    jb 9b
    movups [r8], xmm1
    ret
8:  mov rcx, rdx
    rep movsb
    ret
3:  mov rax, rdi
    std
    lea rdi, [rdi + rdx - 1]
    lea rsi, [rsi + rdx - 1]
    mov rcx, rdx
    rep movsb
    cld
    ret
    .balign 16
memset:
    mov r8, rdi
    mov eax, esi
    mov rcx, rdx
    rep stosb
    mov rax, r8
    ret
    .balign 16
memcmp:
bcmp:
    xor ecx, ecx
2:  cmp rcx, rdx
    je 3f
    movzx eax, byte ptr [rdi + rcx]
    movzx r8d, byte ptr [rsi + rcx]
    inc rcx
    sub eax, r8d
    je 2b
    ret
3:  xor eax, eax
    ret
    .balign 16
strlen:
    xor eax, eax
2:  cmp byte ptr [rdi + rax], 0
    je 3f
    inc rax
    jmp 2b
3:  ret
    .text
    "#
);
