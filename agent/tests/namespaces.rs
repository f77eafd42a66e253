//! Which parts of the guest a container has for itself, and which it shares.

mod guest;

use guest::{
    NO_STREAMS, Running, container, containers_work_here, create, exec, first, process, text,
};
use proto::message::{ExitStatus, FaultKind, Request};
use proto::spec::{Container, Device, IdMapping, Namespace, Stdio, TerminalSize};
use proto::stream::Stream;

/// Names of all namespaces the calling process has.
fn of_this_process() -> Vec<(&'static str, String)> {
    ["pid", "mnt", "ipc", "uts", "cgroup", "user", "time"]
        .map(|name| (name, std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap()))
        .map(|(name, link)| (name, link.to_string_lossy().into_owned()))
        .into()
}

const NAMESPACES: &str = "cd /proc/self/ns; for n in pid mnt ipc uts cgroup user time; do \
    readlink $n; done";

/// With users of its own: 0 to 9999 are 100000 to 109999 of the guest.
fn give_users(spec: &mut Container) {
    // Places for mounts are made by the container's root, in a root that is its own.
    if let proto::spec::Root::Directory { path } = &spec.root {
        std::os::unix::fs::chown(path, Some(100_000), Some(200_000)).unwrap();
    }
    spec.namespaces.push(Namespace::User);
    spec.uid_mappings = vec![IdMapping { container_id: 0, host_id: 100_000, size: 10_000 }];
    spec.gid_mappings = vec![IdMapping { container_id: 0, host_id: 200_000, size: 10_000 }];
}

#[test]
fn only_the_namespaces_that_are_named_are_new() {
    if !containers_work_here("namespaces") {
        return;
    }
    let mut agent = Running::start();
    // The agent under test has its own of these three.
    let ours = of_this_process();
    let root = agent.root("c");
    let mut new = |namespaces: &[Namespace]| {
        let mut spec = container(&root, &["sh", "-c", NAMESPACES]);
        spec.namespaces = namespaces.into();
        spec.hostname = None;
        let (status, out, err) = agent.run("c", spec);
        assert_eq!((status, err.as_str()), (ExitStatus::Code(0), ""));
        let theirs = out.lines().zip(&ours).filter(|(theirs, (_, ours))| theirs != ours);
        theirs.map(|(_, (name, _))| *name).collect::<Vec<_>>()
    };
    assert_eq!(new(&Namespace::usual()), ["pid", "mnt", "ipc", "uts", "cgroup"]);
    assert_eq!(new(&[]), ["pid", "mnt", "cgroup"]);
    assert_eq!(new(&[Namespace::Ipc]), ["pid", "mnt", "ipc", "cgroup"]);
    assert_eq!(new(&[Namespace::Time]), ["pid", "mnt", "cgroup", "time"]);
}

#[test]
fn a_container_that_shares_the_guests_processes_takes_all_of_its_own_with_it() {
    if !containers_work_here("a shared pid namespace") {
        return;
    }
    let mut agent = Running::start();
    let before = agent.belongings();
    let root = agent.root("c");
    for round in 0..5 {
        let script = "(sleep 1000; echo late) & cat /proc/1/comm | wc -l; echo $$";
        let mut spec = container(&root, &["sh", "-c", script]);
        spec.namespaces.retain(|namespace| *namespace != Namespace::Pid);
        let (status, out, _) = agent.run("c", spec);
        let (seen, number) = out.trim().split_once('\n').unwrap();
        assert_eq!((status, seen), (ExitStatus::Code(0), "1"));
        assert!(number.parse::<u32>().unwrap() > 1, "{round}: {number}");
        // Its end is told when its last process was reaped.
        assert_eq!(agent.belongings(), before);
    }
}

#[test]
fn what_is_said_about_what_is_shared_is_refused_by_its_field() {
    if !containers_work_here("shared names") {
        return;
    }
    let mut agent = Running::start();
    let mut spec = container(&agent.root("c"), &["true"]);
    spec.process.stdio = NO_STREAMS;
    spec.namespaces = vec![];
    let fault = agent.host.call(create("c", spec.clone())).unwrap_err();
    let message = "hostname: the container has no uts namespace of its own";
    assert_eq!((fault.kind, fault.message.as_str()), (FaultKind::InvalidSpec, message));

    spec.hostname = None;
    spec.namespaces = vec![Namespace::User];
    spec.uid_mappings = vec![IdMapping { container_id: 0, host_id: 0, size: 0 }];
    let fault = agent.host.call(create("c", spec.clone())).unwrap_err();
    assert_eq!(fault.message, "linux.uidMappings: nobody stands for id 0");

    let overlap = IdMapping { container_id: 0, host_id: 5, size: 2 };
    (spec.uid_mappings, spec.gid_mappings) = (vec![overlap; 2], vec![overlap]);
    let fault = agent.host.call(create("c", spec)).unwrap_err();
    assert_eq!(fault.message, "linux.uidMappings: invalid argument");
}

#[test]
fn names_and_clocks_are_the_containers_own_and_an_exec_shares_them() {
    if !containers_work_here("domain name and clocks") {
        return;
    }
    let mut agent = Running::start();
    agent.sleeper("c", |spec| {
        spec.domainname = Some("example".into());
        spec.namespaces.push(Namespace::Time);
        spec.time_offsets = vec![("boottime".into(), 40_000_000, 0), ("monotonic".into(), 7, 5)];
    });
    let id = exec("c", "x");
    let [out, _err] = [Stream::Stdout, Stream::Stderr].map(|s| agent.attach(&id, s));
    let script = "cat /proc/sys/kernel/domainname; cut -d. -f1 /proc/uptime; \
        sed 's/  */ /g' /proc/self/timens_offsets";
    let request = Request::Exec { process: id, spec: Box::new(process(&["sh", "-c", script])) };
    agent.host.call(request).unwrap();
    let said = text(out);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "example");
    assert!(lines[1].parse::<u64>().unwrap() >= 40_000_000, "{said}");
    assert_eq!(lines[2..], ["monotonic 7 5", "boottime 40000000 0"]);
    // The agent itself has come back.
    let (_, uptime, _) = agent.script("d", "cut -d. -f1 /proc/uptime");
    assert!(uptime.trim().parse::<u64>().unwrap() < 40_000_000);
}

#[test]
fn users_of_a_containers_own_are_root_inside_and_nobody_outside() {
    if !containers_work_here("a user namespace") {
        return;
    }
    let mut agent = Running::start();
    let script = "id -u; id -g; sed 's/  */ /g' /proc/self/uid_map; cat /proc/self/gid_map | wc -l; \
        stat -c %u:%g /bin /dev /dev/shm; touch /dev/shm/x && stat -c %u /dev/shm/x; \
        head -c 3 /dev/zero | wc -c; echo open > /dev/null; stat -c %t:%T:%a:%u:%g /dev/own /dev/null; \
        hostname; mkdir /sys/fs/cgroup/x 2>&1; ls /sys/kernel | wc -l; cat /proc/keys | wc -c; \
        echo written > /dev/stdout; mknod /dev/shm/m c 1 3 2>&1";
    let mut spec = container(&agent.root("c"), &["sh", "-c", script]);
    give_users(&mut spec);
    for set in [
        &mut spec.process.capabilities.bounding,
        &mut spec.process.capabilities.effective,
        &mut spec.process.capabilities.permitted,
    ] {
        set.push("CAP_MKNOD".into());
    }
    spec.devices = vec![Device {
        path: "/dev/own".into(),
        kind: "c".into(),
        major: 1,
        minor: 7,
        file_mode: Some(0o600),
        uid: 3,
        gid: 4,
    }];
    let (status, out, err) = agent.run("c", spec);
    let expected = "0\n0\n 0 100000 10000\n1\n65534:65534\n0:0\n0:0\n0\n3\n1:7:600:3:4\n1:3:666:0:0\nbox\n\
        mkdir: can't create directory '/sys/fs/cgroup/x': Read-only file system\n";
    assert!(out.starts_with(expected), "{out}{err}");
    assert!(
        out.ends_with("\n0\nwritten\nmknod: /dev/shm/m: Operation not permitted\n"),
        "{out}{err}"
    );
    assert_eq!(status, ExitStatus::Code(1), "mknod's");
}

#[test]
fn an_exec_joins_the_users_of_a_container_and_can_have_a_terminal_there() {
    if !containers_work_here("exec in a user namespace") {
        return;
    }
    let mut agent = Running::start();
    agent.sleeper("c", give_users);
    let id = exec("c", "x");
    let [out, err] = [Stream::Stdout, Stream::Stderr].map(|stream| agent.attach(&id, stream));
    let script = "id -u; [ $(readlink /proc/1/ns/user) = $(readlink /proc/self/ns/user) ] && \
        echo same; echo written > /dev/stdout";
    let spec = Box::new(process(&["sh", "-c", script]));
    agent.host.call(Request::Exec { process: id, spec }).unwrap();
    assert_eq!((text(out), text(err)), ("0\nsame\nwritten\n".into(), String::new()));

    let id = exec("c", "tty");
    let terminal = agent.attach(&id, Stream::Terminal);
    let mut shell = process(&["sh", "-c", "tty; stat -c %u:%g $(tty); id -u"]);
    shell.stdio = Stdio::Terminal { size: TerminalSize { rows: 5, columns: 50 } };
    shell.user.who = proto::spec::Who::Ids { uid: 1000, gid: 1001 };
    agent.host.call(Request::Exec { process: id, spec: Box::new(shell) }).unwrap();
    assert_eq!(text(terminal), "/dev/pts/0\r\n1000:5\r\n1000\r\n");

    let list = agent.host.call(Request::Processes { container: "c".into() }).unwrap();
    let proto::message::Reply::Processes { processes } = list else { panic!("{list:?}") };
    assert_eq!(processes[0].uid, 100_000);
    let kill = Request::Signal { process: first("c"), signal: 9, all: false };
    agent.host.call(kill).unwrap();
    assert_eq!(agent.host.wait(&first("c")), ExitStatus::Signal(9));
}
