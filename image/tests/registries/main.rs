//! Pulls from registries: good ones, bad ones of the tests' own, and the one that Debian packages.
//!
//! The last kind needs `docker-registry`, `skopeo` and `openssl`. A test that cannot run here says why and
//! is counted as ignored. Everything is on loopback.

mod bad;
mod debian;
mod good;
mod place;
mod shelf;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use image::{Access, Platform, Store};
use libtest_mimic::{Arguments, Trial};

/// Set in a process of this program that is to pull the image that is its argument, into this store.
const CHILD: &str = "IMAGE_TEST_PULL";

fn main() -> ExitCode {
    if let Some(store) = std::env::var_os(CHILD) {
        return pull(Path::new(&store));
    }
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    trials.extend(good::TESTS.iter().map(|&(name, test)| trial(name, &Ok(()), test)));
    trials.extend(bad::TESTS.iter().map(|&(name, test)| trial(name, &Ok(()), test)));
    let can = ["docker-registry", "skopeo", "openssl"].iter().try_for_each(|name| tool(name));
    trials.extend(debian::TESTS.iter().map(|&(name, test)| trial(name, &can, test)));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A test by its name.
type Test = (&'static str, fn());

fn trial(name: &str, can: &Result<(), String>, test: fn()) -> Trial {
    let trial = Trial::test(name, move || {
        test();
        Ok(())
    });
    match can {
        Ok(()) => trial,
        Err(why) => {
            eprintln!("{name} cannot run here: {why}");
            trial.with_ignored_flag(true)
        }
    }
}

fn tool(name: &str) -> Result<(), String> {
    let mut command = Command::new(name);
    let command = command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null());
    let found = command.stderr(Stdio::null()).status();
    found.map(drop).map_err(|error| format!("{name}: {error}"))
}

/// What the child does: pulls as this user's programs would, with the environment it was given.
fn pull(store: &Path) -> ExitCode {
    let image = std::env::args().nth(1).unwrap_or_default();
    let pulled = Store::open(store).unwrap().pull(
        &image.parse().unwrap(),
        &Platform::here(),
        &Access::default(),
        &(),
    );
    match pulled {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", place::chain(&error));
            ExitCode::from(125)
        }
    }
}

/// A process that pulls `image` into `store`, not started yet, with nobody's settings.
fn child(store: &Path, image: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(image).env_clear().env(CHILD, store).stdin(Stdio::null());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}
