//! Hooks that run in a container between `start` and its program.

mod guest;

use guest::{NO_STREAMS, Running, container, containers_work_here, create, first, start, wait};
use proto::message::{ExitStatus, FaultKind, Reply};
use proto::spec::Hook;

fn hook(script: &str) -> Hook {
    Hook {
        path: "/bin/sh".into(),
        args: ["sh", "-c", script].map(String::from).into(),
        env: Some(vec!["ONLY=this".into()]),
        timeout: None,
        state: format!("{{\"id\":\"{}\"}}", "c".repeat(200_000)),
    }
}

#[test]
fn hooks_run_in_order_in_the_container_with_its_state_and_their_own_environment() {
    if !containers_work_here("start hooks") {
        return;
    }
    let mut agent = Running::start();
    let mut spec = container(&agent.root("c"), &["cat", "/tmp/log"]);
    spec.start_hooks = vec![
        // More than a pipe holds, and not read at all by the second.
        hook("/bin/wc -c > /tmp/log; /bin/hostname >> /tmp/log; echo $ONLY $HOME >> /tmp/log"),
        hook("echo second >> /tmp/log; echo said; /bin/sleep 1000 & exit 0"),
        // One that says nothing of its environment has the process's.
        Hook { env: None, ..hook("echo $ONLY $HOME >> /tmp/log") },
    ];
    spec.process.env.push("HOME=/root".into());
    let streams = [proto::stream::Stream::Stdout, proto::stream::Stream::Stderr];
    let [out, err] = streams.map(|stream| agent.attach(&first("c"), stream));
    agent.host.call(create("c", spec)).unwrap();
    let root = agent.root_of("c");
    assert!(!root.join("tmp/log").exists(), "a hook ran before it was asked to start");
    assert_eq!(agent.host.call(start("c")), Ok(Reply::Done));
    assert_eq!(guest::text(out), "200009\nbox\nthis\nsecond\n/root\n", "{}", guest::text(err));
    assert_eq!(agent.host.wait(&first("c")), ExitStatus::Code(0));
}

#[test]
fn a_hook_that_fails_fails_the_start_in_its_own_words_and_leaves_nothing() {
    if !containers_work_here("failing hooks") {
        return;
    }
    let mut agent = Running::start();
    let mut spec = container(&agent.root("c"), &["touch", "/tmp/ran"]);
    spec.process.stdio = NO_STREAMS;
    let name = "hooks.startContainer /bin/sh";
    let slow = Hook { timeout: Some(1), ..hook("echo wait; /bin/sleep 1000") };
    let absent = Hook { path: "/no/hook".into(), ..hook("") };
    let cases = [
        (hook("echo no luck >&2; exit 3"), format!("{name}: exit status 3: no luck")),
        (hook("kill -9 $$"), format!("{name}: killed by signal 9")),
        (slow, format!("{name}: took longer than 1 s: wait")),
        (
            absent,
            "hooks.startContainer /no/hook: exit status 127: no such file or directory".to_owned(),
        ),
    ];
    for (failing, message) in cases {
        spec.start_hooks = vec![failing];
        agent.host.call(create("c", spec.clone())).unwrap();
        let fault = agent.host.call(start("c")).unwrap_err();
        assert_eq!((fault.kind, fault.message), (FaultKind::System, message));
        let gone = agent.host.call(wait(&first("c"))).unwrap_err();
        assert_eq!(gone.kind, FaultKind::NoSuchProcess);
    }
    assert!(!agent.root_of("c").join("tmp/ran").exists());
}
