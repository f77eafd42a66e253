use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};

use proto::spec::{Process, Stdio};

use super::record::Id;
use super::*;

fn record(name: &str, bits: u8) -> Record {
    let process = Process {
        stdio: Stdio::Pipes { stdin: false, stdout: true, stderr: true },
        args: vec!["true".to_owned()],
        cwd: PathBuf::from("/"),
        ..Process::default()
    };
    Record::new(Id::from_bits([bits; 32]), name.parse().unwrap(), "demo".to_owned(), process)
}

fn remove(root: &Root, dir: &Dir) -> Result<bool, StateError> {
    root.remove(dir, || Ok(()))
}

fn root() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(&dir.path().join("deep/microvm")).unwrap();
    (dir, root)
}

#[test]
fn a_claimed_container_is_alive_until_the_claim_is_dropped() {
    let (_dir, root) = root();
    let claim = root.claim(&record("web", 1)).unwrap();
    assert_eq!(claim.dir.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert!(root.find("web").unwrap().alive);
    drop(claim);
    let entry = root.find("web").unwrap();
    assert!(!entry.alive);
    assert_eq!(entry.record.unwrap().image, "demo");
}

#[test]
fn a_second_container_of_a_name_is_refused_while_the_first_runs_and_after() {
    let (_dir, root) = root();
    let claim = root.claim(&record("web", 1)).unwrap();
    let refused = root.claim(&record("web", 2)).unwrap_err();
    assert_eq!(refused.to_string(), "a container named web exists already");
    drop(claim);
    let refused = root.claim(&record("web", 2)).unwrap_err();
    assert!(refused.to_string().ends_with("(it has ended; microvm rm removes it)"), "{refused}");
}

#[test]
fn a_running_container_is_not_removed_and_an_ended_one_is() {
    let (_dir, root) = root();
    let claim = root.claim(&record("web", 1)).unwrap();
    let dir = root.find("web").unwrap().dir;
    assert!(matches!(remove(&root, &dir), Err(StateError::Running { .. })));
    drop(claim);
    let another = root.find("web").unwrap().dir;
    assert!(remove(&root, &dir).unwrap());
    assert!(matches!(root.find("web"), Err(StateError::NotFound { .. })));
    let _next = root.claim(&record("web", 2)).unwrap();
    assert!(!remove(&root, &another).unwrap(), "the next one of its name is another");
    assert!(root.find("web").unwrap().alive);
}

#[test]
fn what_a_killed_supervisor_left_is_swept_if_nobody_wanted_to_keep_it() {
    let (_dir, root) = root();
    let unwanted = |name, bits| {
        let mut record = record(name, bits);
        record.remove = true;
        record
    };
    drop(root.claim(&unwanted("unwanted", 1)).unwrap());
    drop(root.claim(&record("kept", 2)).unwrap());
    let running = root.claim(&unwanted("running", 3)).unwrap();
    for half in [NEW, GONE] {
        fs::create_dir(root.path().join(half)).unwrap();
        fs::write(root.path().join(half).join("lock"), "").unwrap();
    }
    let next = root.claim(&record("next", 4)).unwrap();
    assert!(!root.path().join(NEW).exists() && !root.path().join(GONE).exists());
    let names: Vec<_> =
        root.entries().unwrap().iter().map(|entry| entry.dir.name().to_string()).collect();
    assert_eq!(names, ["kept", "next", "running"]);
    drop((running, next));
}

#[test]
fn a_container_is_found_by_the_beginning_of_its_id() {
    let (_dir, root) = root();
    let _one = root.claim(&record("one", 0xa1)).unwrap();
    let _two = root.claim(&record("two", 0xa2)).unwrap();
    assert_eq!(root.find("a1a1").unwrap().dir.name().as_ref(), "one");
    assert!(matches!(root.find("a"), Err(StateError::Ambiguous { .. })));
    assert!(matches!(root.find("b"), Err(StateError::NotFound { .. })));
    assert!(matches!(root.find("../one"), Err(StateError::NotFound { .. })));
}

#[test]
fn a_record_someone_edited_is_named_and_never_believed() {
    let (_dir, root) = root();
    drop(root.claim(&record("web", 1)).unwrap());
    let path = root.path().join("web/state.json");
    let good = fs::read_to_string(&path).unwrap();
    for (bad, words) in [
        (good.replace("\"version\":1", "\"version\":2"), "version 2"),
        (good.replace("\"name\":\"web\"", "\"name\":\"bew\""), "not its directory's"),
        (good.replace("\"name\":\"web\"", "\"name\":\"../x\""), "not a container name"),
        (good.replace("0101", "zzzz"), "not a container id"),
        (good[..good.len() / 2].to_owned(), "EOF"),
        (String::new(), "EOF"),
    ] {
        fs::write(&path, bad).unwrap();
        match root.find("web").unwrap().record.unwrap_err() {
            StateError::Corrupt { path: named, source } => {
                assert_eq!(named, path);
                assert!(source.to_string().contains(words), "{source}");
            }
            other => panic!("{other}"),
        }
    }
    assert!(remove(&root, &root.find("web").unwrap().dir).unwrap());
}

#[test]
fn a_link_in_the_root_is_not_a_container() {
    let (_dir, root) = root();
    symlink("/etc", root.path().join("etc")).unwrap();
    assert!(root.entries().unwrap().is_empty());
    assert!(root.find("etc").is_err());
}

#[test]
fn a_socket_works_however_long_the_roots_path_is() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(&dir.path().join("x".repeat(200))).unwrap();
    let claim = root.claim(&record("web", 1)).unwrap();
    let _listener = UnixListener::bind(claim.dir.socket_path()).unwrap();
    assert!(claim.dir.path().join("vsock.sock").exists());
    UnixStream::connect(root.find("web").unwrap().dir.socket_path()).unwrap();
}

#[test]
fn who_waits_for_a_container_learns_its_exit_code_even_if_nothing_else_is_left() {
    let (_dir, root) = root();
    let claim = root.claim(&record("web", 1)).unwrap();
    let entry = root.find("web").unwrap();
    let waiter = std::thread::spawn(move || entry.dir.wait());
    claim.leave(42);
    assert!(!waiter.is_finished(), "it waited for nothing");
    drop(claim);
    assert_eq!(waiter.join().unwrap().unwrap(), Some(42));
}

#[test]
fn the_supervisor_of_a_container_is_whoever_holds_it() {
    let (_dir, root) = root();
    let claim = root.claim(&record("web", 1)).unwrap();
    let entry = root.find("web").unwrap();
    let us = lock::holder(&entry.dir.here());
    assert_eq!(us, Some(rustix::process::getpid()));
    drop(claim);
    assert!(entry.dir.supervisor().is_none(), "its lock is free");
}

#[test]
fn an_ended_container_starts_again_in_its_own_place_and_is_as_it_was_if_it_cannot() {
    let (_dir, root) = root();
    let mut before = record("web", 1);
    let claim = root.claim(&before).unwrap();
    assert!(matches!(root.reclaim(&before), Err(StateError::Running { .. })));
    std::fs::write(claim.dir.log_path(), "said").unwrap();
    let outcome = record::Outcome { exit_code: 7, finished: record::now(), error: None };
    before.outcome = Some(outcome);
    claim.dir.write(&before).unwrap();
    claim.leave(7);
    drop(claim);

    let claim = root.reclaim(&record("web", 1)).unwrap();
    let entry = root.find("web").unwrap();
    assert!(entry.alive && entry.dir.supervisor().is_some());
    assert_eq!(entry.record.unwrap().outcome, None);
    let give_back = claim.give_back(before.clone()).unwrap();
    claim.leave(125);
    give_back();
    drop(claim);
    let entry = root.find("web").unwrap();
    assert_eq!((entry.alive, entry.record.unwrap()), (false, before));
    assert_eq!(entry.dir.wait().unwrap(), Some(7));
    assert_eq!(std::fs::read_to_string(entry.dir.log_path()).unwrap(), "said");

    let claim = root.reclaim(&record("web", 1)).unwrap();
    claim.leave(0);
    drop(claim);
    assert_eq!(root.find("web").unwrap().dir.wait().unwrap(), Some(0));
    // Another of its name is not it.
    assert!(matches!(root.reclaim(&record("web", 2)), Err(StateError::NotFound { .. })));
    assert!(remove(&root, &root.find("web").unwrap().dir).unwrap());
    assert!(matches!(root.reclaim(&record("web", 1)), Err(StateError::NotFound { .. })));
}

#[test]
fn a_record_that_names_anothers_disk_is_not_believed() {
    let (_dir, root) = root();
    let mut record = record("web", 1);
    record.storage = Some(PathBuf::from("/etc/passwd"));
    root.claim(&record).unwrap();
    let message = root.find("web").unwrap().record.unwrap_err();
    assert!(matches!(message, StateError::Corrupt { source: BadRecord::OtherStorage { .. }, .. }));
}
