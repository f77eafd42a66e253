//! The guest kernel: Debian's newest Linux 6.12, or a tarball of it, built once per source,
//! configuration and compiler by `guest-kernel/build.sh`.
//!
//! Off Debian, or to build another 6.12, `MICROVM_KERNEL_TARBALL` is the path of a tarball and
//! `MICROVM_KERNEL_SHA256` its hash.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cache::{self, Key};
use crate::{packages, paths, step};

/// The package whose newest version is built.
const PACKAGE: &str = "linux-source-6.12";

/// Where that package keeps the one file that matters.
const PACKAGED: &str = "usr/src/linux-source-6.12.tar.xz";

/// What Linux's build runs, beyond what every Debian has.
const TOOLS: &[&str] =
    &["bc", "binutils", "bison", "flex", "gcc", "libc6-dev", "libelf-dev", "make", "xz-utils"];

/// What is known of a kernel that was built; stands beside it as `about.json`.
#[derive(Serialize, Deserialize)]
struct About {
    source: Source,
    /// As Linux says it: `6.12.117`.
    linux: String,
    /// Of the tarball of Linux's source.
    tarball_sha256: String,
    compiler: String,
    build_seconds: u64,
}

/// Which source is built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "from")]
enum Source {
    /// Debian's package, in the version and with the hash that the signed package lists name.
    Package { version: String, sha256: String },
    /// A file of the user's.
    Tarball { path: PathBuf, sha256: String },
}

/// Builds the guest kernel, or finds it in the cache, and says where the `vmlinux` is.
pub(crate) fn build() -> Result<PathBuf> {
    Ok(entry()?.join("vmlinux"))
}

/// Builds as [`build`] does, and prints what came of it.
pub(crate) fn print() -> Result<()> {
    let entry = entry()?;
    let about = entry.join("about.json");
    let text = fs::read(&about).with_context(|| about.display().to_string())?;
    let about: About =
        serde_json::from_slice(&text).with_context(|| about.display().to_string())?;
    let vmlinux = entry.join("vmlinux");
    let options = fs::read_to_string(entry.join("config"))?;
    let options = options.lines().filter(|line| line.ends_with("=y")).count();
    println!("{}", vmlinux.display());
    println!("  version   {}, from {}", about.linux, about.source);
    println!("  source    sha256 {}", about.tarball_sha256);
    println!("  compiler  {}", about.compiler);
    println!("  options   {options} on");
    println!("  size      {} bytes", fs::metadata(&vmlinux)?.len());
    println!("  built in  {} s", about.build_seconds);
    Ok(())
}

/// The kernel's directory in the cache.
fn entry() -> Result<PathBuf> {
    packages::install(TOOLS)?;
    let compiler = first_line("gcc")?;
    let recipe = recipe(&compiler, &first_line("ld")?)?;
    let source = source(&recipe)?;
    cache::entry("kernel", &source.key(&recipe), |directory| make(&source, compiler, directory))
}

/// The source to build. Package lists are refreshed only when there is something to build: a kernel
/// that stands is not replaced because time went by.
fn source(recipe: &Key) -> Result<Source> {
    if let Some(source) = Source::from_environment()? {
        return Ok(source);
    }
    if let Ok(source) = Source::candidate()
        && cache::holds("kernel", &source.key(recipe))?
    {
        return Ok(source);
    }
    packages::refresh()?;
    Source::candidate()
}

/// All that decides what is built, but for the source.
fn recipe(compiler: &str, linker: &str) -> Result<Key> {
    let room = paths::checkout().join("guest-kernel");
    let config = room.join("config");
    let mut fragments = fs::read_dir(&config)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>())
        .with_context(|| config.display().to_string())?;
    fragments.sort();
    let key = Key::new().part("compiler", compiler).part("linker", linker);
    fragments
        .iter()
        .try_fold(key, |key, path| {
            key.file(&path.file_name().unwrap_or_default().to_string_lossy(), path)
        })?
        .file("build.sh", &room.join("build.sh"))
}

/// Fetches, checks, unpacks and builds `source` into `directory`, and leaves only results there.
fn make(source: &Source, compiler: String, directory: &Path) -> Result<()> {
    let scratch = directory.join("scratch");
    fs::create_dir(&scratch)?;
    let tarball = source.fetch(&scratch)?;
    let tarball_sha256 = sha256(&tarball)?;

    let began = Instant::now();
    let build = paths::checkout().join("guest-kernel/build.sh");
    let what = format!("building the guest kernel from {source}");
    step::say(&what);
    step::open(&what, Command::new(build).arg(&tarball).arg(&scratch))?;
    let build_seconds = began.elapsed().as_secs();
    step::say(&format!("{what}: done in {build_seconds} s"));

    for name in ["vmlinux", "config"] {
        fs::rename(scratch.join(name), directory.join(name)).with_context(|| name.to_owned())?;
    }
    let linux = fs::read_to_string(scratch.join("version"))?.trim().to_owned();
    let about = About { source: source.clone(), linux, tarball_sha256, compiler, build_seconds };
    fs::write(directory.join("about.json"), serde_json::to_vec_pretty(&about)?)?;
    fs::remove_dir_all(&scratch).with_context(|| scratch.display().to_string())
}

impl Source {
    fn from_environment() -> Result<Option<Self>> {
        let names = ["MICROVM_KERNEL_TARBALL", "MICROVM_KERNEL_SHA256"];
        match names.map(|name| env::var(name).ok().filter(|value| !value.is_empty())) {
            [None, None] => Ok(None),
            [Some(path), Some(sha256)] => Ok(Some(Self::Tarball { path: path.into(), sha256 })),
            _ => bail!("a kernel tarball needs both {}", names.join(" and ")),
        }
    }

    /// What apt would download now.
    fn candidate() -> Result<Self> {
        let mut apt = Command::new("apt-get");
        apt.args(["--print-uris", "download", PACKAGE]);
        let answer = step::read("looking up Debian's Linux source", &mut apt)?;
        Self::from_uri(&answer).with_context(|| format!("apt-get on {PACKAGE}: {answer:?}"))
    }

    /// Reads `'<address>' <package>_<version>_all.deb <size> SHA256:<hash>`.
    fn from_uri(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().skip(1);
        let version = words.next()?.strip_prefix(PACKAGE)?.strip_prefix('_')?;
        let version = version.strip_suffix("_all.deb")?.replace("%3a", ":");
        let sha256 = words.nth(1)?.strip_prefix("SHA256:")?.to_owned();
        Some(Self::Package { version, sha256 })
    }

    /// Where a tarball lies does not matter.
    fn key(&self, recipe: &Key) -> Key {
        match self {
            Self::Package { version, sha256 } => {
                recipe.clone().part("package", version).part("sha256", sha256)
            }
            Self::Tarball { sha256, .. } => recipe.clone().part("tarball", sha256),
        }
    }

    /// The tarball, whose hash was checked.
    fn fetch(&self, scratch: &Path) -> Result<PathBuf> {
        match self {
            Self::Package { version, sha256 } => {
                let package = format!("{PACKAGE}={version}");
                step::quiet(
                    &format!("downloading {package}"),
                    // As root, apt would rather download as a user who cannot write here.
                    Command::new("apt-get")
                        .args(["-qq", "-o", "APT::Sandbox::User=root", "download", &package])
                        .current_dir(scratch),
                )?;
                let deb = only_file(scratch)?;
                expect(&deb, sha256)?;
                let mut unpack = Command::new("dpkg-deb");
                unpack.arg("--extract").arg(&deb).arg(scratch.join("package"));
                step::quiet(&format!("unpacking {package}"), &mut unpack)?;
                fs::remove_file(&deb)?;
                Ok(scratch.join("package").join(PACKAGED))
            }
            Self::Tarball { path, sha256, .. } => {
                expect(path, sha256)?;
                Ok(path.clone())
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Package { version, .. } => write!(to, "{PACKAGE} {version}"),
            Self::Tarball { path, .. } => write!(to, "{}", path.display()),
        }
    }
}

fn expect(path: &Path, wanted: &str) -> Result<()> {
    let found = sha256(path)?;
    if found != wanted {
        bail!("{} has sha256 {found}, not {wanted}", path.display());
    }
    Ok(())
}

/// By the system's tool: this program is built without optimisation, and these are large files.
fn sha256(path: &Path) -> Result<String> {
    let line = step::read("hashing", Command::new("sha256sum").arg("--").arg(path))?;
    let hash = line.split_whitespace().next().unwrap_or_default();
    Ok(hash.trim_start_matches('\\').to_owned())
}

fn only_file(directory: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    match entries.as_slice() {
        [one] => Ok(one.path()),
        _ => bail!("{}: {} files where one was expected", directory.display(), entries.len()),
    }
}

fn first_line(program: &str) -> Result<String> {
    let text = step::read("asking for its version", Command::new(program).arg("--version"))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "'http://deb.example/pool/linux-source-6.12_6.12.117-1%7edeb12u1_all.deb' \
         linux-source-6.12_6.12.117-1~deb12u1_all.deb 153476148 SHA256:e849faf3\n";

    #[test]
    fn the_version_and_hash_apt_names_are_taken() {
        let source = Source::from_uri(LINE).unwrap();
        let expected =
            Source::Package { version: "6.12.117-1~deb12u1".into(), sha256: "e849faf3".into() };
        assert_eq!(source, expected);
        assert_eq!(Source::from_uri(""), None);
        assert_eq!(Source::from_uri(&LINE.replace("SHA256", "MD5Sum")), None);
    }

    #[test]
    fn another_source_is_another_kernel_wherever_the_same_one_lies() {
        let recipe = Key::new().part("compiler", "gcc");
        let tarball = |path: &str, sha256: &str| {
            Source::Tarball { path: path.into(), sha256: sha256.into() }.key(&recipe).short()
        };
        assert_eq!(tarball("/a", "11"), tarball("/b", "11"));
        assert_ne!(tarball("/a", "11"), tarball("/a", "22"));
        assert_ne!(tarball("/a", "11"), Source::from_uri(LINE).unwrap().key(&recipe).short());
    }

    #[test]
    fn a_tarball_with_another_hash_is_refused_by_name() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("linux.tar.xz");
        fs::write(&path, "not it").unwrap();
        let source = Source::Tarball { path: path.clone(), sha256: "00".into() };
        let error = source.fetch(scratch.path()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{} has sha256 ", path.display())), "{error}");
        assert!(error.ends_with(", not 00"), "{error}");
    }
}
