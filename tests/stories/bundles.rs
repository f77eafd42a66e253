//! Those who call us as they call runc.

use std::fs;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::mount::MountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use tests::{Bundle, House, Tmpfs};

crate::stories![
    a_bundle_runs_on_its_own_directory_and_its_code_is_ours,
    a_container_is_created_started_and_deleted,
    a_container_that_was_never_started_is_killed_and_deleted,
    signals_reach_the_first_process_by_name_and_number,
    more_processes_join_a_container,
    a_paused_container_does_nothing_until_it_is_resumed,
    a_container_sees_its_limits_and_can_be_given_others,
    hooks_run_at_their_moments_and_hear_the_state,
    a_hook_that_fails_ends_the_creation_and_leaves_nothing,
    a_terminal_s_master_goes_to_the_console_socket,
    a_single_file_is_mounted_without_its_siblings,
    what_the_host_has_mounted_below_a_bind_is_a_mount_of_its_own,
    what_cannot_be_done_is_refused_by_name,
    whoever_is_killed_the_state_is_true_and_can_be_cleared,
    fifty_processes_start_at_once,
];

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn a_bundle_runs_on_its_own_directory_and_its_code_is_ours() {
    let house = House::new();
    let script = "uname -r; echo inside > /made; cat /given; exit 7";
    let bundle = Bundle::new(&["sh", "-c", script]);
    fs::write(bundle.root().join("given"), "from the host\n").unwrap();
    let outcome = house.call(["run", "--bundle", path(bundle.path()), "box"]).expect_code(7);
    assert!(outcome.text().contains("-microvm\nfrom the host\n"), "{}", outcome.text());
    assert_eq!(fs::read_to_string(bundle.root().join("made")).unwrap(), "inside\n");
    let missing = Bundle::new(&["no-such-program"]);
    let outcome = house.call(["run", "-b", path(missing.path()), "box"]).expect_code(1);
    assert!(outcome.stderr.contains("executable file not found in $PATH"), "{}", outcome.stderr);
    drop((bundle, missing));
    house.expect_nothing_left();
}

fn a_container_is_created_started_and_deleted() {
    let house = House::new();
    let bundle = Bundle::new(&["sh", "-c", "echo here > /came; while :; do sleep 1; done"]);
    let pid_file = bundle.path().join("pid");
    let created = ["create", "-b", path(bundle.path()), "--pid-file", path(&pid_file), "box"];
    house.quietly(&created).expect_code(0);
    assert_eq!(house.status("box"), "created");
    assert!(!bundle.root().join("came").exists());
    let pid = fs::read_to_string(&pid_file).unwrap();
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(cgroup, "0::/box\n");
    let again = house.quietly(&created).expect_code(1);
    assert!(again.stderr.contains("exists already"), "{}", again.stderr);

    house.call(["start", "box"]).expect_code(0);
    assert_eq!(bundle.wait_for("came"), "here\n");
    assert_eq!(house.status("box"), "running");
    house.call(["start", "box"]).expect_code(1);
    let list = house.call(["list", "--format", "json"]).expect_code(0);
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(list[0]["id"], "box");
    assert_eq!(list[0]["pid"].to_string(), pid);
    let alive = house.call(["delete", "box"]).expect_code(1);
    assert!(alive.stderr.contains("that is not stopped: running"), "{}", alive.stderr);

    house.call(["delete", "--force", "box"]).expect_code(0);
    let gone = house.call(["state", "box"]).expect_code(1);
    assert!(gone.stderr.contains("container \"box\" does not exist"), "{}", gone.stderr);
    house.call(["delete", "box"]).expect_code(1);
    house.call(["delete", "--force", "box"]).expect_code(0);
    assert!(!Path::new("/sys/fs/cgroup/box").exists());
    drop(bundle);
    house.expect_nothing_left();
}

fn a_container_that_was_never_started_is_killed_and_deleted() {
    let house = House::new();
    let bundle = Bundle::new(&["touch", "/came"]);
    house.create(&bundle, "one");
    house.call(["delete", "one"]).expect_code(0);
    house.create(&bundle, "two");
    // Engines ask and delete at once.
    house.call(["kill", "two", "KILL"]).expect_code(0);
    assert_eq!(house.status("two"), "stopped");
    house.call(["start", "two"]).expect_code(1);
    house.call(["delete", "two"]).expect_code(0);
    assert!(!bundle.root().join("came").exists());
    drop(bundle);
    house.expect_nothing_left();
}

fn signals_reach_the_first_process_by_name_and_number() {
    let house = House::new();
    let script = "trap 'echo one >> /heard' USR1; trap 'echo term >> /heard; exit 3' TERM; \
                  echo ready > /ready; while :; do sleep 0.1; done";
    let bundle = Bundle::new(&["sh", "-c", script]);
    house.create(&bundle, "box");
    house.call(["start", "box"]).expect_code(0);
    bundle.wait_for("ready");
    house.call(["kill", "box", "SIGUSR1"]).expect_code(0);
    assert_eq!(bundle.wait_for("heard"), "one\n");
    house.call(["kill", "box", "10"]).expect_code(0);
    house.call(["kill", "box"]).expect_code(0);
    house.call(["wait", "box"]).expect_code(0);
    assert!(fs::read_to_string(bundle.root().join("heard")).unwrap().ends_with("term\n"));
    let stopped = house.call(["kill", "box", "KILL"]).expect_code(1);
    assert!(stopped.stderr.contains("container not running"), "{}", stopped.stderr);
    house.call(["delete", "box"]).expect_code(0);
}

fn more_processes_join_a_container() {
    let house = House::new();
    let bundle = Bundle::new(&["sleep", "1000"]);
    house.create(&bundle, "box");
    house.call(["start", "box"]).expect_code(0);
    let exec = |args: &[&str]| house.call([&["exec"], args].concat());
    let said = exec(&[
        "--cwd",
        "/tmp",
        "--env",
        "A=b",
        "--user",
        "5:6",
        "box",
        "sh",
        "-c",
        "pwd; echo $A; id -u; id -g",
    ]);
    assert_eq!(said.expect_code(0).text(), "/tmp\nb\n5\n6\n");
    exec(&["box", "sh", "-c", "exit 9"]).expect_code(9);
    exec(&["box", "no-such-program"]).expect_code(255);
    let process = bundle.path().join("process.json");
    let spec = json!({
        "args": ["sh", "-c", "echo $B"], "env": ["B=from a file", "PATH=/bin"], "cwd": "/",
        "user": { "uid": 0, "gid": 0 },
    });
    fs::write(&process, spec.to_string()).unwrap();
    assert_eq!(exec(&["--process", path(&process), "box"]).expect_code(0).text(), "from a file\n");
    let pid_file = bundle.path().join("exec-pid");
    let detached = ["exec", "--detach", "--pid-file", path(&pid_file), "box", "touch", "/detached"];
    house.quietly(&detached).expect_code(0);
    assert!(fs::read_to_string(&pid_file).unwrap().parse::<u32>().unwrap() > 1);
    let pids = house.call(["ps", "--format", "json", "box"]).expect_code(0);
    let pids: Vec<u32> = serde_json::from_slice(&pids.stdout).unwrap();
    assert!(!pids.is_empty());
    assert!(house.call(["ps", "box"]).expect_code(0).text().contains("sleep 1000"));
    let threads = house.call(["ps", "--threads", "box"]).expect_code(0).text();
    for word in ["supervise-bundle", "vmm", "vcpu0", "files"] {
        assert!(threads.contains(word), "no {word}: {threads}");
    }
    house.call(["delete", "--force", "box"]).expect_code(0);
    drop(bundle);
    house.expect_nothing_left();
}

fn a_paused_container_does_nothing_until_it_is_resumed() {
    let house = House::new();
    let script = "i=0; while :; do i=$((i+1)); echo $i > /count; done";
    let bundle = Bundle::new(&["sh", "-c", script]);
    house.create(&bundle, "box");
    house.call(["resume", "box"]).expect_code(1);
    house.call(["start", "box"]).expect_code(0);
    let count = bundle.root().join("count");
    bundle.wait_for("count");
    house.call(["pause", "box"]).expect_code(0);
    assert_eq!(house.status("box"), "paused");
    let read = || fs::read(&count).unwrap();
    let before = read();
    // Time in which the guest would count on: another VM's whole life.
    house.script("true").expect_code(0);
    assert_eq!(read(), before);
    house.call(["pause", "box"]).expect_code(1);
    house.call(["resume", "box"]).expect_code(0);
    assert_eq!(house.status("box"), "running");
    while read() == before || read().is_empty() {
        std::thread::yield_now();
    }
    house.call(["pause", "box"]).expect_code(0);
    house.call(["kill", "box", "KILL"]).expect_code(0);
    house.call(["wait", "box"]).expect_code(0);
    house.call(["delete", "box"]).expect_code(0);
    drop(bundle);
    house.expect_nothing_left();
}

fn a_container_sees_its_limits_and_can_be_given_others() {
    let house = House::new();
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.edit(|spec| {
        spec["linux"]["resources"] = json!({
            "memory": { "limit": 64 << 20 }, "pids": { "limit": 30 },
            "cpu": { "quota": 50_000, "period": 100_000 },
        });
    });
    house.create(&bundle, "box");
    house.call(["start", "box"]).expect_code(0);
    let inside = |file: &str| {
        let file = format!("/sys/fs/cgroup/{file}");
        house.call(["exec", "box", "cat", &file]).expect_code(0).text().trim().to_owned()
    };
    let outside = |file: &str| {
        fs::read_to_string(format!("/sys/fs/cgroup/box/{file}")).unwrap().trim().to_owned()
    };
    assert_eq!((inside("memory.max"), inside("pids.max")), ("67108864".into(), "30".into()));
    assert_eq!(
        (inside("cpu.max"), outside("cpu.max")),
        ("50000 100000".into(), "50000 100000".into())
    );
    let vm: u64 = outside("memory.max").parse().unwrap();
    assert!((160 << 20..512 << 20).contains(&vm), "{vm}");
    let stats = house.call(["events", "--stats", "box"]).expect_code(0);
    let stats: Value = serde_json::from_slice(&stats.stdout).unwrap();
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 64 << 20);
    assert!(stats["data"]["pids"]["current"].as_u64().unwrap() >= 1);

    house.call(["update", "--memory", "33554432", "--pids-limit", "40", "box"]).expect_code(0);
    assert_eq!((inside("memory.max"), inside("pids.max")), ("33554432".into(), "40".into()));
    let too_much = house.call(["update", "--memory", "8589934592", "box"]).expect_code(1);
    assert!(too_much.stderr.contains("memory: the VM of container box has"), "{}", too_much.stderr);
    house.call(["delete", "--force", "box"]).expect_code(0);
    drop(bundle);
    house.expect_nothing_left();
}

/// A hook that appends its name and the status it hears of to `log`.
fn hook(bundle: &Bundle, name: &str) -> Value {
    let file = bundle.path().join(name);
    let log = bundle.path().join("log");
    let line = "sed -n 's/.*\"status\": *\"\\([a-z]*\\)\".*/\\1/p'";
    let text =
        format!("#!/bin/sh\necho {name} $(tr ',' '\\n' | {line}) $WORD >> {}\n", log.display());
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    json!([{ "path": file, "env": ["PATH=/usr/bin:/bin", "WORD=said"] }])
}

fn hooks_run_at_their_moments_and_hear_the_state() {
    let house = House::new();
    let bundle = Bundle::new(&["true"]);
    let outside = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    let mut hooks: serde_json::Map<String, Value> =
        outside.into_iter().map(|name| (name.to_owned(), hook(&bundle, name))).collect();
    let inside = "cat > /state; echo started > /hooked";
    hooks.insert(
        "startContainer".into(),
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", inside], "env": ["PATH=/bin"] }]),
    );
    bundle.edit(|spec| spec["hooks"] = hooks.into());
    let log = bundle.path().join("log");
    house.create(&bundle, "box");
    let created =
        "prestart creating said\ncreateRuntime creating said\ncreateContainer creating said\n";
    assert_eq!(fs::read_to_string(&log).unwrap(), created);
    assert!(!bundle.root().join("hooked").exists());
    house.call(["start", "box"]).expect_code(0);
    assert_eq!(fs::read_to_string(bundle.root().join("hooked")).unwrap(), "started\n");
    let state = fs::read_to_string(bundle.root().join("state")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["id"], "box");
    house.call(["wait", "box"]).expect_code(0);
    house.call(["delete", "box"]).expect_code(0);
    let all = fs::read_to_string(&log).unwrap();
    assert!(all.contains("poststart ") && all.ends_with("poststop stopped said\n"), "{all}");
    drop(bundle);
    house.expect_nothing_left();
}

fn a_hook_that_fails_ends_the_creation_and_leaves_nothing() {
    let house = House::new();
    let bundle = Bundle::new(&["true"]);
    let words = "echo no room >&2; exit 4";
    for moment in ["createRuntime", "createContainer"] {
        let hook = json!({ moment: [{ "path": "/bin/sh", "args": ["sh", "-c", words] }] });
        bundle.edit(|spec| spec["hooks"] = hook);
        let refused = house.quietly(&["create", "-b", path(bundle.path()), "box"]).expect_code(1);
        assert!(
            refused.stderr.contains("hook /bin/sh: exit status: 4: no room"),
            "{}",
            refused.stderr
        );
    }
    let slow = json!({ "createRuntime": [{ "path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1 }] });
    bundle.edit(|spec| spec["hooks"] = slow);
    let refused = house.quietly(&["create", "-b", path(bundle.path()), "box"]).expect_code(1);
    assert!(refused.stderr.contains("took longer than 1 seconds"), "{}", refused.stderr);
    assert!(!Path::new("/sys/fs/cgroup/box").exists());
    drop(bundle);
    house.expect_nothing_left();
}

fn a_terminal_s_master_goes_to_the_console_socket() {
    let house = House::new();
    let bundle = Bundle::new(&["sh"]);
    bundle.edit(|spec| {
        spec["process"]["terminal"] = true.into();
        spec["process"]["consoleSize"] = json!({ "height": 31, "width": 91 });
    });
    let without = house.quietly(&["create", "-b", path(bundle.path()), "box"]).expect_code(1);
    assert!(without.stderr.contains("--console-socket"), "{}", without.stderr);
    let socket = bundle.path().join("console");
    let listener = UnixListener::bind(&socket).unwrap();
    let create = ["create", "-b", path(bundle.path()), "--console-socket", path(&socket), "box"];
    let receiver = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 256];
        recvmsg(&stream, &mut [IoSliceMut::new(&mut name)], &mut ancillary, RecvFlags::empty())
            .unwrap();
        let master = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        fs::File::from(master.expect("a descriptor"))
    });
    house.quietly(&create).expect_code(0);
    let mut master = receiver.join().unwrap();
    house.call(["start", "box"]).expect_code(0);
    master.write_all(b"stty size; test -t 0 && echo ter''minal; exit 5\n").unwrap();
    let (mut shown, mut piece) = (String::new(), [0; 4096]);
    // At the end the other side is closed, which a terminal's master reads as an error.
    while let Ok(count @ 1..) = master.read(&mut piece) {
        shown.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    assert!(shown.contains("31 91\r\n") && shown.contains("terminal\r\n"), "{shown}");
    house.call(["wait", "box"]).expect_code(0);
    house.call(["delete", "box"]).expect_code(0);
    drop(bundle);
    house.expect_nothing_left();
}

fn a_single_file_is_mounted_without_its_siblings() {
    let house = House::new();
    let script = "cat /etc/one; ls /run/shares /etc; echo in > /data/in; cat /data/out; \
                  echo x > /fixed/no; echo code $?";
    let bundle = Bundle::new(&["sh", "-c", script]);
    let host = tempfile::Builder::new().prefix("volume-").tempdir().unwrap();
    fs::write(host.path().join("one"), "the one\n").unwrap();
    fs::write(host.path().join("secret"), "the other\n").unwrap();
    fs::create_dir(host.path().join("data")).unwrap();
    fs::write(host.path().join("data/out"), "out\n").unwrap();
    bundle.bind(&host.path().join("one"), "/etc/one", &["bind"]);
    bundle.bind(&host.path().join("data"), "/data", &["rbind"]);
    bundle.bind(&host.path().join("data"), "/fixed", &["bind", "ro"]);
    let said = house.call(["run", "-b", path(bundle.path()), "box"]).expect_code(0);
    assert!(said.text().starts_with("the one\n"), "{}", said.text());
    assert!(!said.text().contains("secret"), "{}", said.text());
    assert!(said.text().ends_with("out\ncode 1\n"), "{}{}", said.text(), said.stderr);
    assert_eq!(fs::read_to_string(host.path().join("data/in")).unwrap(), "in\n");
    drop((bundle, host));
    house.expect_nothing_left();
}

fn what_the_host_has_mounted_below_a_bind_is_a_mount_of_its_own() {
    let house = House::new();
    let script = "for at in top sealed; do for name in in below/in 'below/a room/in'; do \
                  (echo x > \"/$at/$name\") 2>/dev/null; echo \"$at/$name $?\"; done; done; \
                  ls -A /alone/below; grep -c /sealed/ /proc/self/mountinfo; \
                  cat /bin/busybox > /top/below/busybox; \
                  chmod +x /top/below/busybox; /top/below/busybox true 2>/dev/null; echo $?";
    let bundle = Bundle::new(&["sh", "-c", script]);
    let host = tempfile::Builder::new().prefix("volume-").tempdir().unwrap();
    let below = Tmpfs::mount(&host.path().join("below"), MountFlags::NOEXEC, c"size=8m");
    let room = Tmpfs::mount(&below.path().join("a room"), MountFlags::empty(), c"size=1m");
    bundle.bind(host.path(), "/top", &["rbind", "ro"]);
    bundle.bind(host.path(), "/sealed", &["rbind", "rro"]);
    bundle.bind(host.path(), "/alone", &["bind"]);
    let said = house.call(["run", "-b", path(bundle.path()), "box"]).expect_code(0);
    let expected = "top/in 1\ntop/below/in 0\ntop/below/a room/in 0\n\
                    sealed/in 1\nsealed/below/in 1\nsealed/below/a room/in 1\n2\n126\n";
    assert_eq!(said.text(), expected, "{}", said.stderr);
    assert_eq!(fs::read_to_string(room.path().join("in")).unwrap(), "x\n");
    drop((bundle, room, below, host));
    house.expect_nothing_left();
}

fn what_cannot_be_done_is_refused_by_name() {
    let house = House::new();
    let bundle = Bundle::new(&["true"]);
    let directory = path(bundle.path()).to_owned();
    let refused = |options: &[&str], thing: &str| {
        let words = [&["create", "-b", &directory], options, &["box"]].concat();
        let outcome = house.quietly(&words).expect_code(1);
        assert!(outcome.stderr.contains(thing), "{thing:?} is not named: {}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    };
    let both = json!([{ "type": "uts" }, { "type": "network" }]);
    refused(&["--preserve-fds", "1"], "--preserve-fds or LISTEN_FDS: descriptor 3 is not open");
    for (field, value, thing) in [
        (
            "mounts",
            json!([{ "destination": "/x", "type": "bind", "source": "/no/such" }]),
            "mounts[0].source: /no/such",
        ),
        ("root", json!({ "path": "gone" }), "root.path"),
        ("linux", json!({ "namespaces": [] }), "linux.namespaces has no network namespace"),
        ("linux", json!({ "namespaces": both, "cgroupsPath": "a:b:c" }), "linux.cgroupsPath a:b:c"),
        ("linux", json!({ "namespaces": both, "intelRdt": {} }), "linux.intelRdt"),
        (
            "linux",
            json!({ "namespaces": [{ "type": "uts" }, { "type": "network", "path": "/proc/self/ns/mnt" }] }),
            "linux.namespaces[network].path",
        ),
    ] {
        let mut before = Value::Null;
        bundle.edit(|spec| before = std::mem::replace(&mut spec[field], value));
        refused(&[], thing);
        bundle.edit(|spec| spec[field] = before);
    }
    bundle.edit(|spec| spec["process"]["apparmorProfile"] = "nobodys".into());
    refused(&[], "process.apparmorProfile nobodys");
    bundle.edit(|spec| spec["process"]["apparmorProfile"] = Value::Null);
    let words = ["--systemd-cgroup", "create", "-b", &directory, "box"];
    let without = house.quietly(&words).expect_code(1);
    assert!(without.stderr.contains("systemd, unit microvm-box.scope: "), "{}", without.stderr);
    house.call(["checkpoint", "box"]).expect_code(1);
    let log = bundle.path().join("log");
    let words = ["--log", path(&log), "--log-format", "json", "state", "nobody"];
    house.call(words).expect_code(1);
    let line: Value = serde_json::from_str(&fs::read_to_string(&log).unwrap()).unwrap();
    assert_eq!(
        (&line["level"], &line["msg"]),
        (&json!("error"), &json!("container \"nobody\" does not exist"))
    );
    drop(bundle);
    house.expect_nothing_left();
}

fn whoever_is_killed_the_state_is_true_and_can_be_cleared() {
    let house = House::new();
    let bundle = Bundle::new(&["sleep", "1000"]);
    for victim in ["supervise-bundle", "microvm vmm", "microvm files"] {
        house.create(&bundle, "box");
        house.call(["start", "box"]).expect_code(0);
        kill_process(house.process(victim), Signal::KILL).unwrap();
        if victim == "microvm files" {
            // Its files are gone, it is not: whoever wants it gone deletes it.
            house.call(["delete", "--force", "box"]).expect_code(0);
            continue;
        }
        house.call(["wait", "box"]);
        assert_eq!(house.status("box"), "stopped", "after {victim}");
        house.call(["delete", "--force", "box"]).expect_code(0);
    }
    house.create(&bundle, "box");
    fs::write(house.state().join("box/state.json"), "{\"version\": 99}").unwrap();
    let corrupt = house.call(["state", "box"]).expect_code(1);
    assert!(corrupt.stderr.contains("box/state.json: version 99"), "{}", corrupt.stderr);
    house.call(["delete", "--force", "box"]).expect_code(0);
    house.call(["state", "box"]).expect_code(1);
    drop(bundle);
    house.expect_nothing_left();
}

fn fifty_processes_start_at_once() {
    let house = House::new();
    let bundle = Bundle::new(&["sleep", "1000"]);
    house.create(&bundle, "box");
    house.call(["start", "box"]).expect_code(0);
    let all: Vec<_> = (0..50)
        .map(|number| {
            house.start(["exec", "box", "sh", "-c", &format!("echo {number}; exit {number}")])
        })
        .collect();
    for (number, running) in all.into_iter().enumerate() {
        let outcome = running.finish().expect_code(number as i32);
        assert_eq!(outcome.text(), format!("{number}\n"));
    }
    house.call(["delete", "--force", "box"]).expect_code(0);
    drop(bundle);
    house.expect_nothing_left();
}
