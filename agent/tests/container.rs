//! Containers, made for real in namespaces of this machine. What a user would lose if they failed.

mod guest;

use guest::{NO_STREAMS, Running, container, containers_work_here, create, first, start, wait};
use proto::message::{ExitStatus, FaultKind, Reply, Request};
use proto::spec::{Mount, Process, Rlimit, User, Who};
use proto::stream::Stream;

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
fn nobody_has_to_wait_for_one_answer_before_the_next_call() {
    if !containers_work_here("calls in a row") {
        return;
    }
    let mut agent = Running::start();
    let root = agent.root("c");
    let ask = |agent: &mut Running, program: &str| {
        let spec = container(&root, &["sh", "-c", program]);
        let calls = [create("c", spec), start("c"), wait(&first("c"))];
        let calls = calls.map(|request| agent.host.ask(request));
        assert!(!agent.host.has_answered(calls[0]));
        let twice = agent.host.call(start("c")).unwrap_err();
        assert_eq!(twice.message, "container c was started already");
        drop([Stream::Stdout, Stream::Stderr].map(|stream| agent.attach(&first("c"), stream)));
        calls.map(|call| agent.host.answer(call))
    };
    let [created, started, exited] = ask(&mut agent, "exit 6");
    assert!(matches!(created, Ok(Reply::Created { .. })));
    assert_eq!(started, Ok(Reply::Done));
    assert_eq!(exited, Ok(Reply::Exited { status: ExitStatus::Code(6) }));

    std::fs::remove_file(root.join("bin/sh")).unwrap();
    let [created, started, exited] = ask(&mut agent, "exit 6");
    assert_eq!(created.clone().unwrap_err().kind, FaultKind::ProgramNotFound);
    assert_eq!([&started, &exited], [&created; 2]);
}

#[test]
fn what_is_asked_of_a_container_that_cannot_be_is_answered_with_the_reason() {
    if !containers_work_here("calls in a row, in vain") {
        return;
    }
    let mut agent = Running::start();
    let mut spec = container(&agent.root("c"), &["true"]);
    spec.process.args.clear();
    spec.process.stdio = NO_STREAMS;
    let calls = [create("c", spec), start("c"), wait(&first("c"))];
    for call in calls.map(|request| agent.host.ask(request)) {
        assert_eq!(agent.host.answer(call).unwrap_err().message, "process.args is empty");
    }

    let mut given_up = agent.session();
    let spec = container(&agent.root("d"), &["true"]);
    let creates = given_up.ask(create("d", spec));
    assert!(!given_up.has_answered(creates));
    let waits = agent.host.ask(wait(&first("d")));
    assert!(!agent.host.has_answered(waits));
    drop(given_up);
    let fault = agent.host.answer(waits).unwrap_err();
    assert_eq!(fault.message, "container d was given up by its session");
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
        spec.process.stdio = NO_STREAMS;
        // What can be known is said before the start is asked for.
        let created = agent.host.call(create("c", spec));
        let fault = created.and_then(|_| agent.host.call(start("c"))).unwrap_err();
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
        ..Mount::default()
    };
    let with = |change: &dyn Fn(&mut proto::spec::Container)| {
        let mut spec = container(&root, &["true"]);
        spec.process.stdio = NO_STREAMS;
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
fn capabilities_of_a_user_who_is_not_root_are_those_that_are_ambient_and_inheritable() {
    if !containers_work_here("ambient capabilities") {
        return;
    }
    let mut agent = Running::start();
    let mut spec = container(&agent.root("c"), &["grep", "Cap", "/proc/self/status"]);
    spec.process.user.who = Who::Ids { uid: 5, gid: 5 };
    spec.process.capabilities.inheritable = vec!["CAP_KILL".into()];
    spec.process.capabilities.ambient = vec!["CAP_KILL".into(), "CAP_CHOWN".into()];
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
        ..Mount::default()
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
            ..Mount::default()
        },
        Mount {
            destination: "/link/deep/over".into(),
            kind: Some("tmpfs".into()),
            source: None,
            options: vec![],
            ..Mount::default()
        },
    ]);
    let (_, out, err) = agent.run("c", spec);
    assert_eq!(out, "one file\nroot:x:0:0:root:/root:/bin/sh\n1777\n1\n");
    assert_eq!(err, "touch: /ro/x: Read-only file system\n");
    assert!(shared.join("tmp/y").exists());
}

#[test]
fn a_name_in_use_is_refused_and_free_again_afterwards() {
    if !containers_work_here("names") {
        return;
    }
    let mut agent = Running::start();
    let root = agent.root("c");
    let mut spec = container(&root, &["sleep", "1000"]);
    spec.process.stdio = NO_STREAMS;
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
