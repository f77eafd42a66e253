//! What a container looks like from inside, and the verbs for one that runs.

use std::io::Write;

use tests::{House, Outcome};

crate::stories![
    a_container_sees_only_itself,
    the_options_of_run_are_honoured,
    an_entrypoint_replaces_the_image_s,
    vcpus_and_memory_are_what_was_asked_for,
    nothing_written_outlives_the_container,
    a_read_only_root_cannot_be_written_to,
    dangerous_paths_are_masked,
    exec_joins_the_running_container,
    exec_gives_its_own_code_back_and_leaves_the_container_running,
    a_detached_container_is_listed_logged_and_removed,
    kill_sends_the_signal_it_was_told,
    a_second_container_of_the_same_name_is_refused,
    a_hundred_short_containers_leave_nothing_behind,
    a_container_knows_its_name_and_localhost,
];

fn a_container_sees_only_itself() {
    let house = House::new();
    let text = house.script("echo $$; ps | wc -l; cat /proc/self/cgroup; ls /sys/class/net").text();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("1"), "the first process is number 1: {text}");
    let processes: usize = lines.next().unwrap().trim().parse().unwrap();
    assert!(processes <= 5, "other processes are seen: {text}");
    assert_eq!(lines.next(), Some("0::/"), "its cgroup is the root it sees: {text}");
}

fn the_options_of_run_are_honoured() {
    let house = House::new();
    let options =
        ["-e", "A=1", "-e", "B=two words", "-w", "/etc", "-u", "1000:100", "--hostname", "here"];
    let script = "echo $A,$B; pwd; id -u; id -g; hostname; test -w /etc || echo not mine";
    let mut args = vec!["run", "--rm"];
    args.extend(options);
    args.extend(["demo", "sh", "-c", script]);
    let text = house.call(args).expect_code(0).text();
    assert_eq!(text, "1,two words\n/etc\n1000\n100\nhere\nnot mine\n");
    house.expect_nothing_left();
}

fn an_entrypoint_replaces_the_image_s() {
    let house = House::new();
    let outcome = house.call(["run", "--rm", "--entrypoint", "echo", "demo", "one", "two"]);
    assert_eq!(outcome.expect_code(0).text(), "one two\n");
}

fn vcpus_and_memory_are_what_was_asked_for() {
    let house = House::new();
    let script = "nproc; awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo";
    for (cpus, memory, mebibytes) in [("1", "128m", 128), ("2", "512m", 512), ("4", "1g", 1024)] {
        let args = ["run", "--rm", "--cpus", cpus, "--memory", memory, "demo", "sh", "-c", script];
        let text = house.call(args).expect_code(0).text();
        let (seen, total) = text.trim().split_once('\n').unwrap();
        assert_eq!(seen, cpus);
        let total: u32 = total.parse().unwrap();
        assert!(total <= mebibytes && total >= mebibytes * 3 / 4, "{total} MiB of {mebibytes}");
    }
    house.expect_nothing_left();
}

fn nothing_written_outlives_the_container() {
    let house = House::new();
    house.script("echo mine > /etc/mine; rm /bin/vi; cat /etc/mine").expect_code(0);
    house.script("test ! -e /etc/mine && test -e /bin/vi").expect_code(0);
}

fn a_read_only_root_cannot_be_written_to() {
    let house = House::new();
    let script =
        "touch /x 2>&1; echo x > /dev/null && echo devices work; touch /dev/shm/x && echo shm too";
    let outcome = house.call(["run", "--rm", "--read-only", "demo", "sh", "-c", script]);
    assert_eq!(
        outcome.expect_code(0).text(),
        "touch: /x: Read-only file system\ndevices work\nshm too\n"
    );
}

fn dangerous_paths_are_masked() {
    let house = House::new();
    let script = "cat /proc/kcore /proc/timer_list | wc -c; echo c > /proc/sysrq-trigger; \
                  echo 1 > /proc/sys/kernel/panic; mount -t tmpfs x /mnt; mknod /x b 254 0; echo alive";
    let outcome = house.script(script).expect_code(0);
    assert_eq!(outcome.text(), "0\nalive\n");
    for refused in ["sysrq-trigger", "kernel/panic", "mount", "mknod"] {
        assert!(outcome.stderr.contains(refused), "{refused} was not refused: {}", outcome.stderr);
    }
}

/// A container named `box` in the background that runs until it is ended, and has set its trap: a
/// signal before that would be lost on a process 1.
fn box_in_the_background(house: &House) {
    let script = "trap 'echo ended by USR1; exit 9' USR1; echo started; echo to stderr >&2; \
                  touch /tmp/ready; while :; do sleep 0.1; done";
    house.call(["run", "-d", "--name", "box", "demo", "sh", "-c", script]).expect_code(0);
    let until_ready = "until test -e /tmp/ready; do sleep 0.1; done";
    house.call(["exec", "box", "sh", "-c", until_ready]).expect_code(0);
}

fn exec_joins_the_running_container() {
    let house = House::new();
    box_in_the_background(&house);
    let outcome = house.call(["exec", "box", "sh", "-c", "ps; hostname; cat /proc/self/cgroup"]);
    let text = outcome.expect_code(0).text();
    assert!(text.contains("while :"), "the first process is not seen: {text}");
    house.call(["exec", "box", "sh", "-c", "echo kept > /tmp/kept"]).expect_code(0);
    let options = [
        "exec",
        "-e",
        "X=y",
        "-w",
        "/tmp",
        "-u",
        "1000",
        "box",
        "sh",
        "-c",
        "cat kept; echo $X; id -u",
    ];
    assert_eq!(house.call(options).expect_code(0).text(), "kept\ny\n1000\n");
    let echo = house.start(["exec", "-i", "box", "cat"]);
    assert_eq!(
        echo.finish_with(|stdin| stdin.write_all(b"through exec").unwrap()).text(),
        "through exec"
    );
    house.call(["rm", "-f", "box"]).expect_code(0);
    house.expect_nothing_left();
}

fn exec_gives_its_own_code_back_and_leaves_the_container_running() {
    let house = House::new();
    box_in_the_background(&house);
    house.call(["exec", "box", "sh", "-c", "exit 5"]).expect_code(5);
    house.call(["exec", "box", "sh", "-c", "kill -9 $$"]).expect_code(137);
    house.call(["exec", "box", "no-such-program"]).expect_code(127);
    house.call(["exec", "box", "/etc/passwd"]).expect_code(126);
    house.call(["exec", "box", "true"]).expect_code(0);
    house.call(["rm", "-f", "box"]).expect_code(0);
    house.call(["exec", "box", "true"]).expect_refusal("box");
    house.expect_nothing_left();
}

fn a_detached_container_is_listed_logged_and_removed() {
    let house = House::new();
    let id = house.call([
        "run",
        "-d",
        "--name",
        "box",
        "demo",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 4",
    ]);
    assert_eq!(id.expect_code(0).text().lines().count(), 1);
    let wait = house.call(["wait", "box"]);
    assert_eq!(wait.expect_code(0).text(), "4\n");
    assert_eq!(house.call(["ps", "-q"]).expect_code(0).text(), "", "it has ended");
    let all = house.call(["ps", "-a"]).expect_code(0).text();
    assert!(all.contains("box") && all.contains("demo") && all.contains('4'), "{all}");
    let logs = house.call(["logs", "box"]).expect_code(0);
    assert_eq!((logs.text().as_str(), logs.stderr.as_str()), ("out\n", "err\n"));
    house.call(["rm", "box"]).expect_code(0);
    house.call(["logs", "box"]).expect_refusal("box");
    house.expect_nothing_left();
}

fn kill_sends_the_signal_it_was_told() {
    let house = House::new();
    box_in_the_background(&house);
    house.call(["kill", "-s", "USR1", "box"]).expect_code(0);
    assert_eq!(house.call(["wait", "box"]).expect_code(0).text(), "9\n");
    let logs = house.call(["logs", "box"]).text();
    assert_eq!(logs, "started\nended by USR1\n");
    house.call(["kill", "box"]).expect_refusal("box");
    house.call(["rm", "box"]).expect_code(0);
    house.expect_nothing_left();
}

fn a_second_container_of_the_same_name_is_refused() {
    let house = House::new();
    box_in_the_background(&house);
    house.call(["run", "--name", "box", "demo", "true"]).expect_refusal("box");
    let still: Outcome = house.call(["exec", "box", "echo", "still here"]);
    assert_eq!(still.expect_code(0).text(), "still here\n");
    house.call(["rm", "-f", "box"]).expect_code(0);
    house.expect_nothing_left();
}

fn a_hundred_short_containers_leave_nothing_behind() {
    let house = House::new();
    for round in 0..100 {
        let outcome = house.script(&format!("echo {round}")).expect_code(0);
        assert_eq!(outcome.text(), format!("{round}\n"));
    }
    house.expect_nothing_left();
}

fn a_container_knows_its_name_and_localhost() {
    let house = House::new();
    let script = "cat /etc/hostname; grep -c localhost /etc/hosts; grep -w here /etc/hosts; \
                  echo 192.0.2.1 more >> /etc/hosts && tail -n 1 /etc/hosts || echo refused";
    let run = ["run", "--rm", "--hostname", "here"];
    let rest = ["demo", "sh", "-c", script];
    for (options, last) in [(&[][..], "192.0.2.1 more"), (&["--read-only"], "refused")] {
        let said = house.call([&run, options, &rest].concat()).expect_code(0).text();
        assert_eq!(said, format!("here\n2\n127.0.0.1\there\n{last}\n"));
    }
    house.expect_nothing_left();
}
