//! Errors as people know them.

use rustix::io::Errno;

/// What the agent itself asked of the kernel in vain, for which there is nobody to answer to.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {}", words(*.errno))]
pub struct Refused {
    /// What it was about, with the path or number it was about.
    pub step: String,
    /// The kernel's reason.
    pub errno: Errno,
}

impl Refused {
    /// Names the step that an errno comes from: `.map_err(Refused::at("epoll"))`.
    pub(crate) fn at(step: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        move |errno| Self { step: step.into(), errno }
    }
}

/// The errno in words, to stand behind a colon: `no such file or directory`.
pub(crate) fn words(errno: Errno) -> String {
    let mut text = std::io::Error::from(errno).to_string();
    if let Some(number) = text.find(" (os error") {
        text.truncate(number);
    }
    // "I/O error" and its like keep their capitals.
    let mut letters = text.chars();
    if let (Some(first), Some(second)) = (letters.next(), letters.next())
        && first.is_ascii_uppercase()
        && second.is_ascii_lowercase()
    {
        text.replace_range(..1, &first.to_ascii_lowercase().to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_reads_like_the_end_of_a_sentence() {
        assert_eq!(words(Errno::NOENT), "no such file or directory");
        assert_eq!(words(Errno::ACCESS), "permission denied");
        assert_eq!(words(Errno::NOEXEC), "exec format error");
    }
}
