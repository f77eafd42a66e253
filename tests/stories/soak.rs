//! The same again and again: nothing is left behind, and nothing grows. With `MICROVM_SOAK` it goes on for
//! as long as is promised, else for a while.

use rustix::process::Pid;
use serde_json::json;
use tests::belongings::{Belongings, growth, of_process, of_the_host};
use tests::{Bundle, House, Step, Way, kill_at, when_it_soaks};

crate::stories![
    rounds_of_create_start_exec_delete_leave_nothing,
    execs_in_a_row_leave_nothing_in_the_guest_and_the_host,
    execs_that_are_killed_leave_nothing_in_the_guest,
];

/// Memory that may come with what the kernel and an allocator keep for next time, however often.
const KEPT_KIB: u64 = 4 << 10;

fn show(what: &str, before: &Belongings, after: &Belongings) {
    for (name, count) in before {
        eprintln!("{what}: {name}: {count} before, {} after", after[name]);
    }
}

#[track_caller]
fn expect_no_growth(what: &str, before: &Belongings, after: &Belongings) {
    show(what, before, after);
    let grown = growth(before, after, KEPT_KIB);
    assert!(grown.is_empty(), "{what}: {grown:?}");
}

fn rounds_of_create_start_exec_delete_leave_nothing() {
    let bundle = Bundle::new(&["sleep", "1000000"]);
    let house = House::new();
    let round = || {
        house.create(&bundle, "box");
        house.call(["start", "box"]).expect_code(0);
        assert_eq!(house.call(["exec", "box", "echo", "hi"]).expect_code(0).text(), "hi\n");
        house.call(["delete", "--force", "box"]).expect_code(0);
    };
    // What is made once for all stays.
    round();
    house.expect_cleared("box");
    let before = of_the_host();
    for _ in 0..when_it_soaks(200, 10) {
        round();
    }
    house.expect_cleared("box");
    expect_no_growth("host", &before, &of_the_host());
}

/// A container that sees the guest's processes, the agent among them.
struct Open {
    house: House,
    bundle: Bundle,
}

impl Open {
    fn new() -> Self {
        let bundle = Bundle::new(&["sleep", "1000000"]);
        bundle.edit(|spec| {
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "pid");
            for set in ["bounding", "effective", "permitted"] {
                let set = spec["process"]["capabilities"][set].as_array_mut().unwrap();
                set.push(json!("CAP_SYS_PTRACE"));
            }
        });
        let house = House::new();
        house.create(&bundle, "box");
        house.call(["start", "box"]).expect_code(0);
        Self { house, bundle }
    }

    /// What the guest has, as it says itself; the command that asks is always there.
    fn guest(&self) -> Belongings {
        // Who is there is listed before those are who count them: which of the two is quicker is luck.
        let script = "set -- /proc/[0-9]*; \
                      cat $(printf '%s/stat ' \"$@\") 2>/dev/null | grep -c ') Z '; \
                      cat $(printf '%s/comm ' \"$@\") 2>/dev/null | grep -cv '^k\\|^rcu\\|/'; \
                      ls /proc/1/fd | wc -l; \
                      grep RssAnon /proc/1/status | tr -dc 0-9; echo; \
                      grep SUnreclaim /proc/meminfo | tr -dc 0-9; echo; \
                      find /sys/fs/cgroup -type d | wc -l; \
                      cat /proc/net/sockstat | head -1 | tr -dc 0-9; echo";
        let said = self.house.call(["exec", "box", "sh", "-c", script]).expect_code(0).text();
        let names = [
            "zombies",
            "processes",
            "descriptors of the agent",
            "KiB of the agent's own",
            "KiB not to be reclaimed",
            "cgroups",
            "sockets",
        ];
        let numbers: Vec<u64> = said.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(numbers.len(), names.len(), "{said}");
        names.into_iter().zip(numbers).collect()
    }

    fn process(&self, word: &str) -> Pid {
        self.house.process(word)
    }

    fn end(self) {
        self.house.call(["delete", "--force", "box"]).expect_code(0);
        self.house.expect_cleared("box");
        drop(self.bundle);
    }
}

const HOST_SIDE: [&str; 3] = ["supervise-bundle", "microvm vmm", "microvm files"];

fn execs_in_a_row_leave_nothing_in_the_guest_and_the_host() {
    let open = Open::new();
    let exec = |number: usize| {
        let (word, code) = (number.to_string(), number % 200);
        let script = format!("echo {word}; exit {code}");
        let said = open.house.call(["exec", "box", "sh", "-c", &script]).expect_code(code as i32);
        assert_eq!(said.text(), format!("{word}\n"));
    };
    (0..5).for_each(exec);
    open.guest();
    let guest = open.guest();
    let processes = HOST_SIDE.map(|word| open.process(word));
    let before = processes.map(of_process);
    let host = of_the_host();
    (0..when_it_soaks(2000, 100)).for_each(exec);
    expect_no_growth("guest", &guest, &open.guest());
    for ((word, process), before) in HOST_SIDE.iter().zip(processes).zip(before) {
        // The guest's own memory is the VMM's, and of that it uses more as it goes.
        let after = of_process(process);
        let kib = if *word == "microvm vmm" { 64 << 10 } else { KEPT_KIB };
        show(word, &before, &after);
        let grown = growth(&before, &after, kib);
        assert!(grown.is_empty(), "{word}: {grown:?}");
    }
    let kept = growth(&host, &of_the_host(), 64 << 10);
    assert!(kept.is_empty(), "host: {kept:?}");
    open.end();
}

fn execs_that_are_killed_leave_nothing_in_the_guest() {
    let open = Open::new();
    let walk = || {
        for point in 0.. {
            let command = open.house.command(["exec", "box", "true"]);
            if kill_at(command, Way::Command, point, Some) == Step::Ended {
                return point;
            }
        }
        unreachable!("a way without an end")
    };
    walk();
    open.guest();
    let (guest, vmm) = (open.guest(), of_process(open.process("microvm vmm")));
    let rounds = when_it_soaks(20, 3);
    let killed: usize = (0..rounds).map(|_| walk()).sum();
    assert!(killed > 10 * rounds, "{killed}");
    expect_no_growth("guest", &guest, &open.guest());
    let after = of_process(open.process("microvm vmm"));
    let grown = growth(&vmm, &after, 64 << 10);
    assert!(grown.is_empty(), "{grown:?}");
    open.end();
}
