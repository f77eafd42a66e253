//! Platforms: the operating system and the processor that an image is for, in OCI's words.

use std::fmt;
use std::str::FromStr;

/// `linux/amd64`, `linux/arm/v7`, …
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// Why a word is no [`Platform`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("platform {0:?} is not os/architecture or os/architecture/variant, in small letters")]
pub struct BadPlatform(pub String);

impl Platform {
    /// This machine's.
    pub fn here() -> Self {
        let architecture = usual_name(std::env::consts::ARCH).to_owned();
        Self { os: "linux".to_owned(), architecture, variant: None }
    }

    /// What an image says of itself.
    pub(crate) fn of(
        os: impl ToString,
        architecture: impl ToString,
        variant: Option<&str>,
    ) -> Self {
        let variant = variant.filter(|variant| !variant.is_empty()).map(str::to_owned);
        Self { os: os.to_string(), architecture: architecture.to_string(), variant }
    }

    /// Whether what is for `other` runs on this one. Who names no variant takes any, and who has none
    /// suits all.
    pub fn takes(&self, other: &Self) -> bool {
        self.fits(other).is_some()
    }

    /// How well what is for `other` runs on this one: the smaller the better, `None` if not at all.
    pub(crate) fn fits(&self, other: &Self) -> Option<u8> {
        if (&self.os, &self.architecture) != (&other.os, &other.architecture) {
            return None;
        }
        match (self.usual_variant(), other.usual_variant()) {
            (ours, theirs) if ours == theirs => Some(0),
            (_, None) => Some(1),
            (None, Some(_)) => Some(2),
            (Some(_), Some(_)) => None,
        }
    }

    /// The variant that everybody means is none.
    fn usual_variant(&self) -> Option<&str> {
        match (self.architecture.as_str(), self.variant.as_deref()) {
            ("arm64", Some("v8")) | ("amd64", Some("v1")) => None,
            (_, variant) => variant,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = BadPlatform;

    fn from_str(word: &str) -> Result<Self, BadPlatform> {
        let bad = || BadPlatform(word.to_owned());
        let plain = |part: &str| {
            let known =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            !part.is_empty() && part.len() <= 32 && part.bytes().all(known)
        };
        let parts: Vec<&str> = word.split('/').collect();
        if !parts.iter().all(|part| plain(part)) {
            return Err(bad());
        }
        match parts[..] {
            [os, architecture] => Ok(Self::of(os, usual_name(architecture), None)),
            [os, architecture, variant] => {
                Ok(Self::of(os, usual_name(architecture), Some(variant)))
            }
            _ => Err(bad()),
        }
    }
}

/// OCI's (Go's) word for an architecture that compilers and kernels call otherwise.
fn usual_name(architecture: &str) -> &str {
    match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(word: &str) -> Platform {
        word.parse().unwrap()
    }

    #[test]
    fn what_people_write_is_what_images_say() {
        assert_eq!(platform("linux/x86_64").to_string(), "linux/amd64");
        assert_eq!(platform("linux/arm/v7").to_string(), "linux/arm/v7");
        for word in ["", "linux", "linux/", "Linux/amd64", "linux/arm/v7/x", "linux/../x", "a b/c"]
        {
            assert_eq!(word.parse::<Platform>(), Err(BadPlatform(word.to_owned())));
        }
    }

    #[test]
    fn a_variant_is_taken_where_it_runs_and_the_plain_one_first() {
        let (plain, v8) = (platform("linux/arm64"), platform("linux/arm64/v8"));
        assert_eq!(plain.fits(&v8), Some(0));
        assert_eq!(v8.fits(&plain), Some(0));
        let (plain, v2) = (platform("linux/amd64"), platform("linux/amd64/v2"));
        assert!(plain.fits(&plain) < plain.fits(&v2));
        assert!(!platform("linux/arm/v6").takes(&platform("linux/arm/v7")));
        assert!(!platform("windows/amd64").takes(&plain));
    }
}
