//! What a container writes, and how long it stays.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use tests::House;

crate::stories![
    what_is_written_to_a_disk_survives_stop_start_and_restart,
    what_was_synced_survives_a_killed_vm,
    a_killed_supervisor_s_container_starts_again,
    a_full_disk_is_the_container_s_error_alone,
    memory_for_what_is_written_has_the_size_that_was_asked_for,
    a_disk_goes_with_its_container,
    a_container_without_a_disk_starts_from_its_image_again,
    a_read_only_root_is_one_with_a_disk_too,
    a_start_that_fails_leaves_the_container_as_it_was,
    what_a_container_gives_up_is_room_on_the_host_again,
    a_disk_is_as_slow_as_it_was_asked_to_be,
    a_disk_has_a_queue_for_each_cpu,
    storage_that_cannot_be_is_refused_by_the_word,
];

/// Says what was written before, adds a line without syncing, and stays until it is told to end.
const DIARY: &str = "trap 'exit 3' TERM; echo once more >> /root/diary; cat /root/diary; \
                     touch /tmp/ready; while :; do sleep 0.1; done";

fn wait_until_ready(house: &House) {
    let until_ready = "until test -e /tmp/ready; do sleep 0.1; done; rm /tmp/ready";
    house.call(["exec", "box", "sh", "-c", until_ready]).expect_code(0);
}

/// `start` is a verb of every OCI runtime, and fails as theirs do.
#[track_caller]
fn refuses_to_start(outcome: tests::Outcome, thing: &str) {
    let outcome = outcome.expect_code(1);
    assert!(outcome.stderr.contains(thing), "{thing:?} is not named: {}", outcome.stderr);
}

fn lines_of_diary(house: &House) -> usize {
    house.call(["exec", "box", "cat", "/root/diary"]).expect_code(0).text().lines().count()
}

/// A container named `box` in the background that runs `script` on a disk.
fn box_with_a_disk(house: &House, script: &str) {
    let storage = ["run", "-d", "--name", "box", "--storage", "size=1g"];
    house.call([&storage[..], &["demo", "sh", "-c", script]].concat()).expect_code(0);
}

fn what_is_written_to_a_disk_survives_stop_start_and_restart() {
    let house = House::new();
    box_with_a_disk(&house, DIARY);
    wait_until_ready(&house);
    let [disk] = &house.disks()[..] else { panic!("not one disk: {:?}", house.disks()) };
    let about = fs::metadata(disk).unwrap();
    assert_eq!((about.len(), about.mode() & 0o777), (1 << 30, 0o600));
    assert!(about.blocks() * 512 < 100 << 20, "{} blocks", about.blocks());
    refuses_to_start(house.call(["start", "box"]), "box is running");
    house.call(["stop", "box"]).expect_code(0);
    assert_eq!(house.call(["wait", "box"]).expect_code(0).text(), "3\n");
    house.call(["start", "box"]).expect_code(0);
    wait_until_ready(&house);
    assert_eq!(lines_of_diary(&house), 2);
    house.call(["restart", "box"]).expect_code(0);
    wait_until_ready(&house);
    assert_eq!(lines_of_diary(&house), 3);
    let log = house.call(["logs", "box"]).expect_code(0).text();
    assert_eq!(log.lines().count(), 1 + 2 + 3, "{log}");
    house.call(["rm", "-f", "box"]).expect_code(0);
    house.expect_nothing_left();
}

fn what_was_synced_survives_a_killed_vm() {
    let house = House::new();
    let script =
        "cat /table; seq 20000 > /table; sync; touch /tmp/ready; while :; do sleep 0.1; done";
    box_with_a_disk(&house, script);
    wait_until_ready(&house);
    kill_process(house.process("vmm"), Signal::KILL).unwrap();
    house.call(["wait", "box"]).expect_code(0);
    house.call(["start", "box"]).expect_code(0);
    wait_until_ready(&house);
    let log = house.call(["logs", "box"]).expect_code(0).text();
    assert_eq!(log.lines().count(), 20_000);
    assert_eq!(log.lines().last(), Some("20000"));
    house.call(["rm", "-f", "box"]).expect_code(0);
    house.expect_nothing_left();
}

fn a_killed_supervisor_s_container_starts_again() {
    let house = House::new();
    box_with_a_disk(&house, DIARY);
    wait_until_ready(&house);
    house.call(["exec", "box", "sync"]).expect_code(0);
    for (pid, line) in house.processes() {
        if !line.contains("vmm") {
            kill_process(pid, Signal::KILL).unwrap();
        }
    }
    // At once: what is left of the old VM is waited for, and does not write to the disk of the new one.
    house.call(["start", "box"]).expect_code(0);
    wait_until_ready(&house);
    assert_eq!(lines_of_diary(&house), 2);
    house.call(["rm", "-f", "box"]).expect_code(0);
    house.expect_nothing_left();
}

fn a_full_disk_is_the_container_s_error_alone() {
    let house = House::new();
    let script = "dd if=/dev/zero of=/large bs=1M count=100; echo $?; rm /large; \
                  echo room > /small && sync && cat /small";
    let outcome = house.call(["run", "--rm", "--storage", "size=64m", "demo", "sh", "-c", script]);
    let outcome = outcome.expect_code(0);
    assert_eq!(outcome.text(), "1\nroom\n");
    assert!(outcome.stderr.contains("No space left on device"), "{}", outcome.stderr);
    house.expect_nothing_left();
}

fn memory_for_what_is_written_has_the_size_that_was_asked_for() {
    let house = House::new();
    let script = "df -m / | awk 'END { print $2 }'; dd if=/dev/zero of=/large bs=1M count=40";
    for (storage, want) in [("type=memory,size=32m", "32"), ("size=1g", "944")] {
        let args = ["run", "--rm", "--storage", storage, "demo", "sh", "-c", script];
        let outcome = house.call(args);
        let text = outcome.text();
        let size: i32 = text.trim().parse().unwrap_or_default();
        // A file system's own needs are not the container's room.
        assert!((size - want.parse::<i32>().unwrap()).abs() <= 32, "{storage}: {text}");
        assert_eq!(outcome.code, i32::from(want == "32"), "{storage}: {}", outcome.stderr);
    }
    let usual = house.script("df -m / | awk 'END { print $2 }'").expect_code(0).text();
    assert_eq!(usual, "256\n", "half of the memory");
    house.expect_nothing_left();
}

fn a_disk_goes_with_its_container() {
    let house = House::new();
    let run = |options: &[&str], script: &str| {
        house.call(
            [&["run"], options, &["--storage", "size=1g", "demo", "sh", "-c", script]].concat(),
        )
    };
    run(&["--rm"], "echo x > /x").expect_code(0);
    assert!(house.disks().is_empty(), "{:?}", house.disks());
    run(&["--name", "bad"], "exit 4").expect_code(4);
    run(&["--name", "worse"], "true").expect_code(0);
    assert_eq!(house.disks().len(), 2);
    house.call(["delete", "bad"]).expect_code(0);
    // As a reboot does it, to all of them.
    fs::remove_dir_all(house.state().join("worse")).unwrap();
    assert_eq!(house.disks().len(), 1);
    let pruned = house.call(["prune"]).expect_code(0).text();
    assert!(pruned.contains("storage of "), "{pruned}");
    run(&["--name", "never"], "true").expect_code(0);
    house.call(["prune"]).expect_code(0);
    assert_eq!(house.disks().len(), 1, "it is still somebody's");
    house.call(["rm", "never"]).expect_code(0);
    run(&[], "true").expect_code(0);
    let never = ["run", "--storage", "size=1g", "demo", "/no/such/program"];
    house.call(never).expect_code(127);
    assert_eq!(house.disks().len(), 1, "a container that never ran has no disk");
    let all = house.call(["ps", "-aq"]).expect_code(0).text();
    house.call(["rm"].into_iter().chain(all.lines())).expect_code(0);
    house.expect_nothing_left();
}

fn a_container_without_a_disk_starts_from_its_image_again() {
    let house = House::new();
    let script = "cat /mine; echo mine > /mine; echo $WHO; hostname; id -u; exit 5";
    let options = ["run", "--name", "box", "-e", "WHO=me", "-u", "7", "--hostname", "here"];
    let end =
        house.call([&options[..], &["-w", "/tmp", "demo", "sh", "-c", "id -u; exit 5"]].concat());
    assert_eq!(end.expect_code(5).text(), "7\n");
    house.call(["start", "box"]).expect_code(0);
    assert_eq!(house.call(["wait", "box"]).expect_code(0).text(), "5\n");
    assert_eq!(house.call(["logs", "box"]).expect_code(0).text(), "7\n");
    let again = ["run", "-d", "--name", "second", "-e", "WHO=me", "--hostname", "here"];
    house.call([&again[..], &["demo", "sh", "-c", script]].concat()).expect_code(0);
    house.call(["wait", "second"]).expect_code(0);
    house.call(["start", "second"]).expect_code(0);
    house.call(["wait", "second"]).expect_code(0);
    let log = house.call(["logs", "second"]).expect_code(0);
    assert_eq!(log.text(), "me\nhere\n0\nme\nhere\n0\n");
    assert_eq!(log.stderr.matches("No such file").count(), 2, "{}", log.stderr);
    house.call(["rm", "box", "second"]).expect_code(0);
    house.expect_nothing_left();
}

fn a_read_only_root_is_one_with_a_disk_too() {
    let house = House::new();
    let options = ["run", "--rm", "--read-only", "--storage", "size=64m"];
    let outcome = house.call([&options[..], &["demo", "touch", "/x"]].concat()).expect_code(1);
    assert!(outcome.stderr.contains("Read-only file system"), "{}", outcome.stderr);
    house.expect_nothing_left();
}

fn a_start_that_fails_leaves_the_container_as_it_was() {
    let house = House::new();
    let options = ["run", "--name", "box", "--storage", "size=64m"];
    let script = "test -e /there && exit 7; touch /there; exit 6";
    house.call([&options[..], &["demo", "sh", "-c", script]].concat()).expect_code(6);
    let no_kernel = ["--kernel", "/dev/null", "start", "box"];
    refuses_to_start(house.call(no_kernel), "/dev/null");
    // The guest of this one is not the agent's: the VM is started, and ends.
    let bad = tests::kernel_of_instructions(house.state(), &[0x0f, 0x0b]);
    refuses_to_start(
        house.call(["--kernel", bad.to_str().unwrap(), "start", "box"]),
        "triple fault",
    );
    assert_eq!(house.call(["wait", "box"]).expect_code(0).text(), "6\n");
    assert!(house.call(["ps", "-a"]).expect_code(0).text().contains("exited (6)"));
    house.call(["start", "box"]).expect_code(0);
    assert_eq!(house.call(["wait", "box"]).expect_code(0).text(), "7\n");
    house.call(["rm", "box"]).expect_code(0);
    house.expect_nothing_left();
}

fn what_a_container_gives_up_is_room_on_the_host_again() {
    let house = House::new();
    let script =
        "dd if=/dev/urandom of=/large bs=1M count=64; sync; echo full; read; rm /large; sync; read";
    let options = ["run", "-i", "--name", "box", "--storage", "size=1g"];
    let mut running = house.start([&options[..], &["demo", "sh", "-c", script]].concat());
    running.read_until("full\n");
    let [disk] = &house.disks()[..] else { panic!("not one disk: {:?}", house.disks()) };
    let taken = || fs::metadata(disk).unwrap().blocks() * 512;
    let full = taken();
    assert!(full >= 64 << 20, "{full} bytes");
    running.write(b"\n");
    // The guest discards when it comes to that, and tells nobody.
    while taken() > full - (60 << 20) {
        house.call(["exec", "box", "sync"]).expect_code(0);
    }
    running.write(b"\n");
    running.finish().expect_code(0);
    house.call(["rm", "box"]).expect_code(0);
    house.expect_nothing_left();
}

fn a_disk_is_as_slow_as_it_was_asked_to_be() {
    let house = House::new();
    let script = "dd if=/dev/zero of=/large bs=1M count=16 conv=fsync";
    let storage = "size=1g,bps=4m,bps-burst=1m";
    let begin = Instant::now();
    house.call(["run", "--rm", "--storage", storage, "demo", "sh", "-c", script]).expect_code(0);
    // 15 of 16 MiB at 4 MiB a second.
    assert!(begin.elapsed() >= Duration::from_millis(3700), "{:?}", begin.elapsed());
    house.expect_nothing_left();
}

fn a_disk_has_a_queue_for_each_cpu() {
    let house = House::new();
    let script = "for disk in vda vdb; do ls /sys/block/$disk/mq | wc -l; done; \
                  for i in 1 2 3 4; do dd if=/dev/zero of=/$i bs=1M count=4 conv=fsync & done; wait; \
                  cat /1 /2 /3 /4 | wc -c";
    for (cpus, queues) in [("1", "1\n1"), ("3", "3\n3")] {
        let args =
            ["run", "--rm", "--cpus", cpus, "--storage", "size=1g", "demo", "sh", "-c", script];
        let text = house.call(args).expect_code(0).text();
        assert_eq!(text, format!("{queues}\n{}\n", 16 << 20));
    }
    house.expect_nothing_left();
}

fn storage_that_cannot_be_is_refused_by_the_word() {
    let house = House::new();
    for word in ["10g", "size=lots", "size=1m", "size=99t", "size=1g,size=2g", "type=memory", ""] {
        house.call(["run", "--storage", word, "demo", "true"]).expect_refusal(&format!("{word:?}"));
    }
    house.call(["run", "--storage", "size=1g", "--rootfs", "/", "true"]).expect_refusal("--rootfs");
    refuses_to_start(house.call(["start", "nobody"]), "nobody");
    house.expect_nothing_left();
}
