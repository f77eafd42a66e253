//! What an image may cost the host.

/// Bounds on what one archive may make the host store, count and remember. The ones that are no
/// matter of taste (a name's length, a path's length) are constants where they are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes all layers of an image may unpack to, holes in sparse files counted.
    pub unpacked_bytes: u64,
    /// What may unpack from few bytes without suspicion: below this, `ratio` is not asked.
    pub unsuspicious_bytes: u64,
    /// How many times larger than its archive an image may become. Honest layers reach 10, seldom
    /// 50; a bomb of zeros 1,000 and more.
    pub ratio: u64,
    /// The most files, directories and links an image may name, all layers together.
    pub entries: u64,
    /// The most bytes of names, link targets and extended attributes, which are held in memory.
    pub metadata_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unpacked_bytes: 16 << 30,
            unsuspicious_bytes: 1 << 30,
            ratio: 200,
            entries: 1_000_000,
            metadata_bytes: 256 << 20,
        }
    }
}
