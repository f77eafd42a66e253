//! The agent as an ordinary process of this machine, on Unix sockets, and a host to talk to it.
#![allow(dead_code, reason = "each file of tests uses its part of it")]

mod asked;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agent::{Agent, Doors, Ground, Guest, Refused, Session};
use proto::frame::{self, Decoder};
use proto::message::{Adoption, Answer, Call, ExitStatus, Fault, Hello, ProcessId, Reply, Request};
use proto::network::Network;
use proto::spec::Container;
use proto::stream::{Attach, Stream};

pub(crate) use asked::*;

/// An agent, alone in its pid and mount namespaces, so that nothing of it is left when it is gone.
pub(crate) struct Running {
    directory: PathBuf,
    pid: libc::pid_t,
    /// The first session, which the agent opened.
    pub(crate) host: Host,
}

/// The host's end of a session.
pub(crate) struct Host {
    socket: UnixStream,
    decoder: Decoder,
    hello: Option<Hello>,
    answers: BTreeMap<u64, Result<Reply, Fault>>,
    last_call: u64,
}

/// Whether containers can be made here. Says so if not, past the capture of the test's output.
pub(crate) fn containers_work_here(test: &str) -> bool {
    let busybox = Path::new("/bin/busybox").exists();
    // SAFETY: the child only asks for namespaces and ends.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: this process has one thread.
        let result = unsafe { libc::unshare(libc::CLONE_NEWPID | libc::CLONE_NEWNS) };
        // SAFETY: never returns.
        unsafe { libc::_exit(result & 1) };
    }
    let namespaces = wait_for(pid) == 0;
    if !namespaces || !busybox {
        let why = format!("new namespaces: {namespaces}, /bin/busybox: {busybox}");
        let _ = writeln!(std::io::stderr(), "skipped: {test} ({why})");
    }
    namespaces && busybox
}

impl Running {
    /// Starts an agent.
    pub(crate) fn start() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory =
            std::env::temp_dir().join(format!("agent-test-{}-{number}", std::process::id()));
        for part in ["run", "cgroup", "hierarchy"] {
            std::fs::create_dir_all(directory.join(part)).unwrap();
        }
        let sessions = UnixListener::bind(directory.join("sessions")).unwrap();
        let stdio = UnixListener::bind(directory.join("stdio")).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let doors = Doors { sessions: sessions.into(), stdio: stdio.into() };
        // SAFETY: the child only runs the agent, which needs nothing of this process's threads.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            live(&directory, doors, theirs.into());
        }
        Self { directory, pid, host: Host::new(ours) }
    }

    /// A further session.
    pub(crate) fn session(&self) -> Host {
        Host::new(self.dial_session())
    }

    /// A connection for a session on which nothing was said yet.
    pub(crate) fn dial_session(&self) -> UnixStream {
        UnixStream::connect(self.directory.join("sessions")).unwrap()
    }

    /// A connection for a stream on which nothing was said yet.
    pub(crate) fn dial_stdio(&self) -> UnixStream {
        UnixStream::connect(self.directory.join("stdio")).unwrap()
    }

    /// A stream of a process.
    pub(crate) fn attach(&self, process: &ProcessId, stream: Stream) -> UnixStream {
        let mut socket = self.dial_stdio();
        let attach = Attach { version: proto::VERSION, process: process.clone(), stream };
        socket.write_all(&frame::encode(&attach).unwrap()).unwrap();
        socket
    }

    /// Where the root of a container is.
    pub(crate) fn root_of(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The root of a container with busybox in it.
    pub(crate) fn root(&self, name: &str) -> PathBuf {
        let root = self.root_of(name);
        for part in ["bin", "etc", "tmp"] {
            std::fs::create_dir_all(root.join(part)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in [
            "sh",
            "cat",
            "echo",
            "id",
            "ls",
            "sleep",
            "dd",
            "true",
            "mount",
            "hostname",
            "stty",
            "head",
            "kill",
            "pwd",
            "env",
            "ps",
            "grep",
            "stat",
            "readlink",
            "ulimit",
            "mkdir",
            "touch",
            "tty",
            "yes",
            "wc",
            "mknod",
            "umount",
            "sed",
            "usleep",
            "cut",
            "uname",
            "ionice",
            "dnsdomainname",
            "chown",
            "date",
        ] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001:Ann:/home/ann:/bin/sh\n";
        std::fs::write(root.join("etc/passwd"), passwd).unwrap();
        std::fs::write(root.join("etc/group"), "root:x:0:\nann:x:1001:\nwheel:x:10:ann\n").unwrap();
        root
    }

    /// Creates and starts a container, and waits for its end: how it ended, and what it wrote.
    pub(crate) fn run(&mut self, name: &str, spec: Container) -> (ExitStatus, String, String) {
        let id = first(name);
        let streams = [Stream::Stdout, Stream::Stderr].map(|s| self.attach(&id, s));
        self.host.call(create(name, spec)).unwrap();
        self.host.call(start(name)).unwrap();
        let [out, err] = streams.map(text);
        (self.host.wait(&id), out, err)
    }

    /// Starts a container that sleeps, as `change` would have it.
    pub(crate) fn sleeper(&mut self, name: &str, change: impl FnOnce(&mut Container)) {
        let mut spec = container(&self.root(name), &["sleep", "1000"]);
        spec.process.stdio = NO_STREAMS;
        change(&mut spec);
        self.host.call(create(name, spec)).unwrap();
        self.host.call(start(name)).unwrap();
    }

    /// The shell's script in a container of its own.
    pub(crate) fn script(&mut self, name: &str, script: &str) -> (ExitStatus, String, String) {
        let root = self.root(name);
        self.run(name, container(&root, &["sh", "-c", script]))
    }

    /// What the agent has, between two calls: descriptors, children, mounts, cgroups.
    pub(crate) fn belongings(&mut self) -> [usize; 4] {
        self.host.call(wait(&first("nobody"))).unwrap_err();
        let own = |pid: &str| PathBuf::from(format!("/proc/{pid}"));
        let children = |pid: &str| {
            let path = own(pid).join("task").join(pid).join("children");
            std::fs::read_to_string(path).unwrap()
        };
        let agent = children(&self.pid.to_string());
        let agent = agent.trim();
        let count = |path: PathBuf| std::fs::read_dir(path).unwrap().count();
        let mounts = std::fs::read_to_string(own(agent).join("mountinfo")).unwrap();
        // The way into its mount namespace, where its hierarchy is.
        let cgroups = format!("{}/root{}/cgroup", own(agent).display(), self.directory.display());
        [
            count(own(agent).join("fd")),
            children(agent).split_whitespace().count(),
            mounts.lines().count(),
            count(cgroups.into()),
        ]
    }

    /// Ends the agent and tells with which wait status it ended.
    pub(crate) fn end(mut self) -> i32 {
        self.host.socket.shutdown(std::net::Shutdown::Both).unwrap();
        let status = wait_for(self.pid);
        self.pid = 0;
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.pid != 0 {
            let _ = self.host.socket.shutdown(std::net::Shutdown::Both);
            wait_for(self.pid);
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn wait_for(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: `status` is a place for one.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(waited, pid);
    status
}

impl Host {
    pub(crate) fn new(socket: UnixStream) -> Self {
        // An answer that does not come is a failure and not a wait for ever.
        socket.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let mut host = Self {
            socket,
            decoder: Decoder::default(),
            hello: None,
            answers: BTreeMap::new(),
            last_call: 0,
        };
        host.say(&Hello { version: proto::VERSION, name: "test".into(), agent_started_ns: None });
        host
    }

    fn say(&mut self, value: &impl serde::Serialize) {
        self.socket.write_all(&frame::encode(value).unwrap()).unwrap();
    }

    /// What the agent said first.
    pub(crate) fn hello(&mut self) -> Hello {
        while self.hello.is_none() {
            self.hear();
        }
        self.hello.clone().unwrap()
    }

    /// Calls and goes on.
    pub(crate) fn ask(&mut self, request: Request) -> u64 {
        self.last_call += 1;
        let id = self.last_call;
        self.say(&Call { id, request });
        id
    }

    /// The answer to a call, when it comes.
    pub(crate) fn answer(&mut self, call: u64) -> Result<Reply, Fault> {
        loop {
            if let Some(result) = self.answers.remove(&call) {
                return result;
            }
            self.hear();
        }
    }

    /// Whether the answer to a call has come, after the agent answered something else asked later.
    pub(crate) fn has_answered(&mut self, call: u64) -> bool {
        self.call(wait(&first("nobody"))).unwrap_err();
        self.answers.contains_key(&call)
    }

    /// Calls and waits for the answer.
    pub(crate) fn call(&mut self, request: Request) -> Result<Reply, Fault> {
        let call = self.ask(request);
        self.answer(call)
    }

    /// How a process ended, when it has.
    pub(crate) fn wait(&mut self, process: &ProcessId) -> ExitStatus {
        match self.call(Request::Wait { process: process.clone(), early: false }).unwrap() {
            Reply::Exited { status } => status,
            reply => panic!("wait answered by {reply:?}"),
        }
    }

    fn hear(&mut self) {
        let mut bytes = [0; 4096];
        let length = self.socket.read(&mut bytes).unwrap();
        assert_ne!(length, 0, "the agent closed the session");
        self.decoder.push(&bytes[..length]);
        if self.hello.is_none() {
            self.hello = self.decoder.next().unwrap();
        }
        while self.hello.is_some()
            && let Some(Answer { id, result }) = self.decoder.next().unwrap()
        {
            self.answers.insert(id, result);
        }
    }
}

/// What a stream says until it ends.
pub(crate) fn text(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// The agent's life in a child of the test: as PID 1 of namespaces of its own where that is allowed.
fn live(directory: &Path, doors: Doors, host: OwnedFd) -> ! {
    die_with_parent();
    keep_only(&mut [doors.sessions.as_raw_fd(), doors.stdio.as_raw_fd(), host.as_raw_fd()]);
    // SAFETY: this process has one thread.
    if unsafe { libc::unshare(libc::CLONE_NEWPID | libc::CLONE_NEWNS) } != 0 {
        serve(directory, doors, host);
    }
    mount("", c"/", "", libc::MS_REC | libc::MS_PRIVATE);
    let place = |name| {
        let path = directory.join(name);
        std::ffi::CString::new(path.into_os_string().into_encoded_bytes()).unwrap()
    };
    mount("cgroup2", &place("hierarchy"), "cgroup2", 0);
    let cgroup = directory.join("hierarchy").join(directory.file_name().unwrap());
    std::fs::create_dir(&cgroup).unwrap();
    // SAFETY: this process has one thread.
    let pid = unsafe { libc::fork() };
    if pid != 0 {
        drop((doors, host));
        let status = wait_for(pid);
        remove_cgroup(&cgroup);
        let code = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 99 };
        // SAFETY: never returns.
        unsafe { libc::_exit(code) };
    }
    die_with_parent();
    // A cgroup hierarchy of its own, as a guest has one.
    std::fs::write(cgroup.join("cgroup.procs"), "0").unwrap();
    // SAFETY: this process has one thread.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }, 0);
    mount("cgroup2", &place("cgroup"), "cgroup2", 0);
    mount("proc", c"/proc", "proc", 0);
    serve(directory, doors, host)
}

fn serve(directory: &Path, doors: Doors, host: OwnedFd) -> ! {
    let code = std::panic::catch_unwind(|| {
        let name = "agent under test".to_owned();
        let hello = Hello { version: proto::VERSION, name, agent_started_ns: Some(1) };
        let host = Session::open(host, &hello).unwrap();
        let guest = Guest::new(&directory.join("run"), &directory.join("cgroup")).unwrap();
        let stop = Agent::new(guest, Box::new(Still), hello, doors, host).unwrap().run().unwrap();
        stop as i32
    });
    // SAFETY: never returns.
    unsafe { libc::_exit(code.unwrap_or(101)) }
}

/// A machine that stays as it is, and has no time before 1970.
struct Still;

impl Ground for Still {
    fn settle(&mut self) -> Result<(), Refused> {
        Ok(())
    }

    fn connect(&mut self, _: Network) -> Result<(), Refused> {
        Ok(())
    }

    fn adopt(&mut self, adoption: &Adoption) -> Result<(), Refused> {
        match adoption.wall_clock_ns {
            0 => Err(Refused { step: "clock".into(), errno: rustix::io::Errno::INVAL }),
            _ => Ok(()),
        }
    }
}

/// What a guest takes with it when it ends.
fn remove_cgroup(cgroup: &Path) {
    for entry in std::fs::read_dir(cgroup).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            remove_cgroup(&path);
        }
    }
    std::fs::remove_dir(cgroup).unwrap();
}

fn die_with_parent() {
    // SAFETY: takes plain numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

fn mount(source: &str, place: &std::ffi::CStr, kind: &str, flags: libc::c_ulong) {
    let [source, kind] = [source, kind].map(|text| std::ffi::CString::new(text).unwrap());
    // SAFETY: all strings are C strings that outlive the call.
    let result = unsafe {
        libc::mount(source.as_ptr(), place.as_ptr(), kind.as_ptr(), flags, std::ptr::null())
    };
    assert_eq!(result, 0, "mount {kind:?}: {}", std::io::Error::last_os_error());
}

/// Other tests run in threads of this process, and their sockets are not this agent's.
fn keep_only(keep: &mut [RawFd]) {
    keep.sort_unstable();
    let mut first = 3;
    for &mut kept in keep {
        for other in first..kept {
            // SAFETY: nothing in this process uses it any more.
            unsafe { libc::close(other) };
        }
        first = kept + 1;
    }
    // SAFETY: nothing in this process uses them any more.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}
