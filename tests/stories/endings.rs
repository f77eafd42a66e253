//! Exit codes as people know them, and signals.

use std::time::Instant;

use rustix::process::Signal;
use tests::House;

crate::stories![
    the_container_s_code_is_ours,
    a_container_that_a_signal_ended_is_128_and_the_signal,
    a_program_that_is_not_there_is_127,
    a_program_that_cannot_be_executed_is_126,
    ctrl_c_without_a_terminal_reaches_the_container,
    sigterm_reaches_the_container,
    the_end_of_a_parent_takes_its_children_along,
    an_orphan_is_reaped,
];

fn the_container_s_code_is_ours() {
    let house = House::new();
    for code in [0, 1, 42, 255] {
        house.script(&format!("exit {code}")).expect_code(code);
    }
    house.expect_nothing_left();
}

fn a_container_that_a_signal_ended_is_128_and_the_signal() {
    let house = House::new();
    // Process 1 of a pid namespace cannot kill itself: a child ends by the signal, the shell says so.
    house.script("sh -c 'kill -9 $$'; exit $?").expect_code(137);
    house.script("sh -c 'kill -TERM $$'; exit $?").expect_code(143);
}

fn a_program_that_is_not_there_is_127() {
    let house = House::new();
    let outcome = house.call(["run", "--rm", "demo", "no-such-program"]).expect_code(127);
    assert!(outcome.stderr.contains("no-such-program"), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    house.call(["run", "--rm", "demo", "/no/such/program"]).expect_code(127);
    house.expect_nothing_left();
}

fn a_program_that_cannot_be_executed_is_126() {
    let house = House::new();
    let outcome = house.call(["run", "--rm", "demo", "/etc/passwd"]).expect_code(126);
    assert!(outcome.stderr.to_lowercase().contains("permission denied"), "{}", outcome.stderr);
    house.call(["run", "--rm", "demo", "/tmp"]).expect_code(126);
    house.expect_nothing_left();
}

fn ctrl_c_without_a_terminal_reaches_the_container() {
    signal_reaches_the_container(Signal::INT, "INT", 130);
}

fn sigterm_reaches_the_container() {
    signal_reaches_the_container(Signal::TERM, "TERM", 143);
}

/// A container that traps the signal hears it and chooses its own code.
fn signal_reaches_the_container(signal: Signal, name: &str, code: i32) {
    let house = House::new();
    let script =
        format!("trap 'echo heard; exit {code}' {name}; echo ready; while :; do sleep 0.1; done");
    let mut running = house.start(["run", "--rm", "demo", "sh", "-c", &script]);
    running.read_until("ready\n");
    running.signal(signal);
    running.read_until("heard\n");
    running.finish().expect_code(code);
    house.expect_nothing_left();
}

fn the_end_of_a_parent_takes_its_children_along() {
    let house = House::new();
    let begun = Instant::now();
    house.script("sleep 1000 & exit 3").expect_code(3);
    assert!(begun.elapsed().as_secs() < 500, "somebody waited for the sleep");
    house.expect_nothing_left();
}

fn an_orphan_is_reaped() {
    let house = House::new();
    // The grandchild's parent is gone before it: process 1 of the container, a shell, inherits it.
    let script =
        "(sleep 0.1 &) ; sleep 0.5; cat /proc/[0-9]*/status | grep -c '^State:.*zombie'; true";
    let outcome = house.script(script);
    assert_eq!(outcome.expect_code(0).text(), "0\n");
}
