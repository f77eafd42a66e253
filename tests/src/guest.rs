//! Guest halves of stories: what runs inside instead of the agent or instead of Linux.

use std::fs;
use std::path::{Path, PathBuf};

/// An initramfs whose `/init` is this very test program, with the story's name in `/story`: the
/// program finds itself to be process 1 there and plays the guest half of that story.
pub fn initramfs_of_this_program(directory: &Path, story: &str) -> PathBuf {
    let program = fs::read(std::env::current_exe().unwrap()).unwrap();
    let mut archive = Vec::new();
    append_member(&mut archive, "init", 0o100_755, &program);
    append_member(&mut archive, "story", 0o100_644, story.as_bytes());
    append_member(&mut archive, "TRAILER!!!", 0, b"");
    let path = directory.join("guest-half.cpio");
    fs::write(&path, archive).unwrap();
    path
}

/// One member of a `newc` archive (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
fn append_member(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let fields: [usize; 13] =
        [0, mode as usize, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
    archive.extend(b"070701");
    for field in fields {
        archive.extend(format!("{field:08x}").bytes());
    }
    archive.extend(name.bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// Where [`kernel_of_instructions`] is loaded and entered, in 64-bit mode.
const LOADED_AT: u64 = 16 << 20;

/// An ELF file for `--kernel` that is nothing but these instructions: the smallest hostile kernel.
pub fn kernel_of_instructions(directory: &Path, instructions: &[u8]) -> PathBuf {
    const HEADER: u16 = 64;
    const PROGRAM_HEADER: u16 = 56;
    let offset = u64::from(HEADER + PROGRAM_HEADER);
    let length = instructions.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2u16, 62] {
        elf.extend(half.to_le_bytes()); // ET_EXEC, EM_X86_64
    }
    elf.extend(1u32.to_le_bytes());
    for word in [LOADED_AT, u64::from(HEADER), 0] {
        elf.extend(word.to_le_bytes()); // e_entry, e_phoff, e_shoff
    }
    elf.extend(0u32.to_le_bytes());
    for half in [HEADER, PROGRAM_HEADER, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    for half in [1u32, 7] {
        elf.extend(half.to_le_bytes()); // PT_LOAD, read, write and execute
    }
    for word in [offset, LOADED_AT, LOADED_AT, length, length, 1] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(instructions);
    let path = directory.join("instructions.elf");
    fs::write(&path, elf).unwrap();
    path
}
