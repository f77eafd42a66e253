//! A walk through the points of each verb: at every one somebody dies by `kill -9`, and each time the
//! state is true and `delete --force` leaves nothing. Where each point costs a VM or two, the walk takes
//! every point when it soaks, else some.

use rustix::process::{Pid, test_kill_process};
use tests::{Bundle, House, Step, Way, kill_at, when_it_soaks};

crate::stories![
    a_create_killed_at_any_point_is_told_truly_and_cleared,
    a_supervisor_killed_at_any_point_of_create_leaves_what_can_be_cleared,
    a_vmm_killed_at_any_point_of_create_leaves_nothing,
    a_file_server_killed_at_any_point_of_create_leaves_nothing,
    a_verb_killed_at_any_point_can_be_given_again,
    a_delete_killed_at_any_point_can_be_finished,
    a_supervisor_killed_at_any_point_of_a_verb_leaves_a_stopped_container,
];

/// Where the walk goes: one bundle, and containers of it called `walker`.
struct Ground {
    house: House,
    bundle: Bundle,
}

impl Ground {
    fn new() -> Self {
        let bundle = Bundle::new(&["sleep", "1000"]);
        let house = House::new();
        Self { house, bundle }
    }

    /// One step: `microvm VERB…`, with somebody killed at a point of it.
    fn step(
        &self,
        verb: &[&str],
        way: Way,
        point: usize,
        whom: impl FnMut(i32) -> Option<i32> + Send,
    ) -> Step {
        kill_at(self.house.command(verb), way, point, whom)
    }

    fn created(&self) {
        self.house.create(&self.bundle, "walker");
    }

    fn running(&self) {
        self.created();
        self.house.call(["start", "walker"]).expect_code(0);
    }

    fn create_words(&self) -> [&str; 4] {
        ["create", "--bundle", self.bundle.path().to_str().unwrap(), "walker"]
    }

    /// What is said of the container is one of `words`, where nothing stands for that there is none; and
    /// it is true: what is not stopped has a process, and what is has none.
    fn is_told_as_one_of(&self, words: &[&str], at: &str) {
        let state = self.house.state_of("walker");
        let status = state.as_ref().map_or("", |state| state["status"].as_str().unwrap());
        assert!(words.contains(&status), "{at}: {status:?} is none of {words:?}");
        let Some(state) = &state else { return };
        let pid = Pid::from_raw(state["pid"].as_i64().unwrap() as i32);
        match status {
            "stopped" => assert_eq!(pid, None, "{at}"),
            _ => assert!(pid.is_some_and(|pid| test_kill_process(pid).is_ok()), "{at}: {state}"),
        }
    }

    fn is_cleared(&self) {
        self.house.call(["delete", "--force", "walker"]).expect_code(0);
        self.house.expect_cleared("walker");
    }
}

fn itself(stands: i32) -> Option<i32> {
    Some(stands)
}

fn a_create_killed_at_any_point_is_told_truly_and_cleared() {
    let ground = Ground::new();
    for point in 0.. {
        let step = ground.step(&ground.create_words(), Way::Command, point, itself);
        let Step::Killed(call) = step else { break };
        ground.is_told_as_one_of(&["", "creating", "created"], call);
        ground.is_cleared();
    }
    ground.is_cleared();
}

/// The points of a way, or every `stride`th.
fn points(stride: usize) -> impl Iterator<Item = usize> {
    (0..).step_by(when_it_soaks(1, stride))
}

/// To the points of a supervisor's way to a created container. Gives back how many there were.
fn walk_through_create(
    stride: usize,
    words: &[&str],
    whom: impl Fn(&House, i32) -> Option<i32> + Sync,
) -> usize {
    let ground = Ground::new();
    let way = Way::Below("supervise-bundle");
    for (killed, point) in points(stride).enumerate() {
        let step =
            ground.step(&ground.create_words(), way, point, |stands| whom(&ground.house, stands));
        let Step::Killed(call) = step else {
            ground.is_told_as_one_of(&["created"], "at the end");
            ground.is_cleared();
            return killed;
        };
        ground.is_told_as_one_of(words, call);
        ground.is_cleared();
    }
    unreachable!("a way without an end")
}

fn a_supervisor_killed_at_any_point_of_create_leaves_what_can_be_cleared() {
    let killed = walk_through_create(6, &["", "stopped"], |_, stands| Some(stands));
    assert!(killed > 10, "{killed}");
}

fn process(house: &House, word: &str) -> Option<i32> {
    let processes = house.processes();
    let (pid, _) = processes.iter().find(|(_, line)| line.contains(word))?;
    Some(pid.as_raw_nonzero().get())
}

fn a_vmm_killed_at_any_point_of_create_leaves_nothing() {
    let killed = walk_through_create(5, &["", "stopped"], |house, _| process(house, "microvm vmm"));
    assert!(killed > 2, "{killed}");
}

fn a_file_server_killed_at_any_point_of_create_leaves_nothing() {
    let killed =
        walk_through_create(5, &["", "created"], |house, _| process(house, "microvm files"));
    assert!(killed > 2, "{killed}");
}

fn a_verb_killed_at_any_point_can_be_given_again() {
    let ground = Ground::new();
    ground.created();
    let before: [(&[&str], &[&str]); 7] = [
        (&["start", "walker"], &["created", "running"]),
        (&["exec", "walker", "true"], &["running"]),
        (&["kill", "walker", "USR1"], &["running"]),
        (&["update", "--pids-limit", "100", "walker"], &["running"]),
        (&["pause", "walker"], &["running", "paused"]),
        (&["resume", "walker"], &["running", "paused"]),
        (&["ps", "walker"], &["running"]),
    ];
    for (verb, words) in before {
        for point in 0.. {
            let step = ground.step(verb, Way::Command, point, itself);
            let Step::Killed(call) = step else { break };
            ground.is_told_as_one_of(words, call);
        }
        let [last] = words.get(1..).filter(|rest| !rest.is_empty()).unwrap_or(words) else {
            unreachable!()
        };
        let last = if verb[0] == "resume" { "running" } else { last };
        ground.is_told_as_one_of(&[last], verb[0]);
    }
    ground.is_cleared();
}

fn a_delete_killed_at_any_point_can_be_finished() {
    let ground = Ground::new();
    for point in points(4) {
        ground.running();
        let step = ground.step(&["delete", "--force", "walker"], Way::Command, point, itself);
        let Step::Killed(call) = step else { break };
        ground.is_told_as_one_of(&["", "running", "stopped"], call);
        ground.is_cleared();
    }
    ground.is_cleared();
}

fn a_supervisor_killed_at_any_point_of_a_verb_leaves_a_stopped_container() {
    let ground = Ground::new();
    let verbs: [(&[&str], &[&str]); 4] = [
        (&[], &["start", "walker"]),
        (&["start", "walker"], &["pause", "walker"]),
        (&["start", "walker"], &["kill", "walker", "KILL"]),
        (&["start", "walker"], &["delete", "--force", "walker"]),
    ];
    for (before, verb) in verbs {
        for point in points(4) {
            ground.created();
            if !before.is_empty() {
                ground.house.call(before).expect_code(0);
            }
            let supervisor = ground.house.process("supervise-bundle");
            let step = ground.step(verb, Way::Of(supervisor), point, itself);
            if let Step::Killed(call) = step {
                ground.is_told_as_one_of(&["", "stopped"], call);
            }
            ground.is_cleared();
            if step == Step::Ended {
                break;
            }
        }
    }
}
