use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write};
use std::thread;

use nix::sys::signal::{Signal, raise};
use proto::frame;
use proto::message::{Answer, Call, Fault, FaultKind, Hello, Reply, Request};

use super::*;
use crate::plan;
use crate::state::record::Id;
use crate::wishes::Wishes;

/// An agent whose every word the story decides.
struct Double(UnixStream);

impl Double {
    fn greets(&mut self) {
        let hello =
            Hello { version: proto::VERSION, name: "double".to_owned(), agent_started_ns: Some(7) };
        self.0.write_all(&frame::encode(&hello).unwrap()).unwrap();
        let _: Hello = self.frame();
    }

    fn hears(&mut self) -> (u64, Request) {
        let Call { id, request } = self.frame();
        (id, request)
    }

    fn answers(&mut self, id: u64, result: Result<Reply, Fault>) {
        self.0.write_all(&frame::encode(&Answer { id, result }).unwrap()).unwrap();
    }

    fn frame<T: serde::de::DeserializeOwned>(&mut self) -> T {
        let mut prefix = [0; frame::PREFIX_BYTES];
        self.0.read_exact(&mut prefix).unwrap();
        let mut json = vec![0; frame::length(prefix).unwrap()];
        self.0.read_exact(&mut json).unwrap();
        frame::decode(&json).unwrap()
    }

    /// Everything up to a created process; gives the numbers of the calls to start and to wait.
    fn creates_a_container(&mut self) -> (u64, u64) {
        self.greets();
        let (create, request) = self.hears();
        assert!(matches!(request, Request::Create { .. }));
        self.answers(create, Ok(Reply::Created { pid: 2 }));
        let (start, request) = self.hears();
        assert!(matches!(request, Request::Start { .. }));
        (start, self.is_asked_for_the_end())
    }

    /// Asked twice, and the one with its output last: gives the number of that call.
    fn is_asked_for_the_end(&mut self) -> u64 {
        let (_, request) = self.hears();
        assert!(matches!(request, Request::Wait { early: true, .. }));
        let (wait, request) = self.hears();
        assert!(matches!(request, Request::Wait { early: false, .. }));
        wait
    }

    /// Everything up to a running process; gives the number of the call that waits for its end.
    fn runs_a_container(&mut self) -> u64 {
        let (start, wait) = self.creates_a_container();
        self.answers(start, Ok(Reply::Done));
        wait
    }
}

/// What came of a story: the end, what the log holds, and whether the process was said to run.
struct Told {
    end: Result<ExitStatus, AttendError>,
    stdout: String,
    ran: bool,
}

/// A story: what is wished for, and the signals that come to us before anything and once it runs.
struct Story {
    wish: Wish,
    at_first: Option<Signal>,
    while_running: Option<Signal>,
    adopt: Option<Belongings>,
}

impl Story {
    fn of(wish: Wish) -> Self {
        Self { wish, at_first: None, while_running: None, adopt: None }
    }

    /// Attends the wish while `agent` plays the guest, with its ends of the session and the outputs.
    fn tell(self, agent: impl FnOnce(Double, Vec<UnixStream>) + Send + 'static) -> Told {
        let signals = Signals::catch().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let pairs = (0..2).map(|_| UnixStream::pair().unwrap());
        let (host_ends, guest_ends): (Vec<_>, Vec<_>) = pairs.unzip();
        let agent = thread::spawn(move || agent(Double(theirs), guest_ends));
        let log = tempfile::NamedTempFile::new().unwrap();
        let exec = matches!(self.wish, Wish::Exec(_)).then(|| "e1".to_owned());
        let ran = Cell::new(false);
        // A signal that a thread raises is its own: other tests' threads never see it.
        let raise_it = |signal: Option<Signal>| signal.into_iter().for_each(|s| raise(s).unwrap());
        raise_it(self.at_first);
        let attendance = Attendance {
            process: ProcessId { container: "box".to_owned(), exec },
            session: Session::greet(ours).unwrap(),
            vm: None,
            adopt: self.adopt,
            signals: &signals,
            front: Front::Log(File::options().append(true).open(log.path()).unwrap()),
            held: None,
            network: None,
            timeline: &Timeline::new(true),
        };
        let connect = |streams: &[Stream]| Ok(streams.iter().copied().zip(host_ends).collect());
        let started = || {
            ran.set(true);
            raise_it(self.while_running);
        };
        let end = attendance.see_through(self.wish, connect, started);
        agent.join().unwrap();
        let mut stdout = Vec::new();
        crate::log::replay(log.reopen().unwrap(), &mut stdout, &mut Vec::new()).unwrap();
        Told { end, stdout: String::from_utf8(stdout).unwrap(), ran: ran.get() }
    }
}

fn container() -> Container {
    let host = plan::Host {
        memory_bytes: 1 << 30,
        terminal: proto::spec::TerminalSize { rows: 24, columns: 80 },
        stdin_is_terminal: false,
        environment: std::collections::BTreeMap::new(),
        id: Id::from_bits([1; 32]),
    };
    let image_and_command = vec!["demo".to_owned(), "true".to_owned()];
    let wishes = Wishes { image_and_command, ..Wishes::default() };
    plan::container(&image::Config::default(), &wishes, &host).unwrap().container
}

fn a_container() -> Story {
    Story::of(Wish::Container(Box::new(container())))
}

fn a_container_in_a_guest_of_our_own() -> Story {
    let belongings = Belongings { disk_sectors: vec![8, 1], network: Network::default() };
    Story { adopt: Some(belongings), ..a_container() }
}

fn exited(code: u8) -> Result<Reply, Fault> {
    Ok(Reply::Exited { status: ExitStatus::Code(code) })
}

#[test]
fn output_that_arrives_after_the_exit_status_is_not_lost() {
    let told = a_container().tell(|mut agent, mut output| {
        let wait = agent.runs_a_container();
        agent.answers(wait, exited(7));
        output[0].write_all(b"said just before the end\n").unwrap();
    });
    assert_eq!(told.end.unwrap(), ExitStatus::Code(7));
    assert_eq!(told.stdout, "said just before the end\n");
    assert!(told.ran);
}

#[test]
fn a_process_that_ends_before_its_start_is_answered_has_run() {
    let told = a_container().tell(|mut agent, _output| {
        let (_start, wait) = agent.creates_a_container();
        agent.answers(wait, exited(3));
    });
    assert_eq!(told.end.unwrap(), ExitStatus::Code(3));
    assert!(told.ran);
}

#[test]
fn a_program_that_is_not_there_never_ran() {
    let told = a_container().tell(|mut agent, _output| {
        let (start, _wait) = agent.creates_a_container();
        let message = "true: no such file or directory".to_owned();
        agent.answers(start, Err(Fault { kind: FaultKind::ProgramNotFound, message }));
    });
    assert!(matches!(told.end, Err(AttendError::Session(SessionError::Refused(_)))));
    assert!(!told.ran);
}

#[test]
fn an_added_process_is_asked_for_waited_for_and_not_started_twice() {
    let told = Story::of(Wish::Exec(Box::new(container().process))).tell(|mut agent, _output| {
        agent.greets();
        let (exec, request) = agent.hears();
        assert!(matches!(request, Request::Exec { .. }));
        agent.answers(exec, Ok(Reply::Created { pid: 9 }));
        let wait = agent.is_asked_for_the_end();
        agent.answers(wait, Ok(Reply::Exited { status: ExitStatus::Signal(9) }));
    });
    assert_eq!(told.end.unwrap().shell_code(), 137);
}

#[test]
fn a_guest_that_answers_calls_nobody_made_confuses_nobody() {
    let told = a_container().tell(|mut agent, _output| {
        agent.greets();
        let (create, _) = agent.hears();
        agent.answers(99, exited(1));
        agent.answers(create, Ok(Reply::Created { pid: 2 }));
        let (start, _) = agent.hears();
        let wait = agent.is_asked_for_the_end();
        agent.answers(create, exited(2));
        agent.answers(start, Ok(Reply::Done));
        agent.answers(wait, exited(0));
    });
    assert_eq!(told.end.unwrap(), ExitStatus::Code(0));
}

#[test]
fn an_answer_of_the_wrong_kind_is_named() {
    let told = a_container().tell(|mut agent, _output| {
        agent.greets();
        let (create, _) = agent.hears();
        agent.answers(create, exited(0));
    });
    let error = told.end.unwrap_err().to_string();
    assert!(error.contains("answered something else than it was asked: Exited"), "{error}");
}

#[test]
fn an_agent_that_hangs_up_is_noticed() {
    let told = a_container().tell(|mut agent, _output| {
        agent.runs_a_container();
    });
    assert!(matches!(told.end, Err(AttendError::Session(SessionError::HungUp))));
    assert!(told.ran);
}

#[test]
fn a_signal_to_us_goes_to_the_process() {
    let story = Story { while_running: Some(Signal::SIGUSR1), ..a_container() };
    let told = story.tell(|mut agent, _output| {
        let wait = agent.runs_a_container();
        let (_, request) = agent.hears();
        assert!(
            matches!(&request, Request::Signal { signal: 10, all: false, process } if process.exec.is_none()),
            "{request:?}"
        );
        agent.answers(wait, exited(0));
    });
    assert_eq!(told.end.unwrap(), ExitStatus::Code(0));
}

#[test]
fn ctrl_c_before_there_is_a_process_ends_the_start() {
    let story = Story { at_first: Some(Signal::SIGINT), ..a_container() };
    let told = story.tell(|mut silent, _output| {
        silent.0.read_to_end(&mut Vec::new()).unwrap();
    });
    assert!(matches!(told.end, Err(AttendError::Interrupted { signal: 2 })));
    assert!(!told.ran);
}

#[test]
fn a_signal_that_comes_too_early_is_kept_for_the_process() {
    let story = Story { at_first: Some(Signal::SIGUSR2), ..a_container() };
    let told = story.tell(|mut agent, _output| {
        let wait = agent.runs_a_container();
        let (_, request) = agent.hears();
        assert!(matches!(request, Request::Signal { signal: 12, .. }), "{request:?}");
        agent.answers(wait, exited(0));
    });
    assert_eq!(told.end.unwrap(), ExitStatus::Code(0));
}

#[test]
fn a_guest_of_our_own_is_adopted_before_anything_is_made_in_it() {
    let told = a_container_in_a_guest_of_our_own().tell(|mut agent, _output| {
        agent.greets();
        let (adopt, request) = agent.hears();
        let Request::Adopt(first) = request else { panic!("{request:?}") };
        assert_eq!(first.disk_sectors, [8, 1]);
        assert!(first.seed != [0; 32] && first.wall_clock_ns > 1_700_000_000_000_000_000);
        agent.answers(adopt, Ok(Reply::Done));
        let (create, request) = agent.hears();
        assert!(matches!(request, Request::Create { .. }));
        agent.answers(create, Ok(Reply::Created { pid: 2 }));
        let (start, _) = agent.hears();
        let wait = agent.is_asked_for_the_end();
        agent.answers(start, Ok(Reply::Done));
        agent.answers(wait, exited(0));
    });
    assert_eq!(told.end.unwrap(), ExitStatus::Code(0));
}

#[test]
fn a_guest_that_cannot_be_adopted_or_skips_it_is_not_used() {
    let told = a_container_in_a_guest_of_our_own().tell(|mut agent, _output| {
        agent.greets();
        let (adopt, _) = agent.hears();
        // Said in the same breath: whoever hung up before it came would be heard of instead.
        agent.hears();
        let message = "random generator: no".to_owned();
        agent.answers(adopt, Err(Fault { kind: FaultKind::System, message }));
    });
    assert_eq!(told.end.unwrap_err().to_string(), "random generator: no");
    let told = a_container_in_a_guest_of_our_own().tell(|mut agent, _output| {
        agent.greets();
        agent.hears();
        let (create, _) = agent.hears();
        agent.answers(create, Ok(Reply::Created { pid: 2 }));
    });
    let error = told.end.unwrap_err().to_string();
    assert!(error.contains("something else than it was asked: Created"), "{error}");
}
