//! References: how people name images.
//!
//! ```text
//!   [registry[:port]/]path[/path…][:tag][@sha256:…]
//! ```
//!
//! The words mean what they mean to docker: the first part is a registry if it has a dot or a colon in
//! it or is `localhost`; without one it is `docker.io`, where a path of one part is under `library/`;
//! without tag and digest, the tag is `latest`. So `demo` is `docker.io/library/demo:latest`, wherever
//! it came from, and people are shown `demo:latest` again.

use std::fmt;
use std::str::FromStr;

use crate::Digest;

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_NAMESPACE: &str = "library/";
const DEFAULT_TAG: &str = "latest";

/// The longest `registry/path`, and the longest tag, as the distribution specification has them.
const MAX_NAME_BYTES: usize = 255;
const MAX_TAG_BYTES: usize = 128;

/// A name for an image, with everything that was left out filled in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a word is no [`Reference`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("image reference {reference:?}: {why}")]
pub struct BadReference {
    /// The word.
    pub reference: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Reference {
    /// `docker.io`, `localhost:5000`, …
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `library/demo`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `latest`; `None` if only a digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The manifest's digest, if given.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Whole, as it is kept: `docker.io/library/demo:latest`.
    pub fn canonical(&self) -> String {
        self.spelled(&format!("{}/{}", self.registry, self.path))
    }

    fn spelled(&self, name: &str) -> String {
        let tag = self.tag.iter().map(|tag| format!(":{tag}"));
        let digest = self.digest.iter().map(|digest| format!("@{digest}"));
        std::iter::once(name.to_owned()).chain(tag).chain(digest).collect()
    }
}

/// Short, as people write it: `demo:latest`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (self.registry.as_str(), self.path.strip_prefix(DEFAULT_NAMESPACE)) {
            // One part alone must not read as a registry, nor lose its namespace's slash.
            (DEFAULT_REGISTRY, Some(path)) if !path.contains('/') => path.to_owned(),
            (DEFAULT_REGISTRY, _) if !names_registry(first_part(&self.path)) => self.path.clone(),
            (registry, _) => format!("{registry}/{}", self.path),
        };
        f.write_str(&self.spelled(&name))
    }
}

impl FromStr for Reference {
    type Err = BadReference;

    fn from_str(word: &str) -> Result<Self, BadReference> {
        let bad = |why| BadReference { reference: word.to_owned(), why };
        let (rest, digest) = match word.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest
                    .parse()
                    .map_err(|_| bad("behind the @ must be sha256: and 64 digits"))?;
                (rest, Some(digest))
            }
            None => (word, None),
        };
        // A colon before the last slash is a port's.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad("a tag is up to 128 letters, digits, '_', '.' and '-'"));
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if names_registry(first) => (first, path.to_owned()),
            _ => (DEFAULT_REGISTRY, name.to_owned()),
        };
        let (registry, path) = match registry {
            DEFAULT_REGISTRY | "index.docker.io" if !path.contains('/') => {
                (DEFAULT_REGISTRY, format!("{DEFAULT_NAMESPACE}{path}"))
            }
            "index.docker.io" => (DEFAULT_REGISTRY, path),
            registry => (registry, path),
        };
        if registry.len() + 1 + path.len() > MAX_NAME_BYTES {
            return Err(bad("longer than 255 characters"));
        }
        if !is_registry(registry) {
            return Err(bad("the registry is no host name with an optional port"));
        }
        if !path.split('/').all(is_path_part) {
            return Err(bad(
                "a name is small letters and digits, with '.', '_' or '-' between them",
            ));
        }
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG),
            (tag, _) => tag,
        };
        Ok(Self { registry: registry.to_owned(), path, tag: tag.map(str::to_owned), digest })
    }
}

fn first_part(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

fn names_registry(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':']) || part.contains(char::is_uppercase)
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= MAX_TAG_BYTES
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

/// A host name or an address in brackets, and a port if any.
fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let port_ok = port.is_none_or(|port| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
    });
    let host_ok = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        }),
    };
    port_ok && host_ok
}

/// Small letters and digits in groups, with one '.', one or two '_' or any number of '-' between.
fn is_path_part(part: &str) -> bool {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let between = |gap: &str| {
        matches!(gap, "." | "_" | "__") || (!gap.is_empty() && gap.bytes().all(|byte| byte == b'-'))
    };
    part.starts_with(letter)
        && part.ends_with(letter)
        && part.split(letter).filter(|gap| !gap.is_empty()).all(between)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(word: &str) -> String {
        word.parse::<Reference>().unwrap().canonical()
    }

    #[test]
    fn what_was_left_out_is_what_docker_would_put_there() {
        for (word, whole) in [
            ("demo", "docker.io/library/demo:latest"),
            ("demo:1", "docker.io/library/demo:1"),
            ("library/demo", "docker.io/library/demo:latest"),
            ("docker.io/demo", "docker.io/library/demo:latest"),
            ("index.docker.io/demo", "docker.io/library/demo:latest"),
            ("me/demo", "docker.io/me/demo:latest"),
            ("localhost/demo", "localhost/demo:latest"),
            ("localhost:5000/a/b:tag", "localhost:5000/a/b:tag"),
            ("ghcr.io/a/b", "ghcr.io/a/b:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("a__b/c-----d.e", "docker.io/a__b/c-----d.e:latest"),
        ] {
            assert_eq!(canonical(word), whole, "{word}");
        }
        let digest = Digest::of(b"");
        assert_eq!(canonical(&format!("a@{digest}")), format!("docker.io/library/a@{digest}"));
        assert_eq!(canonical(&format!("a:b@{digest}")), format!("docker.io/library/a:b@{digest}"));
    }

    #[test]
    fn people_are_shown_what_they_wrote() {
        for word in ["demo:latest", "me/demo:1", "localhost/demo:a", "ghcr.io/x/y:latest"] {
            assert_eq!(word.parse::<Reference>().unwrap().to_string(), word);
        }
    }

    #[test]
    fn words_that_name_no_image_are_refused_with_the_reason() {
        let long = "a".repeat(300);
        for (word, why) in [
            ("", "a name"),
            ("Demo", "a name"),
            ("a//b", "a name"),
            ("../etc", "the registry"),
            ("a/../b", "a name"),
            ("-a", "a name"),
            ("a___b", "a name"),
            ("a:", "a tag"),
            ("a:b c", "a tag"),
            ("a@md5:00", "behind the @"),
            ("a.b:99999/c", "the registry"),
            ("a..b/c", "the registry"),
            (&long, "longer"),
        ] {
            let error = word.parse::<Reference>().unwrap_err();
            assert!(error.why.starts_with(why), "{word}: {error}");
        }
    }

    proptest! {
        #[test]
        fn short_and_whole_spelling_name_the_same_image(
            word in "((localhost|[a-z]{1,3}\\.io|[a-z]:[0-9]{1,4})/)?(library/|[a-z]{1,2}/){0,2}[a-z]{1,3}(:[a-z0-9.]{1,4})?"
        ) {
            if let Ok(reference) = word.parse::<Reference>() {
                prop_assert_eq!(&reference.canonical().parse::<Reference>().unwrap(), &reference);
                prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
            }
        }

        #[test]
        fn no_word_panics(word in "\\PC{0,40}") {
            let _ = word.parse::<Reference>();
        }
    }
}
