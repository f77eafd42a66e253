//! Files carried between a container and the host.

mod guest;

use std::io::BufReader;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::os::unix::net::UnixStream;

use guest::{
    NO_STREAMS, Running, container, containers_work_here, create, exec, first, process, start,
};
use proto::files::{Bytes, Entry, Kind, Work};
use proto::message::{FaultKind, Request};
use proto::spec::{IdMapping, Namespace};
use proto::stream::Stream;
use transfer::{ReceiveError, Receiver, Sender};

fn bytes(text: &str) -> Bytes {
    text.as_bytes().into()
}

fn read(path: &str) -> Work {
    Work::Read { path: bytes(path), follow: false }
}

/// An agent with a container `c` that runs.
fn with_container(script: &str) -> Running {
    let mut agent = Running::start();
    let root = agent.root("c");
    let mut spec = container(&root, &["sh", "-c", &format!("{script}; sleep 1000")]);
    spec.process.stdio = NO_STREAMS;
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    agent
}

/// Runs a script in the container to its end.
fn run(agent: &mut Running, name: &str, script: &str) {
    let mut spec = process(&["sh", "-c", script]);
    spec.stdio = NO_STREAMS;
    let id = exec("c", name);
    agent.host.call(Request::Exec { process: id.clone(), spec: Box::new(spec) }).unwrap();
    agent.host.wait(&id);
}

/// Has work done, and gives what is heard of it.
fn carry(agent: &mut Running, name: &str, work: Work) -> Receiver<BufReader<UnixStream>> {
    let id = exec("c", name);
    let output = agent.attach(&id, Stream::Stdout);
    agent.host.call(Request::Carry { process: id, work }).unwrap();
    Receiver::new(BufReader::new(output), 10_000)
}

fn told(receiver: &mut Receiver<BufReader<UnixStream>>) -> Vec<Entry> {
    std::iter::from_fn(|| receiver.entry().unwrap()).collect()
}

/// Puts one file with this content somewhere, and gives what the agent says to it.
fn put(agent: &mut Running, name: &str, work: Work, content: &[u8]) -> Result<(), ReceiveError> {
    let id = exec("c", name);
    let input = agent.attach(&id, Stream::Stdin);
    let output = agent.attach(&id, Stream::Stdout);
    agent.host.call(Request::Carry { process: id, work }).unwrap();
    let mut sender = Sender::new(&input);
    let kind = Kind::File { bytes: content.len() as u64 };
    let entry = Entry {
        path: Bytes::default(),
        kind,
        mode: 0o600,
        uid: 3,
        gid: 4,
        mtime: (5, 0),
        xattrs: vec![],
        covers: false,
    };
    // Whoever does not want it hangs up.
    let _ = sender.entry(entry).and_then(|()| sender.data(content)).and_then(|()| sender.end());
    Receiver::new(output, 1).entry().map(drop)
}

#[test]
fn a_tree_is_said_with_all_in_it_and_a_file_with_its_bytes() {
    if !containers_work_here("files that are read") {
        return;
    }
    let mut agent = with_container("true");
    run(&mut agent, "e", "mkdir -p /tmp/d/e; echo hello > /tmp/d/e/f; echo x > /dev/shm/m");
    let mut receiver = carry(&mut agent, "one", read("/tmp/d"));
    let mut names = Vec::new();
    while let Some(entry) = receiver.entry().unwrap() {
        if let Kind::File { .. } = entry.kind {
            let mut content = [0; 16];
            let count = receiver.data(&mut content).unwrap();
            assert_eq!(&content[..count], b"hello\n");
        }
        names.push(String::from_utf8(entry.path.0).unwrap());
    }
    assert_eq!(names, ["", "e", "e/f"]);
    // What is mounted is seen as the container sees it, and not in what the root is made of.
    let mounted = told(&mut carry(&mut agent, "two", read("/dev/shm/m")));
    assert_eq!(mounted.len(), 1);
    let root = told(&mut carry(&mut agent, "three", Work::Root));
    let has = |name: &str| root.iter().any(|entry| entry.path == bytes(name));
    assert!(has("bin/busybox") && has("dev") && !has("dev/shm") && !has("proc/1"));
    // Nothing of a kernel's is read unless it is asked for.
    let all = told(&mut carry(&mut agent, "four", read("/")));
    assert!(all.iter().any(|entry| entry.path == bytes("proc")));
    assert!(!all.iter().any(|entry| entry.path.0.starts_with(b"proc/")));
    // Whoever has said all may be there a moment longer.
    for carrier in ["one", "two", "three", "four"] {
        agent.host.wait(&exec("c", carrier));
    }
    let before = agent.belongings();
    drop(carry(&mut agent, "five", read("/")));
    agent.host.wait(&exec("c", "five"));
    assert_eq!(agent.belongings(), before);
}

#[test]
fn links_of_the_container_stay_in_its_root() {
    if !containers_work_here("links on the way to files") {
        return;
    }
    let mut agent = with_container("true");
    let root = agent.root_of("c");
    let outside = agent.root_of("outside");
    std::fs::write(&outside, "outside").unwrap();
    symlink(&outside, root.join("tmp/out")).unwrap();
    symlink("/proc/1/root", root.join("tmp/jump")).unwrap();
    symlink("/etc/target", root.join("tmp/in")).unwrap();
    let failed = |agent: &mut Running, name: &str, work: Work| {
        carry(agent, name, work).entry().unwrap_err().to_string()
    };
    let follow = |path: &str| Work::Read { path: bytes(path), follow: true };
    let said = failed(&mut agent, "one", follow("/tmp/out"));
    assert!(said.contains("no such file or directory"), "{said}");
    let said = failed(&mut agent, "two", read("/tmp/jump/etc/passwd"));
    assert!(said.contains("symbolic link"), "{said}");
    let looked = told(&mut carry(&mut agent, "three", Work::Look { path: bytes("/tmp/out") }));
    assert_eq!(looked, []);
    // A link itself is what it says; written through, it leads to a place in the container.
    let link = told(&mut carry(&mut agent, "four", read("/tmp/in")));
    assert_eq!(link[0].kind, Kind::Symlink { to: bytes("/etc/target") });
    let write = |name: &str, follow| Work::Write {
        directory: bytes("/tmp"),
        name: Some(bytes(name)),
        follow,
    };
    put(&mut agent, "five", write("in", true), b"mine").unwrap();
    assert_eq!(std::fs::read_to_string(root.join("etc/target")).unwrap(), "mine");
    put(&mut agent, "six", write("out", false), b"mine").unwrap();
    assert_eq!(std::fs::read_to_string(root.join("tmp/out")).unwrap(), "mine");
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "outside");
    assert!(put(&mut agent, "seven", write("../x", false), b"x").is_err());
    assert!(!root.join("x").exists());
}

#[test]
fn a_container_with_users_of_its_own_is_carried_for_in_its_numbers() {
    if !containers_work_here("files of other users") {
        return;
    }
    let mut agent = Running::start();
    let root = agent.root("c");
    let mut spec = container(&root, &["sleep", "1000"]);
    for path in [&root, &root.join("tmp"), &root.join("etc"), &root.join("bin")] {
        chown(path, Some(100_000), Some(200_000)).unwrap();
    }
    spec.process.stdio = NO_STREAMS;
    spec.namespaces.push(Namespace::User);
    spec.uid_mappings = vec![IdMapping { container_id: 0, host_id: 100_000, size: 10_000 }];
    spec.gid_mappings = vec![IdMapping { container_id: 0, host_id: 200_000, size: 10_000 }];
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    let work = Work::Write { directory: bytes("/tmp"), name: Some(bytes("f")), follow: false };
    put(&mut agent, "one", work, b"mine").unwrap();
    let metadata = std::fs::metadata(root.join("tmp/f")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (100_003, 200_004));
    let read = told(&mut carry(&mut agent, "two", read("/tmp/f")));
    assert_eq!((read[0].uid, read[0].gid, read[0].mtime.0), (3, 4, 5));
}

#[test]
fn what_cannot_be_carried_is_said() {
    if !containers_work_here("files that cannot be carried") {
        return;
    }
    let mut agent = with_container("true");
    let failed = |agent: &mut Running, name: &str, work: Work| {
        carry(agent, name, work).entry().unwrap_err().to_string()
    };
    // Its root is a directory, so nothing is known of what it was.
    let said = failed(&mut agent, "one", Work::Changes { names_only: true });
    assert!(said.contains("no image's"), "{said}");
    assert!(failed(&mut agent, "two", read("/no/such")).contains("/no/such"));
    let into =
        |directory: &str| Work::Write { directory: bytes(directory), name: None, follow: false };
    let said = put(&mut agent, "three", into("/etc/passwd"), b"").unwrap_err().to_string();
    assert!(said.contains("/etc/passwd is no directory"), "{said}");
    // A stream that breaks off is not taken for a whole one.
    let id = exec("c", "four");
    let input = agent.attach(&id, Stream::Stdin);
    let output = agent.attach(&id, Stream::Stdout);
    agent.host.call(Request::Carry { process: id.clone(), work: into("/tmp") }).unwrap();
    input.shutdown(std::net::Shutdown::Write).unwrap();
    let said = Receiver::new(output, 1).entry().unwrap_err().to_string();
    assert_eq!(said, "the connection ended too early");
    let nowhere = Request::Carry { process: exec("nobody", "x"), work: read("/") };
    assert_eq!(agent.host.call(nowhere).unwrap_err().kind, FaultKind::NoSuchProcess);
    let unnamed = Request::Carry { process: first("c"), work: read("/") };
    assert!(agent.host.call(unnamed).is_err());
}
