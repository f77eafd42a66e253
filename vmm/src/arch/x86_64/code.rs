//! A few instructions for a throw-away VM, in 64-bit mode at CPL 0 with the first GiB mapped to
//! itself. Each snippet reports back by a write to [`DONE_PORT`].

/// Where a snippet is put and entered.
pub const ADDRESS: u64 = 0x1_0000;

/// The port a snippet writes to when it is through.
pub const DONE_PORT: u16 = 0x10;

/// Some instructions.
#[derive(Debug)]
pub struct Snippet {
    /// What is tried, in words.
    pub name: &'static str,
    /// Machine code.
    pub bytes: &'static [u8],
}

/// What kernels use and interpreters of kernels lack.
pub const NEEDED: &[Snippet] = &[
    Snippet {
        name: "popcnt",
        #[rustfmt::skip]
        bytes: &[
            0xf3, 0x48, 0x0f, 0xb8, 0xc1, // popcnt rax, rcx
            0xe6, 0x10,                   // out 0x10, al
        ],
    },
    Snippet {
        name: "cmpxchg16b",
        #[rustfmt::skip]
        bytes: &[
            0xbf, 0x00, 0x00, 0x02, 0x00,       // mov edi, 0x20000
            0xf0, 0x48, 0x0f, 0xc7, 0x0f,       // lock cmpxchg16b [rdi]
            0xe6, 0x10,                         // out 0x10, al
        ],
    },
    Snippet {
        name: "xsave",
        #[rustfmt::skip]
        bytes: &[
            0x0f, 0x20, 0xe0,                   // mov rax, cr4
            0x0d, 0x00, 0x06, 0x04, 0x00,       // or eax, OSXSAVE | OSXMMEXCPT | OSFXSR
            0x0f, 0x22, 0xe0,                   // mov cr4, rax
            0xbf, 0x00, 0x00, 0x02, 0x00,       // mov edi, 0x20000
            0xb8, 0x01, 0x00, 0x00, 0x00,       // mov eax, 1
            0x31, 0xd2,                         // xor edx, edx
            0x48, 0x0f, 0xae, 0x27,             // xsave64 [rdi]
            0x48, 0x0f, 0xae, 0x2f,             // xrstor64 [rdi]
            0xe6, 0x10,                         // out 0x10, al
        ],
    },
];

/// How many instructions a portion of [`LOOP`] is, to a few.
pub const LOOP_INSTRUCTIONS: u32 = 2 * LOOP_TURNS;

const LOOP_TURNS: u32 = 10_000;

/// A loop to be timed, which starts over when it is entered again.
pub const LOOP: Snippet = Snippet {
    name: "a loop",
    #[rustfmt::skip]
    bytes: &[
        0xb9, 0x10, 0x27, 0x00, 0x00, // again: mov ecx, 10000
        0xff, 0xc9,                   // turn: dec ecx
        0x75, 0xfc,                   //       jnz turn
        0xe6, 0x10,                   //       out 0x10, al
        0xeb, 0xf3,                   //       jmp again
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_turns_as_often_as_is_counted() {
        assert_eq!(LOOP.bytes[1..5], LOOP_TURNS.to_le_bytes());
    }
}
