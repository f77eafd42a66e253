//! The bytes of every message, frozen.
//!
//! A restored guest may carry an older agent than the host that talks to it, so what stands here is a
//! promise: a change that fails one of these tests needs a new `proto::VERSION`, or must be made so
//! that both forms are read.

mod files;
mod network;

use std::fmt::Debug;

use proto::files::{Bytes, Work};
use proto::frame;
use proto::message::{
    Adoption, Answer, Call, ExitStatus, Fault, FaultKind, Hello, ProcessId, ProcessInfo, Reply,
    Request,
};
use proto::network::Network;
use proto::spec::{
    Capabilities, Container, Device, Hook, IdMapping, Mount, Namespace, Preserved, Process, Rlimit,
    Root, Scheduler, Seccomp, Stdio, Submount, TerminalSize, User, Who,
};
use proto::stream::{Attach, Stream};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// `value` is written as `json` behind its length, and read back from it.
#[track_caller]
fn stands<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T, json: &str) {
    let bytes = frame::encode(&value).unwrap();
    let (prefix, body) = bytes.split_first_chunk().unwrap();
    assert_eq!(std::str::from_utf8(body).unwrap(), json);
    assert_eq!(u32::from_le_bytes(*prefix) as usize, json.len());
    assert_eq!(frame::decode::<T>(json.as_bytes()).unwrap(), value);
}

/// `json`, of an older or newer speaker, is read as `value`.
#[track_caller]
fn reads<T: DeserializeOwned + PartialEq + Debug>(json: &str, value: T) {
    assert_eq!(frame::decode::<T>(json.as_bytes()).unwrap(), value);
}

fn first() -> ProcessId {
    ProcessId { container: "web".into(), exec: None }
}

fn exec() -> ProcessId {
    ProcessId { container: "web".into(), exec: Some("e1".into()) }
}

fn call(request: Request) -> Call {
    Call { id: 7, request }
}

fn process() -> Process {
    Process {
        stdio: Stdio::Pipes { stdin: true, stdout: true, stderr: false },
        user: User::default(),
        args: vec!["sh".into()],
        env: vec![],
        cwd: "/".into(),
        capabilities: Capabilities::default(),
        rlimits: vec![],
        ..Process::default()
    }
}

const PROCESS: &str = concat!(
    r#"{"stdio":{"kind":"pipes","stdin":true,"stdout":true,"stderr":false},"#,
    r#""user":{"who":{"by":"ids","uid":0,"gid":0},"additionalGids":[]},"#,
    r#""args":["sh"],"env":[],"cwd":"/","#,
    r#""capabilities":{"bounding":[],"effective":[],"inheritable":[],"permitted":[],"ambient":[]},"#,
    r#""rlimits":[],"noNewPrivileges":false}"#
);

#[test]
fn version_and_ports_are_what_older_peers_dial() {
    assert_eq!(proto::VERSION, 1);
    assert_eq!((proto::READY_PORT, proto::SESSION_PORT, proto::STDIO_PORT), (1024, 1025, 1026));
    assert_eq!(frame::MAX_BYTES, 1 << 20);
}

#[test]
fn hello_stands() {
    let host = Hello { version: 1, name: "microvm 0.1.0".into(), agent_started_ns: None };
    stands(host, r#"{"version":1,"name":"microvm 0.1.0"}"#);
    let agent = Hello { version: 1, name: "a".into(), agent_started_ns: Some(12_345_678) };
    stands(agent, r#"{"version":1,"name":"a","agent_started_ns":12345678}"#);
}

#[test]
fn calls_about_a_container_stand() {
    let spec = Container {
        root: Root::Disk { index: 0, upper_bytes: None, upper_disk: None },
        readonly: false,
        hostname: None,
        mounts: vec![],
        masked_paths: vec![],
        readonly_paths: vec![],
        process: process(),
        ..Container::default()
    };
    stands(
        call(Request::Create { container: "web".into(), spec: Box::new(spec) }),
        &format!(
            r#"{{"id":7,"request":{{"do":"create","container":"web","spec":{{"root":{{"from":"disk","index":0}},"readonly":false,"mounts":[],"maskedPaths":[],"readonlyPaths":[],"sysctl":[],"process":{PROCESS}}}}}}}"#
        ),
    );
    stands(
        call(Request::Start { container: "web".into() }),
        r#"{"id":7,"request":{"do":"start","container":"web"}}"#,
    );
    stands(
        call(Request::Exec { process: exec(), spec: Box::new(process()) }),
        &format!(
            r#"{{"id":7,"request":{{"do":"exec","process":{{"container":"web","exec":"e1"}},"spec":{PROCESS}}}}}"#
        ),
    );
}

#[test]
fn calls_that_carry_files_stand() {
    let bytes = |text: &str| Bytes::from(text.as_bytes());
    let carry = |work| call(Request::Carry { process: exec(), work });
    let said = |work: &str| {
        let process = r#"{"container":"web","exec":"e1"}"#;
        format!(r#"{{"id":7,"request":{{"do":"carry","process":{process},"work":{work}}}}}"#)
    };
    stands(carry(Work::Look { path: bytes("/a") }), &said(r#"{"work":"look","path":"/a"}"#));
    let read = Work::Read { path: Bytes(vec![b'/', 0xe9]), follow: true };
    stands(carry(read), &said(r#"{"work":"read","path":"/é","follow":true}"#));
    let write = Work::Write { directory: bytes("/a"), name: Some(bytes("b")), follow: false };
    let json = r#"{"work":"write","directory":"/a","name":"b","follow":false}"#;
    stands(carry(write), &said(json));
    stands(carry(Work::Root), &said(r#"{"work":"root"}"#));
    let changes = Work::Changes { names_only: true };
    stands(carry(changes), &said(r#"{"work":"changes","names_only":true}"#));
}

#[test]
fn calls_about_a_process_stand() {
    stands(
        call(Request::Signal { process: first(), signal: 15, all: true }),
        r#"{"id":7,"request":{"do":"signal","process":{"container":"web"},"signal":15,"all":true}}"#,
    );
    stands(
        call(Request::Resize { process: exec(), size: TerminalSize { rows: 25, columns: 80 } }),
        r#"{"id":7,"request":{"do":"resize","process":{"container":"web","exec":"e1"},"size":{"rows":25,"columns":80}}}"#,
    );
    stands(
        call(Request::Wait { process: first(), early: false }),
        r#"{"id":7,"request":{"do":"wait","process":{"container":"web"}}}"#,
    );
    stands(call(Request::PowerOff), r#"{"id":7,"request":{"do":"power_off"}}"#);
    stands(call(Request::Settle), r#"{"id":7,"request":{"do":"settle"}}"#);
    let mut seed = [0; 32];
    seed[..3].copy_from_slice(&[1, 255, 30]);
    let adoption = Adoption {
        seed,
        wall_clock_ns: 1_795_000_000_000_000_001,
        disk_sectors: vec![8, 1],
        network: Network::default(),
    };
    stands(
        call(Request::Adopt(adoption)),
        concat!(
            r#"{"id":7,"request":{"do":"adopt","seed":"#,
            "[1,255,30,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],",
            r#""wall_clock_ns":1795000000000000001,"disk_sectors":[8,1]}}"#
        ),
    );
}

#[test]
fn a_file_with_its_content_stands() {
    let mount = Mount {
        destination: "/etc/hosts".into(),
        content: Some("::1\tlocalhost\n".into()),
        ..Mount::default()
    };
    stands(mount, r#"{"destination":"/etc/hosts","content":"::1\tlocalhost\n","options":[]}"#);
}

#[test]
fn answers_stand() {
    let good = |reply| Answer { id: 7, result: Ok(reply) };
    stands(good(Reply::Done), r#"{"id":7,"result":{"Ok":{"got":"done"}}}"#);
    stands(
        good(Reply::Created { pid: 42 }),
        r#"{"id":7,"result":{"Ok":{"got":"created","pid":42}}}"#,
    );
    let exited = |status| good(Reply::Exited { status });
    stands(
        exited(ExitStatus::Code(3)),
        r#"{"id":7,"result":{"Ok":{"got":"exited","status":{"code":3}}}}"#,
    );
    stands(
        exited(ExitStatus::Signal(9)),
        r#"{"id":7,"result":{"Ok":{"got":"exited","status":{"signal":9}}}}"#,
    );
}

#[test]
fn every_kind_of_fault_stands() {
    let kinds = [
        (FaultKind::ProgramNotFound, "program_not_found"),
        (FaultKind::ProgramNotExecutable, "program_not_executable"),
        (FaultKind::NoSuchProcess, "no_such_process"),
        (FaultKind::AlreadyExists, "already_exists"),
        (FaultKind::InvalidSpec, "invalid_spec"),
        (FaultKind::System, "system"),
    ];
    for (kind, word) in kinds {
        stands(
            Answer { id: 7, result: Err(Fault { kind, message: "no".into() }) },
            &format!(r#"{{"id":7,"result":{{"Err":{{"kind":"{word}","message":"no"}}}}}}"#),
        );
    }
}

#[test]
fn attach_stands_for_every_stream() {
    let streams = [
        (Stream::Stdin, r#""stdin""#),
        (Stream::Stdout, r#""stdout""#),
        (Stream::Stderr, r#""stderr""#),
        (Stream::Terminal, r#""terminal""#),
        (Stream::Preserved(4), r#"{"preserved":4}"#),
    ];
    for (stream, word) in streams {
        stands(
            Attach { version: 1, process: first(), stream },
            &format!(r#"{{"version":1,"process":{{"container":"web"}},"stream":{word}}}"#),
        );
    }
}

#[test]
fn a_full_container_stands() {
    let all = vec!["CAP_KILL".to_owned()];
    let spec = Container {
        root: Root::Directory { path: "/mnt/root".into() },
        readonly: true,
        hostname: Some("box".into()),
        mounts: vec![Mount {
            destination: "/proc".into(),
            kind: Some("proc".into()),
            source: Some("proc".into()),
            options: vec!["nosuid".into()],
            submounts: vec![Submount { path: "bus/usb".into(), options: vec!["ro".into()] }],
            ..Mount::default()
        }],
        masked_paths: vec!["/proc/keys".into()],
        readonly_paths: vec!["/proc/sys".into()],
        sysctl: vec![("kernel.shmmni".into(), "1".into())],
        process: Process {
            stdio: Stdio::Terminal { size: TerminalSize { rows: 1, columns: 2 } },
            user: User {
                who: Who::Name { name: "ann:wheel".into() },
                additional_gids: vec![5],
                umask: Some(18),
            },
            env: vec!["A=b".into()],
            capabilities: Capabilities {
                bounding: all.clone(),
                ambient: all,
                ..Default::default()
            },
            rlimits: vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 1, hard: u64::MAX }],
            no_new_privileges: true,
            oom_score_adj: Some(-5),
            ..process()
        },
        ..Container::default()
    };
    let json = concat!(
        r#"{"root":{"from":"directory","path":"/mnt/root"},"readonly":true,"hostname":"box","#,
        r#""mounts":[{"destination":"/proc","type":"proc","source":"proc","options":["nosuid"],"#,
        r#""submounts":[{"path":"bus/usb","options":["ro"]}]}],"#,
        r#""maskedPaths":["/proc/keys"],"readonlyPaths":["/proc/sys"],"#,
        r#""sysctl":[["kernel.shmmni","1"]],"#,
        r#""process":{"stdio":{"kind":"terminal","size":{"rows":1,"columns":2}},"#,
        r#""user":{"who":{"by":"name","name":"ann:wheel"},"additionalGids":[5],"umask":18},"#,
        r#""args":["sh"],"env":["A=b"],"cwd":"/","#,
        r#""capabilities":{"bounding":["CAP_KILL"],"effective":[],"inheritable":[],"#,
        r#""permitted":[],"ambient":["CAP_KILL"]},"#,
        r#""rlimits":[{"type":"RLIMIT_NOFILE","soft":1,"hard":18446744073709551615}],"#,
        r#""noNewPrivileges":true,"oomScoreAdj":-5}}"#
    );
    stands(spec, json);
    stands(
        Root::Disk { index: 3, upper_bytes: Some(4096), upper_disk: None },
        r#"{"from":"disk","index":3,"upper_bytes":4096}"#,
    );
    stands(
        Root::Disk { index: 0, upper_bytes: None, upper_disk: Some(1) },
        r#"{"from":"disk","index":0,"upper_disk":1}"#,
    );
}

#[test]
fn what_an_older_peer_leaves_out_has_a_meaning_and_what_a_newer_one_adds_is_skipped() {
    reads(
        r#"{"stdio":{"kind":"pipes","stdin":true,"stdout":true,"stderr":false},"args":["sh"],"cwd":"/","hat":{"size":1}}"#,
        process(),
    );
    reads(
        r#"{"id":7,"request":{"do":"signal","process":{"container":"web","pod":"p"},"signal":9}}"#,
        call(Request::Signal { process: first(), signal: 9, all: false }),
    );
}

#[test]
fn words_that_mean_nothing_here_are_refused() {
    for json in [
        r#"{"id":7,"request":{"do":"fly"}}"#,
        r#"{"id":-1,"request":{"do":"power_off"}}"#,
        r#"{"id":7}"#,
        r#"{"id":7,"request":{"do":"power_off"}} {}"#,
    ] {
        assert!(frame::decode::<Call>(json.as_bytes()).is_err(), "{json}");
    }
}

#[test]
fn a_volume_that_is_filled_stands() {
    let mount = Mount {
        destination: "/data".into(),
        share: Some("volume0".into()),
        copies_up: true,
        ..Mount::default()
    };
    let json = r#"{"destination":"/data","share":"volume0","options":[],"copies_up":true}"#;
    stands(mount, json);
}

#[test]
fn what_a_bundle_can_ask_for_stands() {
    let spec = Container {
        root: Root::Share { name: "root".into() },
        mounts: vec![Mount {
            destination: "/data".into(),
            kind: Some("bind".into()),
            share: Some("1".into()),
            ..Mount::default()
        }],
        domainname: Some("example".into()),
        namespaces: vec![Namespace::Pid, Namespace::User, Namespace::Time],
        uid_mappings: vec![IdMapping { container_id: 0, host_id: 1000, size: 10 }],
        gid_mappings: vec![IdMapping { container_id: 0, host_id: 2000, size: 10 }],
        time_offsets: vec![("boottime".into(), -5, 7)],
        devices: vec![Device {
            path: "/dev/fuse".into(),
            kind: "c".into(),
            major: 10,
            minor: 229,
            file_mode: Some(0o600),
            uid: 1,
            gid: 2,
        }],
        device_program: vec![0xb7, 0x95],
        cgroup: vec![("pids.max".into(), "10".into())],
        root_propagation: Some("rslave".into()),
        start_hooks: vec![Hook {
            path: "/hook".into(),
            args: vec!["hook".into()],
            env: Some(vec![]),
            timeout: Some(1),
            state: "{}".into(),
        }],
        process: Process {
            seccomp: Some(Seccomp { flags: 2, program: vec![6] }),
            scheduler: Some(Scheduler { policy: 1, priority: 5, ..Scheduler::default() }),
            io_priority: Some(0x4003),
            personality: Some(8),
            preserved: vec![
                Preserved::Input,
                Preserved::Output,
                Preserved::Socket,
                Preserved::Null,
            ],
            ..process()
        },
        ..Container::default()
    };
    let json = [
        r#"{"root":{"from":"share","name":"root"},"readonly":false,"#,
        r#""mounts":[{"destination":"/data","type":"bind","share":"1","options":[]}],"#,
        r#""maskedPaths":[],"readonlyPaths":[],"sysctl":[],"domainname":"example","#,
        r#""namespaces":["pid","user","time"],"#,
        r#""uidMappings":[{"containerID":0,"hostID":1000,"size":10}],"#,
        r#""gidMappings":[{"containerID":0,"hostID":2000,"size":10}],"#,
        r#""timeOffsets":[["boottime",-5,7]],"#,
        r#""devices":[{"path":"/dev/fuse","type":"c","major":10,"minor":229,"fileMode":384,"uid":1,"gid":2}],"#,
        r#""deviceProgram":[183,149],"cgroup":[["pids.max","10"]],"rootPropagation":"rslave","#,
        r#""startHooks":[{"path":"/hook","args":["hook"],"env":[],"timeout":1,"state":"{}"}],"#,
        r#""process":"#,
        PROCESS.strip_suffix('}').unwrap(),
        r#","seccomp":{"flags":2,"program":[6]},"#,
        r#""scheduler":{"policy":1,"flags":0,"nice":0,"priority":5,"runtime":0,"deadline":0,"period":0},"#,
        r#""ioPriority":16387,"personality":8,"preserved":["input","output","socket","null"]}}"#,
    ];
    stands(spec, &json.concat());
}

#[test]
fn what_is_asked_of_a_running_container_stands() {
    let container = || "web".to_owned();
    stands(
        call(Request::Processes { container: container() }),
        r#"{"id":7,"request":{"do":"processes","container":"web"}}"#,
    );
    stands(
        call(Request::ReadCgroup { container: container(), files: vec!["pids.max".into()] }),
        r#"{"id":7,"request":{"do":"read_cgroup","container":"web","files":["pids.max"]}}"#,
    );
    stands(
        call(Request::ReadProc { container: container(), files: vec!["1/stat".into()] }),
        r#"{"id":7,"request":{"do":"read_proc","container":"web","files":["1/stat"]}}"#,
    );
    let values = vec![("pids.max".to_owned(), "5".to_owned())];
    stands(
        call(Request::WriteCgroup { container: container(), values: values.clone() }),
        r#"{"id":7,"request":{"do":"write_cgroup","container":"web","values":[["pids.max","5"]]}}"#,
    );
    stands(
        Answer { id: 7, result: Ok(Reply::Files { files: values }) },
        r#"{"id":7,"result":{"Ok":{"got":"files","files":[["pids.max","5"]]}}}"#,
    );
    let process = ProcessInfo {
        pid: 70,
        ppid: 1,
        uid: 0,
        cpu_ms: 10,
        age_ms: 2000,
        tty: 0,
        command: "sleep 9".into(),
    };
    stands(
        Answer { id: 7, result: Ok(Reply::Processes { processes: vec![process] }) },
        r#"{"id":7,"result":{"Ok":{"got":"processes","processes":[{"pid":70,"ppid":1,"uid":0,"cpu_ms":10,"age_ms":2000,"tty":0,"command":"sleep 9"}]}}}"#,
    );
}
