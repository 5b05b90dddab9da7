// SPDX-License-Identifier: Apache-2.0
// The ways in: dlsym and dlvsym, and one export per hook. Owns: calling conventions only; decisions are entry.c's and
// driver.c's. dlsym must stay dlsym: the real one looks at its caller's address for RTLD_NEXT and RTLD_DEFAULT, so it is
// reached by a jump that leaves the caller's return address in place.
#if defined(__x86_64__)

	.text
// struct softmig_answer softmig_entry_dl*(handle, name, ..., caller): rax = done, rdx = the answer or where to jump.
	.globl dlsym
	.type dlsym, @function
	.p2align 4
dlsym:
	.cfi_startproc
	endbr64
	pushq %rdi
	.cfi_adjust_cfa_offset 8
	pushq %rsi
	.cfi_adjust_cfa_offset 8
	subq $8, %rsp
	.cfi_adjust_cfa_offset 8
	movq 24(%rsp), %rdx
	call softmig_entry_dlsym
	addq $8, %rsp
	.cfi_adjust_cfa_offset -8
	popq %rsi
	.cfi_adjust_cfa_offset -8
	popq %rdi
	.cfi_adjust_cfa_offset -8
	testq %rax, %rax
	jz 1f
	movq %rdx, %rax
	ret
1:	jmp *%rdx
	.cfi_endproc
	.size dlsym, .-dlsym

	.globl dlvsym
	.type dlvsym, @function
	.p2align 4
dlvsym:
	.cfi_startproc
	endbr64
	pushq %rdi
	.cfi_adjust_cfa_offset 8
	pushq %rsi
	.cfi_adjust_cfa_offset 8
	pushq %rdx
	.cfi_adjust_cfa_offset 8
	movq 24(%rsp), %rcx
	call softmig_entry_dlvsym
	movq %rdx, %r11
	popq %rdx
	.cfi_adjust_cfa_offset -8
	popq %rsi
	.cfi_adjust_cfa_offset -8
	popq %rdi
	.cfi_adjust_cfa_offset -8
	testq %rax, %rax
	jz 1f
	movq %r11, %rax
	ret
1:	jmp *%r11
	.cfi_endproc
	.size dlvsym, .-dlvsym

// First use of an export: r11 holds its struct softmig_hook. Keeps every argument register, asks, jumps.
	.type softmig_resolve_and_jump, @function
softmig_resolve_and_jump:
	.cfi_startproc
	pushq %rbp
	.cfi_adjust_cfa_offset 8
	movq %rsp, %rbp
	.cfi_def_cfa_register %rbp
	subq $192, %rsp
	andq $-16, %rsp
	movq %rdi, 0(%rsp)
	movq %rsi, 8(%rsp)
	movq %rdx, 16(%rsp)
	movq %rcx, 24(%rsp)
	movq %r8, 32(%rsp)
	movq %r9, 40(%rsp)
	movq %rax, 48(%rsp)
	movups %xmm0, 64(%rsp)
	movups %xmm1, 80(%rsp)
	movups %xmm2, 96(%rsp)
	movups %xmm3, 112(%rsp)
	movups %xmm4, 128(%rsp)
	movups %xmm5, 144(%rsp)
	movups %xmm6, 160(%rsp)
	movups %xmm7, 176(%rsp)
	movq %r11, %rdi
	call softmig_driver_target
	movq %rax, %r11
	movq 0(%rsp), %rdi
	movq 8(%rsp), %rsi
	movq 16(%rsp), %rdx
	movq 24(%rsp), %rcx
	movq 32(%rsp), %r8
	movq 40(%rsp), %r9
	movq 48(%rsp), %rax
	movups 64(%rsp), %xmm0
	movups 80(%rsp), %xmm1
	movups 96(%rsp), %xmm2
	movups 112(%rsp), %xmm3
	movups 128(%rsp), %xmm4
	movups 144(%rsp), %xmm5
	movups 160(%rsp), %xmm6
	movups 176(%rsp), %xmm7
	leave
	.cfi_def_cfa %rsp, 8
	jmp *%r11
	.cfi_endproc
	.size softmig_resolve_and_jump, .-softmig_resolve_and_jump

// 24: offset of target in struct softmig_hook (asserted in driver.c).
#define CALL(name)
#define HOOK(name, group) \
	.globl name; .type name, @function; .p2align 4; \
	name: .cfi_startproc; endbr64; jmp *24+softmig_hook_##name(%rip); .cfi_endproc; .size name, .-name; \
	.globl softmig_first_##name; .hidden softmig_first_##name; .type softmig_first_##name, @function; .p2align 4; \
	softmig_first_##name: .cfi_startproc; endbr64; leaq softmig_hook_##name(%rip), %r11; \
	jmp softmig_resolve_and_jump; .cfi_endproc; .size softmig_first_##name, .-softmig_first_##name;
#include "preload/hooks.def"

// IBT and SHSTK compatible: every indirect target begins with endbr64, returns match calls.
	.section .note.gnu.property, "a"
	.p2align 3
	.long 4, 16, 5
	.asciz "GNU"
	.long 0xc0000002, 4, 3, 0

#elif defined(__aarch64__)

	.text
// struct softmig_answer: x0 = done, x1 = the answer or where to jump.
	.globl dlsym
	.type dlsym, %function
	.p2align 4
dlsym:
	.cfi_startproc
	hint #34
	stp x29, x30, [sp, #-32]!
	.cfi_adjust_cfa_offset 32
	.cfi_offset 29, -32
	.cfi_offset 30, -24
	stp x0, x1, [sp, #16]
	mov x29, sp
	mov x2, x30
	bl softmig_entry_dlsym
	mov x16, x1
	mov x17, x0
	ldp x0, x1, [sp, #16]
	ldp x29, x30, [sp], #32
	.cfi_restore 29
	.cfi_restore 30
	.cfi_adjust_cfa_offset -32
	cbz x17, 1f
	mov x0, x16
	ret
1:	br x16
	.cfi_endproc
	.size dlsym, .-dlsym

	.globl dlvsym
	.type dlvsym, %function
	.p2align 4
dlvsym:
	.cfi_startproc
	hint #34
	stp x29, x30, [sp, #-48]!
	.cfi_adjust_cfa_offset 48
	.cfi_offset 29, -48
	.cfi_offset 30, -40
	stp x0, x1, [sp, #16]
	str x2, [sp, #32]
	mov x29, sp
	mov x3, x30
	bl softmig_entry_dlvsym
	mov x16, x1
	mov x17, x0
	ldp x0, x1, [sp, #16]
	ldr x2, [sp, #32]
	ldp x29, x30, [sp], #48
	.cfi_restore 29
	.cfi_restore 30
	.cfi_adjust_cfa_offset -48
	cbz x17, 1f
	mov x0, x16
	ret
1:	br x16
	.cfi_endproc
	.size dlvsym, .-dlvsym

// First use of an export: x16 holds its struct softmig_hook.
	.type softmig_resolve_and_jump, %function
softmig_resolve_and_jump:
	.cfi_startproc
	stp x29, x30, [sp, #-224]!
	.cfi_adjust_cfa_offset 224
	.cfi_offset 29, -224
	.cfi_offset 30, -216
	mov x29, sp
	stp x0, x1, [sp, #16]
	stp x2, x3, [sp, #32]
	stp x4, x5, [sp, #48]
	stp x6, x7, [sp, #64]
	str x8, [sp, #80]
	stp q0, q1, [sp, #96]
	stp q2, q3, [sp, #128]
	stp q4, q5, [sp, #160]
	stp q6, q7, [sp, #192]
	mov x0, x16
	bl softmig_driver_target
	mov x16, x0
	ldp x0, x1, [sp, #16]
	ldp x2, x3, [sp, #32]
	ldp x4, x5, [sp, #48]
	ldp x6, x7, [sp, #64]
	ldr x8, [sp, #80]
	ldp q0, q1, [sp, #96]
	ldp q2, q3, [sp, #128]
	ldp q4, q5, [sp, #160]
	ldp q6, q7, [sp, #192]
	ldp x29, x30, [sp], #224
	.cfi_restore 29
	.cfi_restore 30
	.cfi_adjust_cfa_offset -224
	br x16
	.cfi_endproc
	.size softmig_resolve_and_jump, .-softmig_resolve_and_jump

#define CALL(name)
#define HOOK(name, group) \
	.globl name; .type name, %function; .p2align 4; \
	name: .cfi_startproc; hint #34; adrp x16, softmig_hook_##name; add x16, x16, :lo12:softmig_hook_##name; \
	ldr x16, [x16, #24]; br x16; .cfi_endproc; .size name, .-name; \
	.globl softmig_first_##name; .hidden softmig_first_##name; .type softmig_first_##name, %function; .p2align 4; \
	softmig_first_##name: .cfi_startproc; hint #34; adrp x16, softmig_hook_##name; \
	add x16, x16, :lo12:softmig_hook_##name; b softmig_resolve_and_jump; .cfi_endproc; \
	.size softmig_first_##name, .-softmig_first_##name;
#include "preload/hooks.def"

#else
#error "SoftMig runs on x86-64 and aarch64"
#endif
	.section .note.GNU-stack, "", %progbits
