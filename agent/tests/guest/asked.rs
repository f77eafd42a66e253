//! What is asked of an agent, in few words.

use std::path::{Path, PathBuf};

use proto::message::{ProcessId, Request};
use proto::spec::{Capabilities, Container, Mount, Process, Root, Stdio, User};

/// The call that creates a container.
pub(crate) fn create(name: &str, spec: Container) -> Request {
    Request::Create { container: name.into(), spec: Box::new(spec) }
}

/// The call that starts it.
pub(crate) fn start(name: &str) -> Request {
    Request::Start { container: name.into() }
}

/// The call that waits for a process.
pub(crate) fn wait(process: &ProcessId) -> Request {
    Request::Wait { process: process.clone(), early: false }
}

/// No stream at all.
pub(crate) const NO_STREAMS: Stdio = Stdio::Pipes { stdin: false, stdout: false, stderr: false };

/// A container's first process.
pub(crate) fn first(container: &str) -> ProcessId {
    ProcessId { container: container.into(), exec: None }
}

/// One more process.
pub(crate) fn exec(container: &str, name: &str) -> ProcessId {
    ProcessId { container: container.into(), exec: Some(name.into()) }
}

/// A container as other engines make it.
pub(crate) fn container(root: &Path, args: &[&str]) -> Container {
    let mount = |destination: &str, kind: &str, options: &[&str]| Mount {
        destination: destination.into(),
        kind: Some(kind.into()),
        source: Some(kind.into()),
        options: options.iter().map(|option| option.to_string()).collect(),
        ..Mount::default()
    };
    Container {
        root: Root::Directory { path: root.into() },
        readonly: false,
        hostname: Some("box".into()),
        mounts: vec![
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount(
                "/dev/pts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            ),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        masked_paths: ["/proc/kcore", "/proc/keys", "/proc/acpi", "/proc/nope"]
            .map(PathBuf::from)
            .into(),
        readonly_paths: ["/proc/sys", "/proc/nope"].map(PathBuf::from).into(),
        process: process(args),
        ..Container::default()
    }
}

/// A process that writes to both of its outputs and reads nothing.
pub(crate) fn process(args: &[&str]) -> Process {
    let some: Vec<String> =
        ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE"]
            .map(String::from)
            .into();
    Process {
        stdio: Stdio::Pipes { stdin: false, stdout: true, stderr: true },
        user: User::default(),
        args: args.iter().map(|arg| arg.to_string()).collect(),
        env: vec!["PATH=/bin".into()],
        cwd: "/".into(),
        capabilities: Capabilities {
            bounding: some.clone(),
            effective: some.clone(),
            permitted: some,
            ..Capabilities::default()
        },
        no_new_privileges: true,
        ..Process::default()
    }
}
