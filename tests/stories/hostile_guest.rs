//! A guest that lies to its devices hurts only itself.
//!
//! The guest half is a kernel of a few instructions ([`lying_kernel_begin`] below): it finds the
//! entropy device, hands it a virtqueue made of lies, says on the serial port that it is still alive,
//! and ends itself with a triple fault. The host half looks for that word in the report of the end:
//! it is there only if the VMM took the lie, survived it and went on running the guest.

use std::arch::global_asm;

use tests::{House, kernel_of_instructions};

crate::stories![
    a_descriptor_outside_of_memory,
    a_descriptor_chain_that_is_a_loop,
    a_ring_outside_of_memory,
    a_next_descriptor_outside_of_the_table,
    an_available_index_from_nowhere,
    a_kernel_that_faults_at_once_is_named,
];

/// The words of one descriptor (virtio 1.2, 2.7.5): address, then length, flags and next in one.
type Descriptor = [u64; 2];

const NEXT: u64 = 1 << 32;
const WRITE: u64 = 2 << 32;
const GOOD_ADDRESS: u64 = 0x30_0000;
const RINGS: Rings = Rings { table: 0x20_0000, available: 0x20_1000, used: 0x20_2000 };

/// Where the guest says its queue is, in guest physical addresses.
struct Rings {
    table: u64,
    available: u64,
    used: u64,
}

fn a_descriptor_outside_of_memory() {
    for address in [1 << 40, u64::MAX - 100, 0xc000_0000] {
        tell_the_lie(&RINGS, [[address, 4096 | WRITE], [0, 0]], 1);
    }
}

fn a_descriptor_chain_that_is_a_loop() {
    tell_the_lie(&RINGS, [[GOOD_ADDRESS, 16 | WRITE | NEXT], [0, 0]], 1);
}

fn a_ring_outside_of_memory() {
    tell_the_lie(&Rings { available: 1 << 40, ..RINGS }, [[GOOD_ADDRESS, 16 | WRITE], [0, 0]], 1);
    tell_the_lie(&Rings { used: 1 << 40, ..RINGS }, [[GOOD_ADDRESS, 16 | WRITE], [0, 0]], 1);
    tell_the_lie(&Rings { table: u64::MAX - 15, ..RINGS }, [[GOOD_ADDRESS, 16 | WRITE], [0, 0]], 1);
}

fn a_next_descriptor_outside_of_the_table() {
    tell_the_lie(&RINGS, [[GOOD_ADDRESS, 16 | WRITE | NEXT | 9999 << 48], [0, 0]], 1);
}

fn an_available_index_from_nowhere() {
    tell_the_lie(&RINGS, [[GOOD_ADDRESS, u64::from(u32::MAX) | WRITE], [0, 0]], 60_000);
}

fn a_kernel_that_faults_at_once_is_named() {
    let house = House::new();
    let kernel = kernel_of_instructions(house.state(), &[0x0f, 0x0b]); // ud2, and no one to catch it
    let outcome = house.call(["--kernel", kernel.to_str().unwrap(), "run", "--rm", "demo", "true"]);
    let outcome = outcome.expect_code(125);
    assert!(outcome.stderr.contains("triple fault"), "{}", outcome.stderr);
    house.expect_nothing_left();
}

/// Runs the lying kernel with this queue: where the rings are, two descriptors, the available index.
#[track_caller]
fn tell_the_lie(rings: &Rings, descriptors: [Descriptor; 2], available_index: u64) {
    let house = House::new();
    let mut code = lying_kernel();
    let data = [rings.table, rings.available, rings.used, available_index];
    for word in data.into_iter().chain(descriptors.into_iter().flatten()) {
        code.extend(word.to_le_bytes());
    }
    let kernel = kernel_of_instructions(house.state(), &code);
    let outcome = house.call(["--kernel", kernel.to_str().unwrap(), "run", "--rm", "demo", "true"]);
    let outcome = outcome.expect_code(125);
    assert!(outcome.stderr.contains("still alive"), "the VMM did not go on: {}", outcome.stderr);
    house.expect_nothing_left();
}

fn lying_kernel() -> Vec<u8> {
    unsafe extern "C" {
        static lying_kernel_begin: u8;
        static lying_kernel_end: u8;
    }
    let begin = &raw const lying_kernel_begin;
    let end = &raw const lying_kernel_end;
    let length = end as usize - begin as usize;
    // SAFETY: the two labels stand around the instructions below, in this program's own text.
    unsafe { std::slice::from_raw_parts(begin, length) }.to_vec()
}

// Behind the last instruction stand the eight words that `tell_the_lie` appends.
//
// The virtio-mmio registers are those of virtio 1.2, 4.2.2; the devices stand one page each from
// 0xc0000000 on. In long mode with the VMM's page tables, which need not map device addresses: the
// fourth gigabyte is mapped here with one entry.
global_asm!(
    ".pushsection .rodata",
    ".global lying_kernel_begin, lying_kernel_end",
    "lying_kernel_begin:",
    "    mov rax, cr3",
    "    and rax, -4096",
    "    mov rax, [rax]", // the first PML4 entry: the page directory pointers
    "    and rax, -4096",
    "    mov ecx, 0xc0000083", // present, writable, one gigabyte
    "    mov [rax + 24], rcx",
    "    mov rax, cr3",
    "    mov cr3, rax",
    "    mov ebx, 0xc0000000",
    "2:  cmp dword ptr [rbx], 0x74726976", // "virt"
    "    jne 9f",
    "    cmp dword ptr [rbx + 8], 4", // the entropy device
    "    je 3f",
    "    add rbx, 4096",
    "    jmp 2b",
    "3:  lea rsi, [rip + lying_kernel_end]",
    // The rings, zero but for what is said: table, available ring, both in low memory.
    "    mov rdi, 0x200000",
    "    mov rax, [rsi + 32]",
    "    mov [rdi], rax",
    "    mov rax, [rsi + 40]",
    "    mov [rdi + 8], rax",
    "    mov rax, [rsi + 48]",
    "    mov [rdi + 16], rax",
    "    mov rax, [rsi + 56]",
    "    mov [rdi + 24], rax",
    "    mov rax, [rsi + 24]",
    "    mov [rdi + 0x1002], ax",
    // Acknowledge, driver, VIRTIO_F_VERSION_1, features ok.
    "    mov dword ptr [rbx + 0x70], 1",
    "    mov dword ptr [rbx + 0x70], 3",
    "    mov dword ptr [rbx + 0x24], 0",
    "    mov dword ptr [rbx + 0x20], 0",
    "    mov dword ptr [rbx + 0x24], 1",
    "    mov dword ptr [rbx + 0x20], 1",
    "    mov dword ptr [rbx + 0x70], 11",
    // Queue 0: eight descriptors, and where its rings are said to be.
    "    mov dword ptr [rbx + 0x30], 0",
    "    mov dword ptr [rbx + 0x38], 8",
    "    mov rax, [rsi]",
    "    mov [rbx + 0x80], eax",
    "    shr rax, 32",
    "    mov [rbx + 0x84], eax",
    "    mov rax, [rsi + 8]",
    "    mov [rbx + 0x90], eax",
    "    shr rax, 32",
    "    mov [rbx + 0x94], eax",
    "    mov rax, [rsi + 16]",
    "    mov [rbx + 0xa0], eax",
    "    shr rax, 32",
    "    mov [rbx + 0xa4], eax",
    "    mov dword ptr [rbx + 0x44], 1",
    "    mov dword ptr [rbx + 0x70], 15",
    "    mov dword ptr [rbx + 0x50], 0", // the kick
    // The device answers from another thread: read its registers, each an exit, until it had time.
    "    mov ecx, 20000",
    "4:  mov eax, [rbx + 0x70]",
    "    dec ecx",
    "    jnz 4b",
    "    lea rsi, [rip + 8f]",
    "    mov ecx, 13",
    "    mov edx, 0x3f8",
    "    rep outsb",
    "9:  lidt [rip + 7f]", // no handlers: the next exception is the last
    "    ud2",
    "7:  .zero 10",
    "8:  .ascii \"still alive\\r\\n\"",
    "    .balign 8",
    "lying_kernel_end:",
    ".popsection",
);
