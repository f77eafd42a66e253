//! Something dies at the wrong moment: the end has a name, and nothing stays.

use rustix::process::{PidfdFlags, Signal, kill_process, pidfd_open};
use tests::{House, Running, initramfs_of_this_program};

crate::stories![
    a_guest_that_panics_ends_with_its_last_words,
    a_vmm_that_is_killed_is_named_and_swept,
    a_killed_cli_takes_its_vm_along,
    a_killed_supervisor_s_container_can_be_removed,
    a_vmm_killed_while_it_boots_leaves_nothing,
];

/// The guest half: this program is process 1 in a VM, and `/story` says what to play.
pub(crate) fn guest_half() -> ! {
    let story = std::fs::read_to_string("/story").unwrap_or_default();
    // Process 1 may not end: the kernel panics over it, which is the part to play.
    panic!("the guest half of {story} ends here");
}

fn a_guest_that_panics_ends_with_its_last_words() {
    let house = House::new();
    let initramfs = initramfs_of_this_program(house.state(), "a guest that panics");
    let initramfs = initramfs.to_str().unwrap();
    let outcome =
        house.call(["--initramfs", initramfs, "run", "--rm", "demo", "true"]).expect_code(125);
    assert!(outcome.stderr.contains("Attempted to kill init"), "{}", outcome.stderr);
    house.expect_nothing_left();
}

fn box_that_says_ready(house: &House) -> Running {
    let script = "echo ready; while :; do sleep 0.1; done";
    let mut running = house.start(["run", "--rm", "--name", "box", "demo", "sh", "-c", script]);
    running.read_until("ready\n");
    running
}

fn a_vmm_that_is_killed_is_named_and_swept() {
    let house = House::new();
    let running = box_that_says_ready(&house);
    kill_process(house.process("vmm"), Signal::KILL).unwrap();
    running.finish().expect_refusal("signal 9");
    house.expect_nothing_left();
}

fn a_killed_cli_takes_its_vm_along() {
    let house = House::new();
    let running = box_that_says_ready(&house);
    let vmm = pidfd_open(house.process("vmm"), PidfdFlags::empty()).unwrap();
    running.signal(Signal::KILL);
    running.finish().expect_code(137);
    wait_for_end(&vmm);
    // What a killed process could not take away itself, the next command does.
    house.script("true").expect_code(0);
    house.expect_nothing_left();
}

fn a_killed_supervisor_s_container_can_be_removed() {
    let house = House::new();
    house.call(["run", "-d", "--name", "box", "demo", "sleep", "1000"]).expect_code(0);
    let vmm = pidfd_open(house.process("vmm"), PidfdFlags::empty()).unwrap();
    for (pid, line) in house.processes() {
        if !line.contains("vmm") {
            kill_process(pid, Signal::KILL).unwrap();
        }
    }
    wait_for_end(&vmm);
    house.call(["exec", "box", "true"]).expect_refusal("box");
    assert!(house.call(["ps", "-a"]).expect_code(0).text().contains("box"));
    house.call(["rm", "box"]).expect_code(0);
    house.expect_nothing_left();
}

fn a_vmm_killed_while_it_boots_leaves_nothing() {
    let house = House::new();
    let running = house.start(["run", "--rm", "demo", "true"]);
    // The VMM is there before the guest's kernel is: found at once, it is killed at its very start.
    let vmm = loop {
        if let Some((pid, _)) = house.processes().into_iter().find(|(_, line)| line.contains("vmm"))
        {
            break pid;
        }
    };
    kill_process(vmm, Signal::KILL).unwrap();
    running.finish().expect_refusal("signal 9");
    house.expect_nothing_left();
}

/// Waits, as long as it takes, until a process is gone: no time is guessed.
fn wait_for_end(process: &impl std::os::fd::AsFd) {
    let mut end = [rustix::event::PollFd::new(process, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut end, None).unwrap();
}
