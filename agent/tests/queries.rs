//! What can be asked about a container while it runs.

mod guest;

use guest::{
    NO_STREAMS, Running, container, containers_work_here, create, exec, first, process, start, text,
};
use proto::message::{FaultKind, ProcessInfo, Reply, Request};
use proto::spec::Mount;
use proto::stream::Stream;

fn processes(agent: &mut Running, name: &str) -> Vec<ProcessInfo> {
    match agent.host.call(Request::Processes { container: name.into() }).unwrap() {
        Reply::Processes { processes } => processes,
        reply => panic!("processes answered by {reply:?}"),
    }
}

fn files(
    agent: &mut Running,
    request: fn(String, Vec<String>) -> Request,
    files: &[&str],
) -> Vec<(String, String)> {
    let files = files.iter().map(|file| file.to_string()).collect();
    match agent.host.call(request("c".into(), files)).unwrap() {
        Reply::Files { files } => files,
        reply => panic!("files answered by {reply:?}"),
    }
}

fn read(agent: &mut Running, names: &[&str]) -> Vec<(String, String)> {
    files(agent, |container, files| Request::ReadCgroup { container, files }, names)
}

fn read_proc(agent: &mut Running, names: &[&str]) -> Vec<(String, String)> {
    files(agent, |container, files| Request::ReadProc { container, files }, names)
}

fn write(agent: &mut Running, file: &str, value: &str) -> Result<Reply, proto::message::Fault> {
    let values = vec![(file.to_owned(), value.to_owned())];
    agent.host.call(Request::WriteCgroup { container: "c".into(), values })
}

#[test]
fn processes_are_listed_with_who_they_are_the_oldest_first() {
    if !containers_work_here("ps") {
        return;
    }
    let mut agent = Running::start();
    agent.sleeper("c", |_| {});
    let mut ann = process(&["sleep", "2000"]);
    ann.stdio = NO_STREAMS;
    ann.user.who = proto::spec::Who::Name { name: "ann".into() };
    let added = Request::Exec { process: exec("c", "x"), spec: Box::new(ann) };
    let Reply::Created { pid } = agent.host.call(added).unwrap() else { panic!("no process") };

    let list = processes(&mut agent, "c");
    let said: Vec<_> = list.iter().map(|p| (p.uid, p.command.as_str(), p.tty)).collect();
    assert_eq!(said, [(0, "sleep 1000", 0), (1000, "sleep 2000", 0)]);
    assert_eq!(list[1].pid, pid);
    // The agent is process 1 and has made both.
    assert_eq!((list[0].ppid, list[1].ppid), (1, 1));
    assert!(list[0].age_ms >= list[1].age_ms && list[0].age_ms < 60_000, "{list:?}");

    let nobody = agent.host.call(Request::Processes { container: "d".into() }).unwrap_err();
    assert_eq!(nobody.kind, FaultKind::NoSuchProcess);
}

#[test]
fn a_list_of_more_than_a_frame_can_hold_cuts_commands_and_not_the_session() {
    if !containers_work_here("a long ps") {
        return;
    }
    let mut agent = Running::start();
    let script = "long=$(head -c 100000 /bin/busybox | sed 's/[^a-z]/\"/g' | head -c 90000); \
        for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
        sh -c 'echo up; sleep 1000; true' \"$long\" & done; wait";
    let spec = container(&agent.root("c"), &["sh", "-c", script]);
    let [out, _err] = [Stream::Stdout, Stream::Stderr].map(|s| agent.attach(&first("c"), s));
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(out));
    for _ in 0..20 {
        assert_eq!(lines.next().unwrap().unwrap(), "up");
    }
    let list = processes(&mut agent, "c");
    assert!(list.len() > 20, "{}", list.len());
    assert!(list.iter().all(|process| process.command.len() <= 4096));
}

#[test]
fn cgroup_files_are_read_and_written_by_name_and_nothing_else_is() {
    if !containers_work_here("cgroup files") {
        return;
    }
    let mut agent = Running::start();
    agent.sleeper("c", |spec| spec.cgroup = vec![("cgroup.max.depth".into(), "7".into())]);

    let wanted = ["cgroup.max.depth", "no.such.file", "cgroup.type"];
    let files = [("cgroup.max.depth", "7\n"), ("cgroup.type", "domain\n")];
    assert_eq!(read(&mut agent, &wanted), files.map(|(n, v)| (n.to_owned(), v.to_owned())));
    assert_eq!(write(&mut agent, "cgroup.max.depth", "8"), Ok(Reply::Done));
    assert_eq!(read(&mut agent, &["cgroup.max.depth"])[0].1, "8\n");

    let refused = write(&mut agent, "cgroup.max.depth", "deep").unwrap_err();
    assert_eq!(
        refused.message,
        "cgroup of container c: cgroup.max.depth \"deep\": invalid argument"
    );
    let absent = write(&mut agent, "nope.max", "1").unwrap_err();
    assert_eq!(absent.message, "cgroup of container c: nope.max \"1\": no such file or directory");
    for name in ["../cgroup.procs", "..", ".", "", "a/b", "/etc/passwd", "a\0"] {
        let fault = write(&mut agent, name, "1").unwrap_err();
        assert_eq!(fault.kind, FaultKind::InvalidSpec, "{name}");
        let files = vec![name.to_owned()];
        let read = Request::ReadCgroup { container: "c".into(), files };
        assert_eq!(agent.host.call(read).unwrap_err().kind, FaultKind::InvalidSpec, "{name}");
    }
}

#[test]
fn a_container_s_processes_are_shown_by_the_numbers_they_have_there() {
    if !containers_work_here("proc") {
        return;
    }
    let mut agent = Running::start();
    agent.sleeper("c", |_| {});
    let said = read_proc(&mut agent, &[".", "1/cmdline", "1/stat", "1/ns/pid", "7/stat"]);
    let said: Vec<_> = said.iter().map(|(file, text)| (file.as_str(), text.as_str())).collect();
    let [numbers, command, stat, namespace] = said[..] else { panic!("{said:?}") };
    assert_eq!(numbers, (".", "1\n"));
    assert_eq!(command, ("1/cmdline", "sleep\u{0}1000\u{0}"));
    assert!(stat.1.starts_with("1 (sleep) "), "{stat:?}");
    assert!(namespace.1.starts_with("pid:["), "{namespace:?}");
    let others = ["1/environ", "1/root", "sys/kernel/hostname", "../etc/passwd", "1/../stat", ""];
    assert_eq!(read_proc(&mut agent, &others), []);
}

#[test]
fn what_a_container_puts_in_the_place_of_its_processes_is_not_read() {
    if !containers_work_here("a false proc") {
        return;
    }
    let mut agent = Running::start();
    // Whoever opens a pipe that nobody writes to waits for ever.
    let script = "mkfifo /pipe && mount --bind /pipe /proc/1/stat && echo up && sleep 1000";
    let mut spec = container(&agent.root("c"), &["sh", "-c", script]);
    spec.process.capabilities.bounding.push("CAP_SYS_ADMIN".into());
    spec.process.capabilities.effective.push("CAP_SYS_ADMIN".into());
    spec.process.capabilities.permitted.push("CAP_SYS_ADMIN".into());
    let out = agent.attach(&first("c"), proto::stream::Stream::Stdout);
    let err = agent.attach(&first("c"), proto::stream::Stream::Stderr);
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    let mut said = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut said).unwrap();
    if said.is_empty() {
        panic!("{}", guest::text(err));
    }
    let said = read_proc(&mut agent, &["1/stat", "1/cmdline"]);
    let said: Vec<_> = said.iter().map(|(file, _)| file.as_str()).collect();
    assert_eq!(said, ["1/cmdline"]);

    agent.sleeper("d", |spec| {
        spec.mounts.retain(|mount| mount.destination != std::path::Path::new("/proc"));
    });
    let none = Request::ReadProc { container: "d".into(), files: vec![".".into()] };
    assert_eq!(agent.host.call(none), Ok(Reply::Files { files: vec![] }));
}

#[test]
fn a_container_hears_of_others_without_losing_what_it_wrote() {
    if !containers_work_here("introduce") {
        return;
    }
    let mut agent = Running::start();
    let known = |text: &str| Mount {
        destination: "/etc/hosts".into(),
        content: Some(text.into()),
        introduces: true,
        options: vec!["ro".into()],
        ..Mount::default()
    };
    agent.sleeper("c", |spec| spec.mounts.push(known("127.0.0.1\tlocalhost\n10.0.0.2\tone\n")));
    agent.sleeper("alone", |_| {});
    let introduce = |container: &str, gone: &[&str], come: &[&str]| {
        let lines = |lines: &[&str]| lines.iter().map(|line| line.to_string()).collect();
        let (gone, come) = (lines(gone), lines(come));
        Request::Introduce { container: container.into(), gone, come }
    };
    let one = "10.0.0.2\tone";
    let reply = agent.host.call(introduce("c", &[one], &["10.0.0.3\ttwo"]));
    assert_eq!(reply, Ok(Reply::Done), "whether or not the container may write there");
    let id = exec("c", "cat");
    let [out, _err] = [Stream::Stdout, Stream::Stderr].map(|stream| agent.attach(&id, stream));
    let spec = Box::new(process(&["cat", "/etc/hosts"]));
    agent.host.call(Request::Exec { process: id, spec }).unwrap();
    assert_eq!(text(out), "127.0.0.1\tlocalhost\n10.0.0.3\ttwo\n");
    assert_eq!(agent.host.call(introduce("alone", &[], &[one])), Ok(Reply::Done));
    let nobody = agent.host.call(introduce("nobody", &[], &[one])).unwrap_err();
    assert_eq!(nobody.kind, FaultKind::NoSuchProcess);
    agent.end();
}
