//! Containers, made for real in namespaces of this machine. What a user would lose if they failed.

mod guest;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use guest::{Running, container, containers_work_here, exec, first, process};
use proto::message::{ExitStatus, FaultKind, Reply, Request};
use proto::spec::{Mount, Process, Rlimit, Stdio, TerminalSize, User, Who};
use proto::stream::Stream;

/// What a stream says until it ends.
fn text(mut stream: UnixStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn create(name: &str, spec: proto::spec::Container) -> Request {
    Request::Create { container: name.into(), spec: Box::new(spec) }
}

fn start(name: &str) -> Request {
    Request::Start { container: name.into() }
}

fn wait(process: &proto::message::ProcessId) -> Request {
    Request::Wait { process: process.clone() }
}

#[test]
fn a_container_has_its_own_host_name_processes_and_root() {
    if !containers_work_here("a container of one's own") {
        return;
    }
    let mut agent = Running::start();
    let script = "hostname; echo $$; ls /; ls /.. | wc -l; cat /proc/self/cgroup | grep ^0; \
        ls /proc/1/fd; true";
    let (status, out, err) = agent.script("c", script);
    assert_eq!(err, "");
    assert_eq!(out, "box\n1\nbin\ndev\netc\nproc\nsys\ntmp\n6\n0::/\n0\n1\n2\n");
    assert_eq!(status, ExitStatus::Code(0));
}

#[test]
fn output_written_just_before_exit_arrives_whole() {
    if !containers_work_here("a MiB before exit") {
        return;
    }
    let mut agent = Running::start();
    let script = "dd if=/dev/zero bs=1024 count=1024 2>/dev/null; exit 7";
    let (status, out, _) = agent.script("c", script);
    assert_eq!((status, out.len()), (ExitStatus::Code(7), 1 << 20));
}

#[test]
fn sixty_four_mib_go_through_cat_and_back_unchanged() {
    if !containers_work_here("64 MiB through cat") {
        return;
    }
    let mut agent = Running::start();
    let mut spec = container(&agent.root("c"), &["cat"]);
    spec.process.stdio = Stdio::Pipes { stdin: true, stdout: true, stderr: false };
    let (mut input, output) =
        (agent.attach(&first("c"), Stream::Stdin), agent.attach(&first("c"), Stream::Stdout));
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    // A pattern whose period fits no buffer.
    let sent: Vec<u8> = (0..64 << 20).map(|i: u32| (i % 251) as u8).collect();
    let reader = std::thread::spawn(move || {
        let (mut output, mut bytes) = (output, Vec::new());
        output.read_to_end(&mut bytes).unwrap();
        bytes
    });
    input.write_all(&sent).unwrap();
    input.shutdown(Shutdown::Write).unwrap();
    assert!(reader.join().unwrap() == sent);
    assert_eq!(agent.host.wait(&first("c")), ExitStatus::Code(0));
}

#[test]
fn streams_may_come_before_or_after_the_call_that_needs_them() {
    if !containers_work_here("streams in any order") {
        return;
    }
    let mut agent = Running::start();
    let spec = container(&agent.root("c"), &["echo", "hi"]);
    let early = agent.attach(&first("c"), Stream::Stderr);
    let call = agent.host.ask(create("c", spec));
    assert!(!agent.host.has_answered(call));
    let late = agent.attach(&first("c"), Stream::Stdout);
    assert!(matches!(agent.host.answer(call), Ok(Reply::Created { .. })));
    agent.host.call(start("c")).unwrap();
    assert_eq!((text(late), text(early)), ("hi\n".into(), String::new()));
}

#[test]
fn an_exit_status_is_kept_for_whoever_asks_however_late() {
    if !containers_work_here("exit statuses") {
        return;
    }
    let mut agent = Running::start();
    let (status, ..) = agent.script("c", "exit 42");
    assert_eq!(status, ExitStatus::Code(42));
    assert_eq!(agent.session().wait(&first("c")), ExitStatus::Code(42));
    let (status, ..) = agent.script("killed", "kill -9 $$; sleep 60 & exec kill -9 -1");
    assert_eq!(status, ExitStatus::Code(0), "pid 1 is spared its own signals");
}

#[test]
fn an_exit_is_told_only_after_the_host_has_taken_all_the_output() {
    if !containers_work_here("slow readers") {
        return;
    }
    let mut agent = Running::start();
    let spec = container(&agent.root("c"), &["dd", "if=/dev/zero", "bs=1024", "count=4096"]);
    let (out, err) =
        (agent.attach(&first("c"), Stream::Stdout), agent.attach(&first("c"), Stream::Stderr));
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    let call = agent.host.ask(wait(&first("c")));
    assert!(!agent.host.has_answered(call));
    assert_eq!(text(out).len(), 4 << 20);
    drop(err);
    assert_eq!(agent.host.answer(call), Ok(Reply::Exited { status: ExitStatus::Code(0) }));
}

#[test]
fn a_reader_that_goes_away_is_a_broken_pipe_to_the_writer() {
    if !containers_work_here("broken pipes") {
        return;
    }
    let mut agent = Running::start();
    let spec = container(&agent.root("c"), &["sh", "-c", "yes; echo $? >&2"]);
    let mut out = agent.attach(&first("c"), Stream::Stdout);
    let err = agent.attach(&first("c"), Stream::Stderr);
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    out.read_exact(&mut [0; 100]).unwrap();
    drop(out);
    assert_eq!(text(err), "141\n", "128 and SIGPIPE");
}

#[test]
fn a_program_that_is_not_there_or_no_program_is_said_in_words_and_leaves_nothing() {
    if !containers_work_here("exec failures") {
        return;
    }
    let mut agent = Running::start();
    let root = agent.root("c");
    std::fs::write(root.join("bin/text"), "no program").unwrap();
    std::fs::write(root.join("bin/script"), "#!/no/interpreter\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(root.join("bin/script"), executable).unwrap();
    let cases = [
        ("nope", FaultKind::ProgramNotFound, "exec: \"nope\": executable file not found in $PATH"),
        ("/bin/nope", FaultKind::ProgramNotFound, "exec /bin/nope: no such file or directory"),
        ("text", FaultKind::ProgramNotExecutable, "exec /bin/text: permission denied"),
        ("/tmp", FaultKind::ProgramNotExecutable, "exec /tmp: is a directory"),
        (
            "script",
            FaultKind::ProgramNotFound,
            "exec /bin/script: no such file or directory (the file is there, the interpreter it \
             asks for is not)",
        ),
    ];
    for (program, kind, message) in cases {
        let mut spec = container(&root, &[program]);
        spec.process.stdio = Stdio::Pipes { stdin: false, stdout: false, stderr: false };
        agent.host.call(create("c", spec)).unwrap();
        let fault = agent.host.call(start("c")).unwrap_err();
        assert_eq!((fault.kind, fault.message.as_str()), (kind, message));
        let gone = agent.host.call(wait(&first("c"))).unwrap_err();
        assert_eq!(gone.kind, FaultKind::NoSuchProcess);
    }
}

#[test]
fn a_specification_that_cannot_be_is_refused_by_the_name_of_the_field() {
    if !containers_work_here("wrong specifications") {
        return;
    }
    let mut agent = Running::start();
    let root = agent.root("c");
    let mount = |kind: &str, source: &str, options: &[&str]| Mount {
        destination: "/x".into(),
        kind: Some(kind.into()),
        source: Some(source.into()),
        options: options.iter().map(|o| o.to_string()).collect(),
    };
    let with = |change: &dyn Fn(&mut proto::spec::Container)| {
        let mut spec = container(&root, &["true"]);
        spec.process.stdio = Stdio::Pipes { stdin: false, stdout: false, stderr: false };
        change(&mut spec);
        spec
    };
    let who = |name: &str| User { who: Who::Name { name: name.into() }, ..User::default() };
    let limit = |kind: &str| Rlimit { kind: kind.into(), soft: 1, hard: 1 };
    let cases = [
        (
            with(&|c| c.process.user = who("bob")),
            "process.user: no user \"bob\" in the container's /etc/passwd",
        ),
        (
            with(&|c| c.process.rlimits = vec![limit("RLIMIT_JOY")]),
            "process.rlimits: \"RLIMIT_JOY\" is no resource limit",
        ),
        (
            with(&|c| c.process.capabilities.ambient = vec!["CAP_FLY".into()]),
            "process.capabilities.ambient: \"CAP_FLY\" is no capability",
        ),
        (
            with(&|c| c.sysctl = vec![("kernel.nope".into(), "1".into())]),
            "linux.sysctl: kernel.nope: no such file or directory",
        ),
        (
            with(&|c| c.mounts.push(mount("tmpfs", "tmpfs", &["size=much"]))),
            "mounts: /x: tmpfs: option size: invalid argument (tmpfs: Bad value for 'size')",
        ),
        (
            with(&|c| c.mounts.push(mount("nopefs", "x", &[]))),
            "mounts: /x: nopefs: type: no such device",
        ),
        (
            with(&|c| c.mounts.push(mount("bind", "/no/such", &[]))),
            "mounts: /x: source /no/such: no such file or directory",
        ),
        (
            with(&|c| c.root = proto::spec::Root::Directory { path: "/no/root".into() }),
            "root.path /no/root: no such file or directory",
        ),
        (with(&|c| c.process.args.clear()), "process.args is empty"),
    ];
    for (spec, message) in cases {
        let fault = agent.host.call(create("c", spec)).unwrap_err();
        assert_eq!((fault.kind, fault.message.as_str()), (FaultKind::InvalidSpec, message));
    }
    let fault = agent.host.call(create("a/b", with(&|_| ()))).unwrap_err();
    assert_eq!(fault.kind, FaultKind::InvalidSpec);
}

#[test]
fn a_process_runs_as_whom_with_what_and_where_it_was_asked_to() {
    if !containers_work_here("users and limits") {
        return;
    }
    let mut agent = Running::start();
    let script = "id -u; id -g; id -G; pwd; echo $HOME; umask; ulimit -n; \
        cat /proc/self/oom_score_adj; grep -E 'CapBnd|CapEff|NoNewPrivs' /proc/self/status; \
        echo written > /dev/stdout; cat /proc/sys/kernel/shmmni";
    let mut spec = container(&agent.root("c"), &["sh", "-c", script]);
    spec.sysctl = vec![("kernel.shmmni".into(), "123".into())];
    spec.process = Process {
        user: User {
            who: Who::Name { name: "ann".into() },
            additional_gids: vec![77],
            umask: Some(0o077),
        },
        cwd: "/made/for/it".into(),
        rlimits: vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 100, hard: 200 }],
        oom_score_adj: Some(321),
        ..spec.process
    };
    let (status, out, err) = agent.run("c", spec);
    assert_eq!(err, "");
    assert_eq!(
        out,
        "1000\n1001\n1001 10 77\n/made/for/it\n/home/ann\n0077\n100\n321\n\
         CapEff:\t0000000000000000\nCapBnd:\t00000000000000e3\nNoNewPrivs:\t1\nwritten\n123\n"
    );
    assert_eq!(status, ExitStatus::Code(0));
}

#[test]
fn capabilities_of_a_user_who_is_not_root_are_those_that_are_ambient() {
    if !containers_work_here("ambient capabilities") {
        return;
    }
    let mut agent = Running::start();
    let mut spec = container(&agent.root("c"), &["grep", "Cap", "/proc/self/status"]);
    spec.process.user.who = Who::Ids { uid: 5, gid: 5 };
    spec.process.capabilities.inheritable = vec!["CAP_KILL".into()];
    spec.process.capabilities.ambient = vec!["CAP_KILL".into()];
    let (_, out, _) = agent.run("c", spec);
    let sets: Vec<&str> = out.lines().map(|line| &line[line.len() - 4..]).collect();
    assert_eq!(sets, ["0020", "0020", "0020", "00e3", "0020"]);
}

#[test]
fn what_is_masked_reads_as_nothing_and_what_is_read_only_stays_as_it_is() {
    if !containers_work_here("masks") {
        return;
    }
    let mut agent = Running::start();
    let script = "mkdir /secret/x; cat /secret/file; ls /secret/dir; echo 1 > /proc/sys/vm/swappiness; \
        wc -c < /proc/keys; touch /kept";
    let root = agent.root("c");
    std::fs::create_dir_all(root.join("secret/dir/deep")).unwrap();
    std::fs::write(root.join("secret/file"), "secret").unwrap();
    let mut spec = container(&root, &["sh", "-c", script]);
    spec.masked_paths.extend(["/secret/file".into(), "/secret/dir".into()]);
    spec.readonly_paths.push("/secret".into());
    spec.readonly = true;
    let (_, out, err) = agent.run("c", spec);
    assert_eq!(out, "0\n");
    let refusals: Vec<&str> = err.lines().map(|line| line.rsplit(": ").next().unwrap()).collect();
    assert_eq!(refusals, ["Read-only file system"; 3]);
}

#[test]
fn mounts_come_in_order_and_stay_inside_whatever_links_the_image_has() {
    if !containers_work_here("mounts") {
        return;
    }
    let mut agent = Running::start();
    let root = agent.root("c");
    std::os::unix::fs::symlink("/../../../../real", root.join("link")).unwrap();
    std::fs::create_dir(root.join("real")).unwrap();
    let shared = agent.root("shared");
    std::fs::write(shared.join("tmp/one"), "one file\n").unwrap();
    let script = "cat /file; cat /link/deep/etc/passwd | head -1; touch /ro/x; touch /real/deep/tmp/y; \
        stat -c %a /sticky; grep -c /real/deep/over /proc/mounts";
    let mut spec = container(&root, &["sh", "-c", script]);
    let bind = |destination: &str, source: std::path::PathBuf, options: &[&str]| Mount {
        destination: destination.into(),
        kind: None,
        source: Some(source.to_str().unwrap().into()),
        options: options.iter().map(|o| o.to_string()).collect(),
    };
    spec.mounts.extend([
        bind("/file", shared.join("tmp/one"), &["bind"]),
        bind("/link/deep", shared.clone(), &["rbind", "rprivate"]),
        bind("/ro", shared.clone(), &["bind", "ro"]),
        Mount {
            destination: "/sticky".into(),
            kind: Some("tmpfs".into()),
            source: None,
            options: vec!["mode=1777".into()],
        },
        Mount {
            destination: "/link/deep/over".into(),
            kind: Some("tmpfs".into()),
            source: None,
            options: vec![],
        },
    ]);
    let (_, out, err) = agent.run("c", spec);
    assert_eq!(out, "one file\nroot:x:0:0:root:/root:/bin/sh\n1777\n1\n");
    assert_eq!(err, "touch: /ro/x: Read-only file system\n");
    assert!(shared.join("tmp/y").exists());
}

#[test]
fn an_exec_joins_everything_and_its_status_is_its_own() {
    if !containers_work_here("exec") {
        return;
    }
    let mut agent = Running::start();
    let mut spec = container(&agent.root("c"), &["sleep", "1000"]);
    spec.process.stdio = Stdio::Pipes { stdin: false, stdout: false, stderr: false };
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();

    let id = exec("c", "one");
    let (out, err) = (agent.attach(&id, Stream::Stdout), agent.attach(&id, Stream::Stderr));
    let script = "hostname; ps | grep -c '[s]leep 1000$'; cat /proc/self/cgroup | grep ^0; \
        for n in mnt pid uts ipc cgroup; do \
        [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo $n; done; exit 5";
    let mut one = process(&["sh", "-c", script]);
    one.capabilities.effective.push("CAP_SYS_PTRACE".into());
    one.capabilities.permitted.push("CAP_SYS_PTRACE".into());
    one.capabilities.bounding.push("CAP_SYS_PTRACE".into());
    agent.host.call(Request::Exec { process: id.clone(), spec: Box::new(one) }).unwrap();
    assert_eq!((text(out), text(err)), ("box\n1\n0::/\n".into(), String::new()));
    assert_eq!(agent.host.wait(&id), ExitStatus::Code(5));

    let id = exec("c", "two");
    let mut two = process(&["/nope"]);
    two.stdio = Stdio::Pipes { stdin: false, stdout: false, stderr: false };
    let fault =
        agent.host.call(Request::Exec { process: id.clone(), spec: Box::new(two) }).unwrap_err();
    assert_eq!(fault.kind, FaultKind::ProgramNotFound);
    assert_eq!(agent.host.call(wait(&id)).unwrap_err().kind, FaultKind::NoSuchProcess);

    let kill = Request::Signal { process: first("c"), signal: 9, all: false };
    agent.host.call(kill.clone()).unwrap();
    assert_eq!(agent.host.wait(&first("c")), ExitStatus::Signal(9));
    let late = agent.host.call(kill).unwrap_err();
    assert_eq!(late.message, "container c has ended");
}

#[test]
fn what_an_exec_leaves_running_does_not_keep_its_end_from_the_host() {
    if !containers_work_here("exec with a daemon") {
        return;
    }
    let mut agent = Running::start();
    let mut spec = container(&agent.root("c"), &["sleep", "1000"]);
    spec.process.stdio = Stdio::Pipes { stdin: false, stdout: false, stderr: false };
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    let id = exec("c", "daemon");
    let (out, err) = (agent.attach(&id, Stream::Stdout), agent.attach(&id, Stream::Stderr));
    let script = "(sleep 1000; echo late) & echo early";
    let spec = Box::new(process(&["sh", "-c", script]));
    agent.host.call(Request::Exec { process: id.clone(), spec }).unwrap();
    assert_eq!(agent.host.wait(&id), ExitStatus::Code(0));
    assert_eq!((text(out), text(err)), ("early\n".into(), String::new()));

    let all = Request::Signal { process: first("c"), signal: 15, all: true };
    agent.host.call(all).unwrap();
    let all = Request::Signal { process: first("c"), signal: 9, all: true };
    agent.host.call(all).unwrap();
    assert_eq!(agent.host.wait(&first("c")), ExitStatus::Signal(9));
}

#[test]
fn a_terminal_has_its_size_its_echo_and_its_interrupt_key() {
    if !containers_work_here("terminals") {
        return;
    }
    let mut agent = Running::start();
    let script = "stty size; tty; read line; echo got $line; trap 'echo int; stty size; exit 3' INT; \
        echo ready; while true; do sleep 0.01; done";
    let mut spec = container(&agent.root("c"), &["sh", "-c", script]);
    spec.process.stdio = Stdio::Terminal { size: TerminalSize { rows: 25, columns: 90 } };
    spec.process.user.who = Who::Ids { uid: 1000, gid: 1000 };
    let mut terminal = agent.attach(&first("c"), Stream::Terminal);
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    terminal.write_all(b"word\n").unwrap();
    let mut said = String::new();
    let mut until = |terminal: &mut UnixStream, end: &str| {
        while !said.contains(end) {
            let mut bytes = [0; 256];
            let length = terminal.read(&mut bytes).unwrap();
            assert_ne!(length, 0, "{said:?}");
            said.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
        }
        said.clone()
    };
    let said = until(&mut terminal, "ready");
    for part in ["25 90\r\n", "/dev/pts/0\r\n", "word\r\n", "got word\r\n"] {
        assert!(said.contains(part), "{part:?} in {said:?}");
    }
    let size = TerminalSize { rows: 30, columns: 100 };
    agent.host.call(Request::Resize { process: first("c"), size }).unwrap();
    terminal.write_all(b"\x03").unwrap();
    until(&mut terminal, "int\r\n30 100\r\n");
    assert_eq!(agent.host.wait(&first("c")), ExitStatus::Code(3));
    assert_eq!(terminal.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_terminal_that_goes_away_hangs_its_processes_up() {
    if !containers_work_here("hang-ups") {
        return;
    }
    let mut agent = Running::start();
    let mut spec = container(&agent.root("c"), &["sh", "-c", "trap 'exit 9' HUP; yes"]);
    spec.process.stdio = Stdio::Terminal { size: TerminalSize { rows: 1, columns: 1 } };
    let mut terminal = agent.attach(&first("c"), Stream::Terminal);
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    terminal.read_exact(&mut [0; 10]).unwrap();
    drop(terminal);
    assert_eq!(agent.host.wait(&first("c")), ExitStatus::Code(9));
}

#[test]
fn no_descriptor_of_the_agents_leads_out_of_a_container() {
    if !containers_work_here("descriptors") {
        return;
    }
    let mut agent = Running::start();
    let mut spec = container(&agent.root("c"), &["sleep", "1000"]);
    spec.process.stdio = Stdio::Pipes { stdin: false, stdout: false, stderr: false };
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    for number in 3..20 {
        for way in [format!("/proc/self/fd/{number}"), format!("/proc/self/fd/{number}/..")] {
            let mut spec = process(&["true"]);
            spec.stdio = Stdio::Pipes { stdin: false, stdout: false, stderr: false };
            spec.cwd = way.clone().into();
            let request = Request::Exec { process: exec("c", "x"), spec: Box::new(spec) };
            assert_eq!(agent.host.call(request).unwrap_err().kind, FaultKind::InvalidSpec, "{way}");
        }
    }
}

#[test]
fn a_stream_that_comes_too_late_is_closed_and_not_forgotten() {
    if !containers_work_here("late streams") {
        return;
    }
    let mut agent = Running::start();
    let mut spec = container(&agent.root("c"), &["sleep", "1000"]);
    spec.process.stdio = Stdio::Pipes { stdin: false, stdout: false, stderr: false };
    agent.host.call(create("c", spec)).unwrap();
    assert_eq!(text(agent.attach(&first("c"), Stream::Stdout)), "");
}

#[test]
fn a_name_in_use_is_refused_and_free_again_afterwards() {
    if !containers_work_here("names") {
        return;
    }
    let mut agent = Running::start();
    let root = agent.root("c");
    let mut spec = container(&root, &["sleep", "1000"]);
    spec.process.stdio = Stdio::Pipes { stdin: false, stdout: false, stderr: false };
    agent.host.call(create("c", spec.clone())).unwrap();
    let fault = agent.host.call(create("c", spec.clone())).unwrap_err();
    assert_eq!(
        (fault.kind, fault.message.as_str()),
        (FaultKind::AlreadyExists, "container c exists already")
    );
    agent.host.call(start("c")).unwrap();
    assert_eq!(agent.host.call(start("c")).unwrap_err().message, "container c was started already");
    agent.host.call(Request::Signal { process: first("c"), signal: 9, all: true }).unwrap();
    assert_eq!(agent.host.wait(&first("c")), ExitStatus::Signal(9));
    agent.host.call(create("c", spec)).unwrap();
}
