//! The house as an engine sees it, which calls us as it calls runc.

use std::fs::File;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};
use serde_json::Value;

use crate::{Bundle, House, Outcome};

/// How long a process that is about to end may take to be gone, in seconds.
const ENDING: i64 = 60;

impl House {
    /// `microvm ARGS…` with its standard streams to nowhere, as engines create containers: what is
    /// left behind has them too.
    #[track_caller]
    pub fn quietly(&self, args: &[&str]) -> Outcome {
        self.quietly_into(args, "said")
    }

    /// The same, with what is said in a file of its own: for several at once.
    #[track_caller]
    pub fn quietly_into(&self, args: &[&str], file: &str) -> Outcome {
        let mut command = self.command(args);
        let said = self.state().join(file);
        let file = File::create(&said).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let code = command.status().unwrap().code().unwrap_or(-1);
        let stderr = std::fs::read_to_string(&said).unwrap();
        std::fs::remove_file(said).unwrap();
        Outcome { code, stdout: vec![], stderr }
    }

    /// Creates a container of a bundle.
    #[track_caller]
    pub fn create(&self, bundle: &Bundle, name: &str) {
        let directory = bundle.path().to_str().unwrap();
        self.quietly(&["create", "--bundle", directory, name]).expect_code(0);
    }

    /// What `state` says, or `None` if it says that there is no such container.
    #[track_caller]
    pub fn state_of(&self, name: &str) -> Option<Value> {
        let said = self.call(["state", name]);
        if said.code == 1 && said.stderr.contains("does not exist") {
            return None;
        }
        Some(serde_json::from_slice(&said.expect_code(0).stdout).unwrap())
    }

    /// How far a container is, in the word of its state.
    #[track_caller]
    pub fn status(&self, name: &str) -> String {
        let state = self.state_of(name).unwrap_or_else(|| panic!("there is no {name}"));
        state["status"].as_str().unwrap().to_owned()
    }

    /// Of a container that was deleted there is nothing, when what was about to end has ended: neither
    /// in the state directory, nor among processes, cgroups, mounts and temporary files.
    #[track_caller]
    pub fn expect_cleared(&self, name: &str) {
        for (pid, line) in self.processes() {
            let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            let time = Timespec { tv_sec: ENDING, tv_nsec: 0 };
            let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&time)).unwrap();
            assert_eq!(ended, 1, "{line} ({pid}) does not end");
        }
        let entries = std::fs::read_dir(self.state()).unwrap().flatten();
        let left: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        let of_it = |file: &&std::ffi::OsString| file.to_string_lossy().contains(name);
        let left: Vec<_> = left.iter().filter(of_it).collect();
        assert!(left.is_empty(), "left in the state directory: {left:?}");
        assert!(!Path::new("/sys/fs/cgroup").join(name).exists(), "its cgroup is left");
        self.expect_nothing_left();
    }
}
