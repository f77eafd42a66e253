//! Who we are to a registry: what `docker login` and `podman login` left behind.
//!
//! Files are asked in podman's order and then docker's, and the first that knows the registry counts:
//! `$REGISTRY_AUTH_FILE`, `$XDG_RUNTIME_DIR/containers/auth.json` (`/run/containers/UID/auth.json` without
//! the variable), `~/.config/containers/auth.json`, `$DOCKER_CONFIG/config.json` or
//! `~/.docker/config.json`. A file names passwords in `auths`, or programs that know them in
//! `credHelpers` and `credsStore`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::keeper;

const DOCKER_INDEX: &str = "index.docker.io";

/// The longest file of passwords that is read.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// What proves who we are.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credential {
    Password {
        name: String,
        password: String,
    },
    /// A token that buys tokens (`identitytoken`).
    Identity {
        token: String,
    },
}

/// Where passwords are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    files: Vec<PathBuf>,
}

/// Why a file of passwords, or a program that keeps them, is of no use.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CredentialError {
    #[error("credentials file {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("credentials file {path} is longer than {MAX_FILE_BYTES} bytes")]
    TooLong { path: PathBuf },
    #[error("credentials file {path}")]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("credentials file {path}: auths.{key:?} holds no name and password")]
    Entry { path: PathBuf, key: String },
    #[error("credentials file {path}: {name:?} is no name of a credential helper")]
    HelperName { path: PathBuf, name: String },
    #[error("credential helper {program}: {why}")]
    Helper { program: String, why: String },
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Contents {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl Credentials {
    /// The files that this user's programs write.
    pub fn usual() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
        let uid = rustix::process::geteuid().as_raw();
        let home = variable("HOME").map(PathBuf::from);
        let runtime = variable("XDG_RUNTIME_DIR").map_or_else(
            || format!("/run/containers/{uid}").into(),
            |dir| PathBuf::from(dir).join("containers"),
        );
        let config = variable("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(home.as_ref()?.join(".config")));
        let docker = variable("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| Some(home.as_ref()?.join(".docker")));
        let files = [
            variable("REGISTRY_AUTH_FILE").map(PathBuf::from),
            Some(runtime.join("auth.json")),
            config.map(|directory| directory.join("containers/auth.json")),
            docker.map(|directory| directory.join("config.json")),
        ];
        Self { files: files.into_iter().flatten().collect() }
    }

    /// These files, the first first. Files that are not there are passed over.
    pub fn in_files(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { files: files.into_iter().collect() }
    }

    /// What there is for the image `path` in `registry`.
    pub(super) fn find(
        &self,
        registry: &str,
        path: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        for file in &self.files {
            if let Some(contents) = read(file)?
                && let Some(credential) = contents.find(file, registry, path)?
            {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }
}

fn read(path: &Path) -> Result<Option<Contents>, CredentialError> {
    let io = |source| CredentialError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io)?,
    };
    let mut json = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut json).map_err(io)?;
    if json.len() as u64 > MAX_FILE_BYTES {
        return Err(CredentialError::TooLong { path: path.to_owned() });
    }
    // `docker logout` may leave nothing in it.
    if json.trim_ascii().is_empty() {
        return Ok(None);
    }
    let malformed = |source| CredentialError::Json { path: path.to_owned(), source };
    serde_json::from_slice(&json).map(Some).map_err(malformed)
}

impl Contents {
    fn find(
        &self,
        file: &Path,
        registry: &str,
        path: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        let keys = spellings(registry);
        for key in &keys {
            if let Some(name) = self.cred_helpers.get(key) {
                return keeper::ask(file, name, key);
            }
        }
        if let Some((key, entry)) = self.entry(registry, path)
            && let Some(credential) = entry
                .credential()
                .map_err(|()| CredentialError::Entry { path: file.to_owned(), key: key.clone() })?
        {
            return Ok(Some(credential));
        }
        if let Some(name) = self.creds_store.as_deref().filter(|name| !name.is_empty()) {
            for key in &keys {
                if let Some(credential) = keeper::ask(file, name, key)? {
                    return Ok(Some(credential));
                }
            }
        }
        Ok(None)
    }

    /// podman's keys may name a part of a registry: the longest that fits counts.
    fn entry(&self, registry: &str, path: &str) -> Option<(&String, &Entry)> {
        let whole = format!("{registry}/{path}");
        let fits = |key: &str| {
            let key = plain(key);
            whole.strip_prefix(key).is_some_and(|rest| rest.starts_with('/')) || whole == key
        };
        self.auths.iter().filter(|(key, _)| fits(key)).max_by_key(|(key, _)| plain(key).len())
    }
}

impl Entry {
    fn credential(&self) -> Result<Option<Credential>, ()> {
        let token = self.identitytoken.as_ref().filter(|token| !token.is_empty());
        if let Some(token) = token {
            return Ok(Some(Credential::Identity { token: token.clone() }));
        }
        if let (Some(name), Some(password)) = (&self.username, &self.password) {
            let (name, password) = (name.clone(), password.clone());
            return Ok(Some(Credential::Password { name, password }));
        }
        // docker leaves empty entries for registries whose passwords a program keeps.
        let Some(auth) = self.auth.as_deref().filter(|auth| !auth.is_empty()) else {
            return Ok(None);
        };
        let bytes = STANDARD.decode(auth.trim()).map_err(|_| ())?;
        let words = String::from_utf8(bytes).map_err(|_| ())?;
        let (name, password) = words.split_once(':').ok_or(())?;
        let password = password.trim_end_matches('\0').to_owned();
        Ok(Some(Credential::Password { name: name.to_owned(), password }))
    }
}

/// How files and programs may call `registry`. docker's own has a name of its own.
fn spellings(registry: &str) -> Vec<String> {
    match registry {
        // Its first interface's address has become its name.
        "docker.io" => {
            vec![
                format!("https://{DOCKER_INDEX}/v1/"),
                registry.to_owned(),
                DOCKER_INDEX.to_owned(),
            ]
        }
        other => vec![other.to_owned(), format!("https://{other}")],
    }
}

/// A key of `auths` as a registry and a path: old ones are addresses.
fn plain(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    match key {
        DOCKER_INDEX | "registry-1.docker.io" => "docker.io",
        key => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(contents: &[&str]) -> (tempfile::TempDir, Credentials) {
        let directory = tempfile::tempdir().unwrap();
        let mut files = vec![directory.path().join("missing")];
        for (number, content) in contents.iter().enumerate() {
            let file = directory.path().join(number.to_string());
            std::fs::write(&file, content).unwrap();
            files.push(file);
        }
        (directory, Credentials::in_files(files))
    }

    fn names(credentials: &Credentials, registry: &str, path: &str) -> Option<String> {
        match credentials.find(registry, path).unwrap()? {
            Credential::Password { name, password } => Some(format!("{name}/{password}")),
            Credential::Identity { token } => Some(token),
        }
    }

    #[test]
    fn the_first_file_and_the_longest_key_that_know_the_registry_count() {
        // "me:pass:word", "other:x", "hub:y"
        let (_directory, credentials) = files(&[
            r#"{"auths": {"localhost:5000": {"auth": "bWU6cGFzczp3b3Jk"},
                          "localhost:5000/team": {"auth": "b3RoZXI6eA=="},
                          "empty.example": {}}}"#,
            &format!(
                r#"{{"auths": {{"localhost:5000": {{"auth": "aHViOnk="}},
                                "ghcr.io": {{"identitytoken": "t"}},
                                "https://{DOCKER_INDEX}/v1/": {{"auth": "aHViOnk="}}}}}}"#
            ),
            "",
        ]);
        let names = |registry, path| names(&credentials, registry, path);
        assert_eq!(names("localhost:5000", "a").as_deref(), Some("me/pass:word"));
        assert_eq!(names("localhost:5000", "team/a").as_deref(), Some("other/x"));
        assert_eq!(names("localhost:5000", "teamwork").as_deref(), Some("me/pass:word"));
        assert_eq!(names("docker.io", "library/demo").as_deref(), Some("hub/y"));
        assert_eq!(names("ghcr.io", "a/b").as_deref(), Some("t"));
        assert_eq!(names("empty.example", "a"), None);
        assert_eq!(names("localhost", "a"), None);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_and_its_passwords_are_not() {
        let (_directory, credentials) = files(&[r#"{"auths": {"a.example": {"auth": "bWU="}}}"#]);
        let refused = credentials.find("a.example", "b").err().unwrap().to_string();
        assert!(refused.ends_with("auths.\"a.example\" holds no name and password"), "{refused}");
        let (_directory, credentials) = files(&["{"]);
        assert!(matches!(credentials.find("a", "b"), Err(CredentialError::Json { .. })));
        let (_directory, credentials) = files(&[r#"{"credsStore": "../../bin/sh"}"#]);
        assert!(matches!(credentials.find("a", "b"), Err(CredentialError::HelperName { .. })));
    }
}
