//! What a container and its processes are held to: filters, limits, devices, order of service.

mod guest;

use guest::{NO_STREAMS, Running, container, containers_work_here, create, exec, process, start};
use proto::message::{ExitStatus, Fault, FaultKind, Request};
use proto::spec::{Container, Device, Scheduler, Seccomp};

/// Refuses mkdir(2) (83) with EXDEV and lets everything else pass: `ld nr; jeq; ret; ret`.
fn no_mkdir(agent: &Running) -> (Container, Seccomp) {
    let instruction = |code: u64, jt: u64, jf: u64, k: u64| code | jt << 16 | jf << 24 | k << 32;
    let program = vec![
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 0, 1, 83),
        instruction(0x06, 0, 0, 0x0005_0000 | libc::EXDEV as u64),
        instruction(0x06, 0, 0, 0x7fff_0000),
    ];
    let script = "grep -E '^(Seccomp|CapEff|CapPrm)' /proc/self/status; mkdir /x";
    let spec = container(&agent.root("c"), &["sh", "-c", script]);
    (spec, Seccomp { flags: 0, program })
}

#[test]
fn a_seccomp_filter_is_in_force_with_and_without_new_privileges_and_in_an_exec() {
    if !containers_work_here("seccomp") {
        return;
    }
    let mut agent = Running::start();
    let (mut spec, seccomp) = no_mkdir(&agent);
    for no_new_privileges in [true, false] {
        for uid in [0, 1000] {
            spec.process.user.who = proto::spec::Who::Ids { uid, gid: 0 };
            spec.process.no_new_privileges = no_new_privileges;
            spec.process.seccomp = Some(seccomp.clone());
            let (_, out, err) = agent.run("c", spec.clone());
            let caps = if uid == 0 { "00000000000000e3" } else { "0000000000000000" };
            let expected =
                format!("CapPrm:\t{caps}\nCapEff:\t{caps}\nSeccomp:\t2\nSeccomp_filters:\t1\n");
            assert_eq!(out, expected, "{no_new_privileges} {uid}");
            assert_eq!(err, "mkdir: can't create directory '/x': Invalid cross-device link\n");
        }
    }
    spec.process.args = vec!["sleep".into(), "1000".into()];
    spec.process.seccomp = None;
    spec.process.stdio = NO_STREAMS;
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    let mut added = process(&["sh", "-c", "mkdir /x || exit 7"]);
    (added.stdio, added.seccomp) = (NO_STREAMS, Some(seccomp));
    let id = exec("c", "x");
    agent.host.call(Request::Exec { process: id.clone(), spec: Box::new(added) }).unwrap();
    assert_eq!(agent.host.wait(&id), ExitStatus::Code(7));
}

#[test]
fn a_filter_that_is_no_program_fails_the_start_and_leaves_nothing() {
    if !containers_work_here("a wrong filter") {
        return;
    }
    let mut agent = Running::start();
    let (mut spec, _) = no_mkdir(&agent);
    spec.process.seccomp = Some(Seccomp { flags: 0, program: vec![0xffff] });
    spec.process.stdio = NO_STREAMS;
    agent.host.call(create("c", spec)).unwrap();
    let fault = agent.host.call(start("c")).unwrap_err();
    assert_eq!(fault.message, "linux.seccomp: invalid argument");
}

#[test]
fn a_program_about_devices_judges_the_container_and_not_its_making() {
    if !containers_work_here("a device program") {
        return;
    }
    let mut agent = Running::start();
    // r0 = (minor != 5): all but /dev/zero and its like, whatever is done.
    let program = vec![
        0x0000_0000_0008_1261, // r2 = *(u32 *)(r1 + 8)
        0x0000_0001_0000_00b7, // r0 = 1
        0x0000_0005_0001_0255, // if r2 != 5 goto +1
        0x0000_0000_0000_00b7, // r0 = 0
        0x0000_0000_0000_0095, // exit
    ];
    let script = "head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c";
    let mut spec = container(&agent.root("c"), &["sh", "-c", script]);
    spec.device_program = program;
    let (_, out, err) = agent.run("c", spec.clone());
    assert_eq!(out, "0\n3\n");
    assert_eq!(err, "head: /dev/zero: Operation not permitted\n");

    spec.device_program = vec![0x95];
    spec.process.stdio = NO_STREAMS;
    let fault = agent.host.call(create("d", spec)).unwrap_err();
    assert!(fault.message.starts_with("device program: "), "{fault}");
}

#[test]
fn values_for_the_cgroup_are_there_before_the_first_process_is() {
    if !containers_work_here("cgroup values") {
        return;
    }
    let mut agent = Running::start();
    let script = "cat /sys/fs/cgroup/cgroup.max.descendants; mkdir /sys/fs/cgroup/a";
    let mut spec = container(&agent.root("c"), &["sh", "-c", script]);
    spec.mounts.last_mut().unwrap().options.retain(|option| option != "ro");
    spec.cgroup = vec![("cgroup.max.descendants".into(), "0".into())];
    let (_, out, err) = agent.run("c", spec.clone());
    assert_eq!(out, "0\n");
    assert_eq!(
        err,
        "mkdir: can't create directory '/sys/fs/cgroup/a': Resource temporarily unavailable\n"
    );

    let mut refusal = |file: &str, value: &str| -> Fault {
        spec.cgroup = vec![(file.into(), value.into())];
        spec.process.stdio = NO_STREAMS;
        agent.host.call(create("c", spec.clone())).unwrap_err()
    };
    let fault = refusal("cgroup.max.descendants", "few");
    assert_eq!(
        (fault.kind, fault.message.as_str()),
        (
            FaultKind::InvalidSpec,
            "linux.resources: cgroup.max.descendants \"few\": invalid argument"
        )
    );
    assert_eq!(refusal("../x", "1").message, "linux.resources: \"../x\" is no name of a file");
}

#[test]
fn a_process_is_served_in_the_order_it_was_promised_by_the_kernel_it_asked_for() {
    if !containers_work_here("scheduler, io priority, personality") {
        return;
    }
    let mut agent = Running::start();
    let script = "cut -d' ' -f19,40,41 /proc/self/stat; uname -m; ionice";
    let mut spec = container(&agent.root("c"), &["sh", "-c", script]);
    let batch = libc::SCHED_BATCH as u32;
    spec.process.scheduler = Some(Scheduler { policy: batch, nice: 7, ..Scheduler::default() });
    spec.process.io_priority = Some(2 << 13 | 6);
    spec.process.personality = Some(8);
    let (_, out, err) = agent.run("c", spec.clone());
    assert_eq!(out, "7 0 3\ni686\nbest-effort: prio 6\n", "{err}");

    spec.process.scheduler = Some(Scheduler { policy: 99, ..Scheduler::default() });
    spec.process.stdio = NO_STREAMS;
    let fault = agent.host.call(create("d", spec)).unwrap_err();
    assert_eq!(fault.message, "process.scheduler: invalid argument");
}

#[test]
fn listed_devices_are_made_as_they_are_asked_for_beside_those_every_container_has() {
    if !containers_work_here("devices") {
        return;
    }
    let mut agent = Running::start();
    let script = "cd /dev; stat -c '%n %F %t:%T %a %u:%g' null zero full random urandom tty \
        deep/own pipe ptmx; head -c 2 deep/own | wc -c";
    let mut spec = container(&agent.root("c"), &["sh", "-c", script]);
    let device = |path: &str, kind: &str, minor: u32| Device {
        path: path.into(),
        kind: kind.into(),
        major: 1,
        minor,
        file_mode: Some(0o640),
        uid: 3,
        gid: 4,
    };
    spec.devices = vec![
        device("/dev/deep/own", "c", 5),
        device("/dev/pipe", "p", 0),
        device("/dev/null", "u", 3),
    ];
    let (_, out, err) = agent.run("c", spec.clone());
    let usual = "zero 1:5\nfull 1:7\nrandom 1:8\nurandom 1:9\ntty 5:0\n";
    let usual: String = usual
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, number)| format!("{name} character special file {number} 666 0:0\n"))
        .collect();
    assert_eq!(
        out,
        format!(
            "null character special file 1:3 640 3:4\n{usual}deep/own character special file 1:5 \
             640 3:4\npipe fifo 0:0 640 3:4\nptmx symbolic link 0:0 777 0:0\n2\n"
        ),
        "{err}"
    );

    spec.process.stdio = NO_STREAMS;
    let mut refusal = |device: Device| {
        spec.devices = vec![device];
        let fault = agent.host.call(create("c", spec.clone())).unwrap_err();
        (fault.kind, fault.message)
    };
    let invalid = |message: &str| (FaultKind::InvalidSpec, message.to_owned());
    assert_eq!(
        refusal(device("/dev/x", "x", 1)),
        invalid("linux.devices: /dev/x: \"x\" is no type of a device")
    );
    assert_eq!(
        refusal(device("/etc/passwd", "c", 3)),
        invalid("linux.devices: /etc/passwd: something else is there")
    );
}
