//! OCI bundles with a busybox for a root.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::Outcome;

/// Programs of busybox that bundles' stories use.
const PROGRAMS: [&str; 27] = [
    "sh", "cat", "echo", "id", "kill", "ls", "mkdir", "mount", "ps", "seq", "sleep", "stat",
    "stty", "touch", "true", "tty", "uname", "dd", "hostname", "test", "chmod", "grep", "find",
    "head", "tr", "wc", "yes",
];

/// A directory with a `config.json` and a root.
pub struct Bundle {
    directory: TempDir,
}

impl Bundle {
    /// What `microvm spec` begins with, without a terminal, whose root can be written to, and whose
    /// program is `args`.
    pub fn new(args: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("bundle-").tempdir().unwrap();
        let mut spec = Command::new(crate::program().unwrap());
        Outcome::of(spec.arg("spec").current_dir(&directory)).expect_code(0);
        let bundle = Self { directory };
        for place in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir_all(bundle.root().join(place)).unwrap();
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let busybox = path.split(':').map(|place| Path::new(place).join("busybox"));
        let busybox = busybox.into_iter().find(|file| file.exists()).expect("busybox-static");
        fs::copy(busybox, bundle.root().join("bin/busybox")).unwrap();
        for program in PROGRAMS {
            symlink("busybox", bundle.root().join("bin").join(program)).unwrap();
        }
        bundle.edit(|spec| {
            spec["process"]["terminal"] = false.into();
            spec["process"]["args"] = args.into();
            spec["root"]["readonly"] = false.into();
        });
        bundle
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Its root's directory.
    pub fn root(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// Changes its `config.json`.
    pub fn edit(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path().join("config.json");
        let mut spec: Value = serde_json::from_reader(File::open(&path).unwrap()).unwrap();
        change(&mut spec);
        fs::write(path, serde_json::to_vec_pretty(&spec).unwrap()).unwrap();
    }

    /// Waits for a file that the guest writes into the root, and gives back what is in it.
    #[track_caller]
    pub fn wait_for(&self, file: &str) -> String {
        let (path, begun) = (self.root().join(file), Instant::now());
        loop {
            match fs::read_to_string(&path) {
                Ok(text) if !text.is_empty() => return text,
                _ => assert!(begun.elapsed().as_secs() < 300, "{file} never came"),
            }
            std::thread::yield_now();
        }
    }

    /// Adds a mount of the host's `source`.
    pub fn bind(&self, source: &Path, destination: &str, options: &[&str]) {
        let mount = serde_json::json!({
            "destination": destination, "type": "bind", "source": source, "options": options,
        });
        self.edit(|spec| spec["mounts"].as_array_mut().unwrap().push(mount));
    }
}
