//! One story's world, and the check that it was left as it was found.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Marks every process of one story: children inherit their environment, and `/proc` shows it.
const MARK: &str = "MICROVM_STORY";

/// A state directory of its own and a way to call `microvm` in it.
pub struct House {
    state: TempDir,
    mark: String,
    mounts_before: BTreeSet<String>,
    files_before: BTreeSet<PathBuf>,
}

/// What a finished command gave back.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; 128 and the signal's number for a command that a signal ended.
    pub code: i32,
    /// Everything on standard output.
    pub stdout: Vec<u8>,
    /// Everything on standard error.
    pub stderr: String,
}

impl Outcome {
    /// Runs a command from start to end.
    pub fn of(command: &mut Command) -> Self {
        finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Holds the outcome against an exit code, and shows all of it when it differs.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.text(), self.stderr);
        self
    }

    /// The promise for bad input: exit 125 and one line on standard error that names `thing`.
    #[track_caller]
    pub fn expect_refusal(self, thing: &str) {
        let outcome = self.expect_code(125);
        let lines: Vec<_> = outcome.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "one line on stderr, not: {}", outcome.stderr);
        assert!(lines[0].contains(thing), "{thing:?} is not named: {}", lines[0]);
    }
}

impl House {
    /// A new house. It has its templates in common with the others, so that not each has to make them.
    #[allow(clippy::new_without_default)] // It looks at the machine; a default would hide that.
    pub fn new() -> Self {
        let house = Self::without_templates();
        let shared = store().join("templates");
        fs::create_dir_all(&shared).unwrap();
        std::os::unix::fs::symlink(shared, house.state().join(".templates")).unwrap();
        house
    }

    /// A house that has never started anything.
    pub fn without_templates() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self {
            state: tempfile::Builder::new().prefix("story-").tempdir().unwrap(),
            mark: format!("{}-{number}", std::process::id()),
            mounts_before: mounts(),
            files_before: temporary_files(),
        }
    }

    /// The state directory.
    pub fn state(&self) -> &Path {
        self.state.path()
    }

    /// The disks that this story's containers write to.
    pub fn disks(&self) -> Vec<PathBuf> {
        let root = self.state().file_name().unwrap().to_str().unwrap();
        let roots = fs::read_dir(store().join("storage")).into_iter().flatten().flatten();
        let ours = roots.filter(|item| item.file_name().to_string_lossy().ends_with(root));
        let disks = ours.flat_map(|root| fs::read_dir(root.path()).unwrap().flatten());
        disks.map(|disk| disk.path()).collect()
    }

    /// `microvm ARGS…` in this house, not started yet.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        self.command_with_store(store(), args)
    }

    /// The same with a store of the story's own.
    pub fn command_with_store<S: AsRef<OsStr>>(
        &self,
        store: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(crate::program().unwrap());
        command.arg("--root").arg(self.state()).arg("--store").arg(store).args(args);
        // Who is about networks says so: being on one takes the host's part in every start.
        command.env(MARK, &self.mark).env("MICROVM_NETWORK", "none").stdin(Stdio::null());
        command
    }

    /// `microvm ARGS…` from start to end.
    pub fn call<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        Outcome::of(&mut self.command(args))
    }

    /// `microvm run --rm demo sh -c SCRIPT` from start to end.
    pub fn script(&self, script: &str) -> Outcome {
        self.call(["run", "--rm", "demo", "sh", "-c", script])
    }

    /// Starts `microvm ARGS…` with pipes on all three descriptors.
    pub fn start<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Running {
        Running::of(&mut self.command(args))
    }

    /// Process ids of everything this story started that is still there.
    pub fn processes(&self) -> Vec<(Pid, String)> {
        marked(|mark| mark == self.mark)
    }

    /// The one process of this story whose command line contains `word`.
    #[track_caller]
    pub fn process(&self, word: &str) -> Pid {
        let processes = self.processes();
        let mut matching = processes.iter().filter(|(_, line)| line.contains(word));
        let (pid, _) = matching.next().unwrap_or_else(|| panic!("no {word} among {processes:?}"));
        assert!(matching.next().is_none(), "more than one {word}: {processes:?}");
        *pid
    }

    /// Nothing of this story may be on the machine any more: no process, mount, container or file.
    #[track_caller]
    pub fn expect_nothing_left(&self) {
        let processes = self.processes();
        assert!(processes.is_empty(), "processes left: {processes:?}");
        let left: Vec<_> =
            fs::read_dir(self.state()).unwrap().flatten().map(|e| e.path()).collect();
        let containers: Vec<_> =
            left.iter().filter(|path| path.join("state.json").exists()).collect();
        assert!(containers.is_empty(), "containers left: {containers:?}");
        assert!(self.disks().is_empty(), "disks left: {:?}", self.disks());
        let mounts: Vec<_> = mounts().difference(&self.mounts_before).cloned().collect();
        assert!(mounts.is_empty(), "mounts left: {mounts:?}");
        let files: Vec<_> = temporary_files().difference(&self.files_before).cloned().collect();
        assert!(files.is_empty(), "files left: {files:?}");
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if thread::panicking() {
            for (pid, _) in self.processes() {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// A command under way.
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts a command with pipes on all three descriptors.
    pub fn of(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { child: command.spawn().unwrap() }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Reads its standard output until `text` was seen.
    #[track_caller]
    pub fn read_until(&mut self, text: &str) -> String {
        let stdout = self.child.stdout.as_mut().unwrap();
        let mut seen = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&seen).contains(text) {
            assert_ne!(stdout.read(&mut byte).unwrap(), 0, "{text:?} never came: {seen:?}");
            seen.extend(byte);
        }
        String::from_utf8(seen).unwrap()
    }

    /// Writes to its standard input.
    pub fn write(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Goes away as a reader of its standard output.
    pub fn close_stdout(&mut self) {
        drop(self.child.stdout.take());
    }

    /// Closes its standard input and waits for its end.
    pub fn finish(mut self) -> Outcome {
        drop(self.child.stdin.take());
        finish(self.child)
    }

    /// Gives `input` to its standard input from a thread of its own, then waits for its end.
    pub fn finish_with(mut self, input: impl FnOnce(&mut ChildStdin) + Send + 'static) -> Outcome {
        let mut stdin = self.child.stdin.take().unwrap();
        let writer = thread::spawn(move || input(&mut stdin));
        let outcome = finish(self.child);
        writer.join().unwrap();
        outcome
    }
}

/// Every process on whose mark `is_meant`, with its command line.
fn marked(is_meant: impl Fn(&str) -> bool) -> Vec<(Pid, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that ends while it is looked at is gone, which is what is asked.
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment);
        let mut marks =
            environment.split('\0').filter_map(|it| it.strip_prefix(MARK)?.strip_prefix('='));
        if marks.any(&is_meant) {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            found.push((Pid::from_raw(pid).unwrap(), line));
        }
    }
    found
}

/// Kills every process of every story told here, and gives back what they were.
pub fn end_everybody() -> Vec<(Pid, String)> {
    let ours = format!("{}-", std::process::id());
    let all = marked(|mark| mark.starts_with(&ours));
    for (pid, _) in &all {
        let _ = kill_process(*pid, Signal::KILL);
    }
    all
}

fn finish(child: Child) -> Outcome {
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: shell_code(output.status),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn shell_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

/// The image store all stories share, with the demo image in it.
fn store() -> &'static Path {
    static STORE: OnceLock<PathBuf> = OnceLock::new();
    STORE.get_or_init(|| {
        let store = std::env::temp_dir().join(format!("stories-store-{}", std::process::id()));
        let demo =
            std::env::var_os("MICROVM_DEMO").expect("MICROVM_DEMO names the demo image's archive");
        let mut load = Command::new(crate::program().unwrap());
        let status =
            load.arg("--store").arg(&store).arg("load").arg(demo).stdout(Stdio::null()).status();
        assert!(status.unwrap().success(), "the demo image could not be loaded");
        store
    })
}

/// A store with the images of services. It is this machine's own, with a disk for what containers write; the
/// images themselves, which are a gigabyte, stay where they are.
pub fn services_store() -> &'static Path {
    static STORE: OnceLock<PathBuf> = OnceLock::new();
    STORE.get_or_init(|| {
        let shared = crate::services().expect("MICROVM_SERVICES names a store");
        let store = services_place();
        fs::create_dir(&store).unwrap();
        for name in ["blobs", "images"] {
            std::os::unix::fs::symlink(shared.join(name), store.join(name)).unwrap();
        }
        for name in ["names.json", "version"] {
            fs::copy(shared.join(name), store.join(name)).unwrap();
        }
        store
    })
}

fn services_place() -> PathBuf {
    Path::new("/var/tmp").join(format!("stories-services-{}", std::process::id()))
}

/// Removes what the stories shared. Called once, by the runner.
pub fn clear_store() {
    let _ = fs::remove_dir_all(
        std::env::temp_dir().join(format!("stories-store-{}", std::process::id())),
    );
    let _ = fs::remove_dir_all(services_place());
}

fn mounts() -> BTreeSet<String> {
    fs::read_to_string("/proc/self/mounts").unwrap().lines().map(str::to_owned).collect()
}

/// What lies in the places where programs put temporary files, other than the stories' own.
fn temporary_files() -> BTreeSet<PathBuf> {
    let places = ["/tmp", "/var/tmp", "/dev/shm", "/run"];
    let entries = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
    entries
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with("stor"))
        .map(|entry| entry.path())
        .collect()
}
