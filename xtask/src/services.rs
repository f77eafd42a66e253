//! Images of programs that people run, made of Debian's packages.
//!
//! `mmdebstrap` and `umoci` make them once, and they are kept in the cache. On their way to the stories they
//! take the road that a user's take: they are pushed to Debian's `docker-registry` on loopback, and `microvm`
//! pulls them from there into a store that the stories share.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::build::Outputs;
use crate::cache::{self, Key};
use crate::registry::{self, Registry};
use crate::{packages, paths, step};

/// What makes them.
const TOOLS: &[&str] = &["mmdebstrap", "umoci"];

const SUITE: &str = "trixie";

/// Where a Debian has its programs.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image of one layer.
struct Service {
    name: &'static str,
    packages: &'static [&'static str],
    /// What the shell does to the root at `$1` before these are installed.
    before: Option<&'static str>,
    /// Where its programs are, beside the usual places.
    path: Option<&'static str>,
    user: Option<&'static str>,
    command: &'static [&'static str],
}

/// One of which nothing is to be said.
const PLAIN: Service =
    Service { name: "", packages: &[], before: None, path: None, user: None, command: &[] };

const SERVICES: &[Service] = &[
    Service {
        name: "redis",
        packages: &["redis-server", "redis-tools"],
        user: Some("redis"),
        command: &["redis-server", "--save", "", "--dir", "/var/lib/redis"],
        ..PLAIN
    },
    Service {
        name: "nginx",
        packages: &["nginx-light", "curl", "iperf3"],
        command: &["nginx", "-g", "daemon off;"],
        ..PLAIN
    },
    Service {
        name: "python",
        packages: &["python3", "libpython3.13-testsuite"],
        command: &["python3"],
        ..PLAIN
    },
    Service { name: "node", packages: &["nodejs"], command: &["node"], ..PLAIN },
    Service {
        name: "postgres",
        packages: &["postgresql-17"],
        // A database is its user's to make, not the package's.
        before: Some(
            "mkdir -p \"$1/etc/postgresql-common\" && \
             echo create_main_cluster = false > \"$1/etc/postgresql-common/createcluster.conf\"",
        ),
        path: Some("/usr/lib/postgresql/17/bin"),
        user: Some("postgres"),
        command: &["postgres"],
    },
];

/// A store with all of them in it, which the `microvm` among `outputs` has pulled.
pub(crate) fn store(outputs: &Outputs) -> Result<PathBuf> {
    registry::install()?;
    let layout = layout()?;
    let microvm = outputs.directory.join("microvm");
    let key = Key::new().part("layout", layout.as_os_str().as_encoded_bytes());
    let key = key.file("microvm", &microvm)?.short();
    let place = paths::target().join("services");
    let store = place.join(&key);
    if store.is_dir() {
        return Ok(store);
    }
    if place.is_dir() {
        fs::remove_dir_all(&place).with_context(|| place.display().to_string())?;
    }
    let half = place.join("half");
    fs::create_dir_all(&half).with_context(|| half.display().to_string())?;
    let registry = Registry::serve(&place)?;
    for Service { name, .. } in SERVICES {
        let from = format!("oci:{}:{name}", layout.display());
        let image = registry.push(&from, &format!("debian/{name}"))?;
        let call = |words: &[&str]| {
            let mut call = Command::new(&microvm);
            call.arg("--store").arg(&half).args(words);
            call
        };
        step::quiet(&format!("{name}: pulling"), &mut call(&["pull", "--quiet", &image]))?;
        step::quiet(&format!("{name}: naming"), &mut call(&["tag", &image, name]))?;
    }
    drop(registry);
    fs::rename(&half, &store).with_context(|| store.display().to_string())?;
    Ok(store)
}

/// An OCI layout with all of them in it, from the cache.
pub(crate) fn layout() -> Result<PathBuf> {
    packages::install(TOOLS)?;
    let key = Key::new().part("recipe", include_str!("services.rs"));
    Ok(cache::entry("services", &key, build)?.join("layout"))
}

fn build(entry: &Path) -> Result<()> {
    let (layout, tar) = (entry.join("layout"), entry.join("root.tar"));
    let umoci = |verb: &[&str], place: &str| {
        let mut umoci = Command::new("umoci");
        umoci.args(verb).arg(place);
        umoci
    };
    let place = layout.display().to_string();
    step::quiet("images of services: a place", &mut umoci(&["init", "--layout"], &place))?;
    for service in SERVICES {
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap.args(["--variant=minbase", "--dpkgopt=force-unsafe-io"]);
        let left_out = ["man", "locale", "doc"];
        mmdebstrap
            .args(left_out.map(|it| format!("--dpkgopt=path-exclude=/usr/share/{it}/*")))
            .args(service.before.map(|script| format!("--essential-hook={script}")))
            .arg(format!("--include={}", service.packages.join(",")))
            .arg(SUITE)
            .arg(&tar);
        let name = service.name;
        step::quiet(&format!("{name}: installing Debian {SUITE}"), &mut mmdebstrap)?;
        let image = format!("{place}:{name}");
        let what = format!("{name}: making the image");
        step::quiet(&what, &mut umoci(&["new", "--image"], &image))?;
        let mut layer = umoci(&["raw", "add-layer", "--image"], &image);
        step::quiet(&what, layer.arg(&tar))?;
        let mut config = umoci(&["config", "--image"], &image);
        for word in service.command {
            config.args(["--config.cmd", word]);
        }
        if let Some(path) = service.path {
            config.args(["--config.env", &format!("PATH={path}:{USUAL_PATH}")]);
        }
        if let Some(user) = service.user {
            config.args(["--config.user", user]);
        }
        step::quiet(&what, &mut config)?;
        fs::remove_file(&tar).with_context(|| tar.display().to_string())?;
    }
    step::quiet("images of services: tidying", &mut umoci(&["gc", "--layout"], &place))
}
