use std::path::{Path, PathBuf};

use clap::Args;
use proto::spec::Process;

use super::create::{DemandError, write_pid};
use crate::exit::Failure;

// What runc's `exec` has beside what everybody's has.
#[derive(Args, Clone, Debug, Default)]
pub(in crate::cli) struct Added {
    /// Read the process from FILE, as `process` of `config.json` has it.
    #[arg(id = "process_file", short, long = "process", value_name = "FILE")]
    pub(in crate::cli) process_file: Option<PathBuf>,
    /// Do not wait for its end.
    #[arg(short, long)]
    pub(in crate::cli) detach: bool,
    /// Send the terminal's master to the Unix socket at PATH.
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) console_socket: Option<PathBuf>,
    /// Write the number of the process that stands for it to FILE.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) pid_file: Option<PathBuf>,
    /// More groups.
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// More capabilities.
    #[arg(short, long, value_name = "CAP")]
    cap: Vec<String>,
    /// It gains no privileges by what it executes.
    #[arg(long)]
    no_new_privs: bool,
    /// Begin in PATH, a cgroup that is there, seen from the container's.
    #[arg(long, value_name = "PATH", value_parser = cgroup)]
    cgroup: Option<PathBuf>,
    /// Wait for a paused container to go on.
    #[arg(long)]
    pub(in crate::cli) ignore_paused: bool,
    /// Give it N descriptors more, from 3 on: pipes, stream sockets, files, /dev/null.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(in crate::cli) preserve_fds: u32,
}

impl Added {
    /// Adds what was asked for to `process`.
    pub(in crate::cli) fn apply(&self, process: &mut Process) {
        process.user.additional_gids.extend(&self.additional_gids);
        process.no_new_privileges |= self.no_new_privs;
        process.cgroup.clone_from(&self.cgroup);
        let sets = &mut process.capabilities;
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            let missing = self.cap.iter().filter(|cap| !set.contains(cap));
            let missing: Vec<String> = missing.cloned().collect();
            set.extend(missing);
        }
    }
}

/// A controller in front of a cgroup.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names a controller, which has no cgroups of its own in version 2")]
struct NamesController(String);

/// A path as runc's option has it, `CONTROLLER:PATH` left out.
fn cgroup(word: &str) -> Result<PathBuf, NamesController> {
    match word.contains(':') {
        true => Err(NamesController(word.to_owned())),
        false => Ok(PathBuf::from(word)),
    }
}

/// Writes the file that callers wait for, if they want one.
pub(in crate::cli) fn write_pid_file(path: Option<&Path>, pid: u32) -> Result<(), Failure> {
    match path {
        None => Ok(()),
        Some(path) => write_pid(path, pid)
            .map_err(|source| DemandError::PidFile { path: path.to_owned(), source }.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_a_path_and_a_controller_is_refused() {
        assert_eq!(cgroup("/").unwrap(), Path::new("/"));
        assert_eq!(cgroup("a/b").unwrap(), Path::new("a/b"));
        assert_eq!(cgroup("cpu:a"), Err(NamesController("cpu:a".to_owned())));
    }
}
