//! More processes in a container that runs, and what is left when they are gone.

mod guest;

use std::io::{BufRead, BufReader};

use guest::{
    NO_STREAMS, Running, container, containers_work_here, create, exec, first, process, start,
    text, wait,
};
use proto::message::{ExitStatus, Fault, FaultKind, ProcessId, Request};
use proto::spec::{Stdio, TerminalSize};
use proto::stream::Stream;

/// Asks for a process without streams.
fn silent(process_id: &ProcessId, args: &[&str]) -> Request {
    let mut spec = process(args);
    spec.stdio = NO_STREAMS;
    Request::Exec { process: process_id.clone(), spec: Box::new(spec) }
}

#[test]
fn an_exec_joins_everything_and_its_status_is_its_own() {
    if !containers_work_here("exec") {
        return;
    }
    let mut agent = Running::start();
    agent.sleeper("c", |_| {});

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
    two.stdio = NO_STREAMS;
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
fn an_exec_is_where_the_containers_limits_are_wherever_its_init_has_gone() {
    if !containers_work_here("exec in a cgroup") {
        return;
    }
    let mut agent = Running::start();
    let script = "mkdir -p /sys/fs/cgroup/a/b; echo 1 > /sys/fs/cgroup/a/cgroup.procs; \
        grep ^0 /proc/self/cgroup; exec sleep 1000";
    let mut spec = container(&agent.root("c"), &["sh", "-c", script]);
    spec.mounts.last_mut().unwrap().options.retain(|option| option != "ro");
    let moved = agent.attach(&first("c"), Stream::Stdout);
    let _errors = agent.attach(&first("c"), Stream::Stderr);
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    let mut line = String::new();
    BufReader::new(moved).read_line(&mut line).unwrap();
    assert_eq!(line, "0::/a\n");

    let mut cgroup = |path: Option<&str>| {
        let id = exec("c", "one");
        let (out, err) = (agent.attach(&id, Stream::Stdout), agent.attach(&id, Stream::Stderr));
        let mut spec = process(&["grep", "^0", "/proc/self/cgroup"]);
        spec.cgroup = path.map(Into::into);
        agent.host.call(Request::Exec { process: id.clone(), spec: Box::new(spec) })?;
        assert_eq!((agent.host.wait(&id), text(err)), (ExitStatus::Code(0), String::new()));
        Ok::<_, Fault>(text(out))
    };
    assert_eq!(cgroup(None).unwrap(), "0::/\n");
    assert_eq!(cgroup(Some("/")).unwrap(), "0::/\n");
    assert_eq!(cgroup(Some("a/b")).unwrap(), "0::/a/b\n");
    let refusal = cgroup(Some("nope")).unwrap_err();
    assert_eq!(refusal.message, "cgroup nope: no such file or directory");
    let refusal = cgroup(Some("a/../..")).unwrap_err();
    assert_eq!(refusal.kind, FaultKind::InvalidSpec, "{refusal}");
}

#[test]
fn what_an_exec_leaves_running_does_not_keep_its_end_from_the_host() {
    if !containers_work_here("exec with a daemon") {
        return;
    }
    let mut agent = Running::start();
    agent.sleeper("c", |_| {});
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
fn no_descriptor_of_the_agents_leads_out_of_a_container() {
    if !containers_work_here("descriptors") {
        return;
    }
    let mut agent = Running::start();
    agent.sleeper("c", |_| {});
    for number in 3..20 {
        for way in [format!("/proc/self/fd/{number}"), format!("/proc/self/fd/{number}/..")] {
            let mut spec = process(&["true"]);
            spec.stdio = NO_STREAMS;
            spec.cwd = way.clone().into();
            let request = Request::Exec { process: exec("c", "x"), spec: Box::new(spec) };
            assert_eq!(agent.host.call(request).unwrap_err().kind, FaultKind::InvalidSpec, "{way}");
        }
    }
}

#[test]
fn an_exec_can_have_a_terminal_of_the_containers_own() {
    if !containers_work_here("exec with a terminal") {
        return;
    }
    let mut agent = Running::start();
    agent.sleeper("c", |_| {});
    let id = exec("c", "shell");
    let terminal = agent.attach(&id, Stream::Terminal);
    let mut spec =
        process(&["sh", "-c", "tty; stty size; cat /proc/self/stat | cut -d' ' -f7; exit 4"]);
    spec.stdio = Stdio::Terminal { size: TerminalSize { rows: 7, columns: 70 } };
    let request = Request::Exec { process: id.clone(), spec: Box::new(spec) };
    agent.host.call(request).unwrap();
    // 34816 is the device number of /dev/pts/0, as the controlling terminal.
    assert_eq!(text(terminal), "/dev/pts/0\r\n7 70\r\n34816\r\n");
    assert_eq!(agent.host.wait(&id), ExitStatus::Code(4));
}

#[test]
fn an_exec_is_forgotten_with_the_session_that_asked_for_it() {
    if !containers_work_here("forgotten execs") {
        return;
    }
    let mut agent = Running::start();
    agent.sleeper("c", |_| {});
    let (early, late) = (exec("c", "early"), exec("c", "late"));
    let mut session = agent.session();
    session.call(silent(&early, &["true"])).unwrap();
    session.call(silent(&late, &["sleep", "1000"])).unwrap();
    assert_eq!(session.wait(&early), ExitStatus::Code(0));
    assert_eq!(agent.host.wait(&early), ExitStatus::Code(0), "as long as it lasts");
    drop(session);
    // Whoever waits is still told, and nobody after that.
    let last = agent.host.ask(wait(&late));
    let kill = Request::Signal { process: late.clone(), signal: 9, all: false };
    agent.host.call(kill).unwrap();
    agent.host.answer(last).unwrap();
    for id in [early, late] {
        assert_eq!(agent.host.call(wait(&id)).unwrap_err().kind, FaultKind::NoSuchProcess);
    }
}

#[test]
fn fifty_processes_at_once_each_have_their_own_output_and_status() {
    if !containers_work_here("50 execs at once") {
        return;
    }
    let mut agent = Running::start();
    agent.sleeper("c", |_| {});
    let mut running = Vec::new();
    for number in 0..50 {
        let id = exec("c", &number.to_string());
        let (out, err) = (agent.attach(&id, Stream::Stdout), agent.attach(&id, Stream::Stderr));
        let script = format!("echo {number}; exit {number}");
        let spec = Box::new(process(&["sh", "-c", &script]));
        let call = agent.host.ask(Request::Exec { process: id.clone(), spec });
        running.push((id, call, out, err));
    }
    for (number, (id, call, out, err)) in running.into_iter().enumerate() {
        agent.host.answer(call).unwrap();
        assert_eq!((text(out), text(err)), (format!("{number}\n"), String::new()));
        assert_eq!(agent.host.wait(&id), ExitStatus::Code(number as u8));
    }
}

#[test]
fn many_short_containers_and_processes_leave_nothing_in_the_agent() {
    if !containers_work_here("leaks") {
        return;
    }
    let mut agent = Running::start();
    let root = agent.root("short");
    let round = |agent: &mut Running| {
        let (status, out, _) = agent.run("short", container(&root, &["echo", "hi"]));
        assert_eq!((status, out.as_str()), (ExitStatus::Code(0), "hi\n"));
        let mut spec = container(&root, &["nope"]);
        spec.process.stdio = NO_STREAMS;
        agent.host.call(create("short", spec)).unwrap_err();
    };
    agent.sleeper("c", |_| {});
    round(&mut agent);
    let before = agent.belongings();
    for number in 0..30 {
        round(&mut agent);
        let id = exec("c", "same");
        agent.host.call(silent(&id, &["sh", "-c", "exit 3"])).unwrap();
        assert_eq!(agent.host.wait(&id), ExitStatus::Code(3), "round {number}");
    }
    assert_eq!(agent.belongings(), before);
}
