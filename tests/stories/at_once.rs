//! Two verbs at once on one container come one after the other, whichever is first; and a record that is
//! not believed is named.

use std::fs;
use std::sync::Barrier;
use std::thread;

use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tests::{Bundle, House, Outcome};

crate::stories![
    of_two_creates_of_one_id_one_wins,
    of_two_starts_one_lets_the_container_go,
    of_two_deletes_one_finds_nothing,
    a_verb_beside_a_delete_is_done_or_refused_and_nothing_stays,
    a_delete_beside_a_create_comes_before_or_after_it,
    a_paused_container_says_so_to_who_would_wait_for_it,
    a_record_that_is_not_believed_is_named_by_every_verb,
];

/// Both commands at once, with nowhere to read from and write to but where errors go.
fn both(house: &House, first: &[&str], second: &[&str]) -> [Outcome; 2] {
    let line = Barrier::new(2);
    let call = |args: &[&str], number: u32| {
        line.wait();
        house.quietly_into(args, &format!("said-{number}"))
    };
    thread::scope(|scope| {
        let second = scope.spawn(|| call(second, 2));
        [call(first, 1), second.join().unwrap()]
    })
}

/// One of them went well; what the other said.
#[track_caller]
fn loser([first, second]: [Outcome; 2]) -> String {
    assert!((first.code == 0) != (second.code == 0), "{first:?} {second:?}");
    let loser = if first.code == 0 { second } else { first };
    loser.expect_code(1).stderr
}

fn idle() -> Bundle {
    Bundle::new(&["sleep", "1000"])
}

fn running(house: &House, bundle: &Bundle) {
    house.create(bundle, "box");
    house.call(["start", "box"]).expect_code(0);
}

fn of_two_creates_of_one_id_one_wins() {
    let (bundle, house) = (idle(), House::new());
    let create = ["create", "--bundle", bundle.path().to_str().unwrap(), "box"];
    let said = loser(both(&house, &create, &create));
    assert!(said.contains("a container named box exists already"), "{said}");
    assert_eq!(house.status("box"), "created");
    house.call(["delete", "--force", "box"]).expect_code(0);
    house.expect_cleared("box");
}

fn of_two_starts_one_lets_the_container_go() {
    let bundle = Bundle::new(&["sh", "-c", "echo once >> /times; sleep 1000"]);
    let house = House::new();
    house.create(&bundle, "box");
    let said = loser(both(&house, &["start", "box"], &["start", "box"]));
    assert!(said.contains("box was started already") || said.contains("it is running"), "{said}");
    assert_eq!(house.status("box"), "running");
    assert_eq!(bundle.wait_for("times"), "once\n");
    house.call(["delete", "--force", "box"]).expect_code(0);
    assert_eq!(bundle.wait_for("times"), "once\n");
    house.expect_cleared("box");
}

fn of_two_deletes_one_finds_nothing() {
    let (bundle, house) = (idle(), House::new());
    running(&house, &bundle);
    house.call(["kill", "box", "KILL"]).expect_code(0);
    house.call(["wait", "box"]).expect_code(0);
    let said = loser(both(&house, &["delete", "box"], &["delete", "box"]));
    assert!(said.contains("container \"box\" does not exist"), "{said}");
    running(&house, &bundle);
    let force = ["delete", "--force", "box"];
    for outcome in both(&house, &force, &force) {
        outcome.expect_code(0);
    }
    house.expect_cleared("box");
}

fn a_verb_beside_a_delete_is_done_or_refused_and_nothing_stays() {
    let (bundle, house) = (idle(), House::new());
    let verbs: [&[&str]; 7] = [
        &["start", "box"],
        &["exec", "box", "true"],
        &["kill", "box", "TERM"],
        &["pause", "box"],
        &["update", "--pids-limit", "50", "box"],
        &["ps", "box"],
        &["state", "box"],
    ];
    for verb in verbs {
        house.create(&bundle, "box");
        if verb[0] != "start" {
            house.call(["start", "box"]).expect_code(0);
        }
        let [done, deleted] = both(&house, verb, &["delete", "--force", "box"]);
        deleted.expect_code(0);
        // Ended with its container, an exec was killed as everything in there.
        let refused = matches!((verb[0], done.code), ("exec", 137 | 255)) || done.code == 1;
        assert!(done.code == 0 || refused, "{verb:?}: {done:?}");
        assert!(done.code != 1 || done.stderr.contains("box"), "{verb:?}: {done:?}");
        house.expect_cleared("box");
    }
}

fn a_delete_beside_a_create_comes_before_or_after_it() {
    let (bundle, house) = (idle(), House::new());
    let create = ["create", "--bundle", bundle.path().to_str().unwrap(), "box"];
    let [created, deleted] = both(&house, &create, &["delete", "--force", "box"]);
    deleted.expect_code(0);
    // If it was not before, it ended the creation.
    assert_eq!(house.state_of("box").is_some(), created.code == 0, "{created:?}");
    house.call(["delete", "--force", "box"]).expect_code(0);
    house.expect_cleared("box");
}

fn a_paused_container_says_so_to_who_would_wait_for_it() {
    let (bundle, house) = (idle(), House::new());
    running(&house, &bundle);
    house.call(["pause", "box"]).expect_code(0);
    for (verb, code) in [
        (&["exec", "box", "true"][..], 255),
        (&["ps", "box"], 1),
        (&["update", "--pids-limit", "50", "box"], 1),
        (&["kill", "box", "TERM"], 1),
        (&["start", "box"], 1),
        (&["pause", "box"], 1),
        (&["delete", "box"], 1),
    ] {
        let said = house.quietly(verb).expect_code(code).stderr;
        assert!(said.contains("box") && said.contains("paused"), "{verb:?}: {said}");
    }
    // Whoever stops the VM for good does not find its supervisor gone and the VM standing.
    kill_process(house.process("supervise-bundle"), Signal::KILL).unwrap();
    house.call(["wait", "box"]).expect_code(125);
    assert_eq!(house.status("box"), "stopped");
    house.call(["delete", "box"]).expect_code(0);
    house.expect_cleared("box");
}

fn a_record_that_is_not_believed_is_named_by_every_verb() {
    let (bundle, house) = (idle(), House::new());
    house.create(&bundle, "box");
    let path = house.state().join("box/state.json");
    let good = fs::read_to_string(&path).unwrap();
    let of_version = |version: u32| {
        let mut record: Value = serde_json::from_str(&good).unwrap();
        record["version"] = version.into();
        record.to_string()
    };
    let unbelievable = [
        (of_version(0), "version 0, this microvm knows"),
        (of_version(99), "version 99, this microvm knows"),
        (good[..good.len() / 2].to_owned(), "EOF while parsing"),
        (String::new(), "EOF while parsing"),
        ("[]".to_owned(), "line 1"),
        (good.replace("\"name\":\"box\"", "\"name\":\"other\""), "not its directory's"),
    ];
    for (bad, words) in unbelievable {
        fs::write(&path, bad).unwrap();
        for (verb, code) in [
            (&["state", "box"][..], 1),
            (&["start", "box"], 1),
            (&["kill", "box", "KILL"], 125),
            (&["exec", "box", "true"], 125),
            (&["pause", "box"], 1),
            (&["delete", "box"], 1),
        ] {
            let said = house.quietly(verb).expect_code(code).stderr;
            assert!(said.contains("box/state.json") && said.contains(words), "{verb:?}: {said}");
        }
        let list = house.call(["list"]).expect_code(0);
        assert!(list.stderr.contains(words), "{}", list.stderr);
    }
    // It was only written about wrongly.
    fs::write(&path, &good).unwrap();
    assert_eq!(house.status("box"), "created");
    for dead in [false, true] {
        if dead {
            house.create(&bundle, "box");
            kill_process(house.process("supervise-bundle"), Signal::KILL).unwrap();
            house.quietly(&["wait", "box"]).expect_code(125);
        }
        fs::write(&path, "").unwrap();
        house.call(["delete", "--force", "box"]).expect_code(0);
        house.expect_cleared("box");
    }
}
