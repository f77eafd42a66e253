//! Why this runtime is behind another one, where it is.

/// A reason for one test, or for all of a case.
pub(super) struct Exception {
    /// The suite's name.
    pub(super) suite: &'static str,
    /// The test's, or the case's for all of its tests that are behind.
    pub(super) test: &'static str,
    /// A fact, as a person reads it in the table.
    pub(super) reason: &'static str,
}

pub(super) const EXCEPTIONS: &[Exception] = &[];
