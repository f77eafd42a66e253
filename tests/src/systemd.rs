//! A machine with systemd inside this one: namespaces and a cgroup in which systemd is process 1, and
//! manages the cgroups below.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Where systemd's cgroup is.
const GROUP: &str = "/sys/fs/cgroup/machine-with-systemd";

/// How long systemd may be silent while it starts.
const PATIENCE: Duration = Duration::from_secs(60);

/// What becomes of the new namespaces before systemd is started in them. What tools keep in `/run` and
/// in podman's store is not for both machines.
const BOOT: &str = r#"
    echo 0 > "$GROUP/cgroup.procs"
    exec unshare --cgroup sh -ec '
        # A cgroup whose controllers are for those below it has no process of its own.
        echo 0 > /sys/fs/cgroup/cgroup.procs
        exec unshare --mount --pid --ipc --fork sh -ec "
            echo 0 > $GROUP/cgroup.procs
            mount --make-rprivate /
            mount -t proc proc /proc
            umount /sys/fs/cgroup
            mount -t cgroup2 cgroup2 /sys/fs/cgroup
            mount -t tmpfs tmpfs /run
            mkdir -p /var/lib/containers
            mount -t tmpfs tmpfs /var/lib/containers
            mkdir -p /run/lock /run/systemd/system
            echo [Unit] > /run/systemd/system/story.target
            echo DefaultDependencies=no >> /run/systemd/system/story.target
            exec env container=story /usr/lib/systemd/systemd --system --unit=story.target
        "
    '
"#;

/// The machine. It ends with this.
pub struct Systemd {
    shell: Child,
    process: Pid,
    _directory: TempDir,
}

impl Systemd {
    /// Where systemd is, if it is installed.
    pub const PROGRAM: &str = "/usr/lib/systemd/systemd";

    /// Starts it, and waits until it says that it is up.
    pub fn start() -> Self {
        fs::create_dir(GROUP).unwrap();
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("notify");
        let notify = UnixDatagram::bind(&path).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-ec", BOOT]).env("GROUP", GROUP).env("NOTIFY_SOCKET", &path);
        let shell = shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let shell = shell.spawn().unwrap();
        let mut word = [0; 4096];
        loop {
            let length = notify.recv(&mut word).expect("a word of systemd");
            if String::from_utf8_lossy(&word[..length]).lines().any(|line| line == "READY=1") {
                break;
            }
        }
        let process = child_of(shell.id());
        Self { shell, process, _directory: directory }
    }

    /// A command in it, in a scope of its own as a person's session is.
    pub fn command<S: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, args: &[S]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.process.as_raw_nonzero().to_string()]);
        command.args(["--mount", "--pid", "--cgroup", "--ipc", "--"]);
        command.args(["systemd-run", "--scope", "--quiet", "--"]).arg(program).args(args);
        command.stdin(Stdio::null());
        command
    }

    /// Where cgroup `path`, as it is called in there, is for us.
    pub fn cgroup(&self, path: &str) -> PathBuf {
        Path::new(GROUP).join(path)
    }
}

/// `unshare --fork` is the shell's process, systemd its only child.
fn child_of(parent: u32) -> Pid {
    let file = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(file).unwrap();
    Pid::from_raw(text.trim().parse().unwrap()).unwrap()
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // With process 1 all of its namespace's processes end.
        kill_process(self.process, Signal::KILL).unwrap();
        self.shell.wait().unwrap();
        remove(Path::new(GROUP));
    }
}

fn remove(group: &Path) {
    for entry in fs::read_dir(group).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            remove(&entry.path());
        }
    }
    fs::remove_dir(group).unwrap();
}
