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
    /// 30; a bomb of zeros 200 to 1,000.
    pub ratio: u64,
    /// The most files, directories and links an image may name, all layers together.
    pub entries: u32,
    /// The most bytes of names, link targets and extended attributes, which are held in memory.
    pub metadata_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unpacked_bytes: 16 << 30,
            unsuspicious_bytes: 1 << 30,
            ratio: 100,
            entries: 1_000_000,
            metadata_bytes: 256 << 20,
        }
    }
}

/// Which limit an archive went over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// `unpacked_bytes`.
    #[error("unpacked, it is over the limit of {0} bytes")]
    Unpacked(u64),
    /// `ratio`.
    #[error("unpacked, it is over {ratio} times its {packed_bytes} bytes")]
    Ratio {
        /// The limit.
        ratio: u64,
        /// What there was to unpack, so far.
        packed_bytes: u64,
    },
}

/// What is left of [`Limits`] while something is unpacked.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    packed_bytes: u64,
    unpacked_bytes: u64,
}

impl Budget {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { limits: *limits, packed_bytes: 0, unpacked_bytes: 0 }
    }

    /// There are `bytes` more to unpack.
    pub(crate) fn add_packed(&mut self, bytes: u64) {
        self.packed_bytes = self.packed_bytes.saturating_add(bytes);
    }

    /// `bytes` more came of it.
    pub(crate) fn add_unpacked(&mut self, bytes: u64) -> Result<(), LimitError> {
        self.unpacked_bytes = self.unpacked_bytes.saturating_add(bytes);
        let Limits { unpacked_bytes: most, unsuspicious_bytes, ratio, .. } = self.limits;
        if self.unpacked_bytes > most {
            return Err(LimitError::Unpacked(most));
        }
        let packed_bytes = self.packed_bytes;
        if self.unpacked_bytes > unsuspicious_bytes
            && self.unpacked_bytes > packed_bytes.saturating_mul(ratio)
        {
            return Err(LimitError::Ratio { ratio, packed_bytes });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_refused_long_before_it_is_unpacked_and_a_large_image_is_not() {
        let mut bomb = Budget::new(&Limits::default());
        bomb.add_packed(10 << 20);
        assert_eq!(bomb.add_unpacked(1 << 30), Ok(()));
        let refused = LimitError::Ratio { ratio: 100, packed_bytes: 10 << 20 };
        assert_eq!(bomb.add_unpacked(1 << 30), Err(refused));

        let mut large = Budget::new(&Limits::default());
        large.add_packed(3 << 30);
        assert_eq!(large.add_unpacked(15 << 30), Ok(()));
        assert_eq!(large.add_unpacked(2 << 30), Err(LimitError::Unpacked(16 << 30)));
    }
}
