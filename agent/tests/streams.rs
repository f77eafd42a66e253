//! Standard input and output of containers made for real. What a user would lose if they failed.

mod guest;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use guest::{
    NO_STREAMS, Running, container, containers_work_here, create, first, start, text, wait,
};
use proto::message::{ExitStatus, Reply, Request};
use proto::spec::{Preserved, Stdio, TerminalSize, Who};
use proto::stream::Stream;

#[test]
fn output_written_just_before_exit_arrives_whole() {
    if !containers_work_here("a MiB before exit") {
        return;
    }
    let mut agent = Running::start();
    let script = "dd if=/dev/zero bs=1024 count=1024 2>/dev/null; exit 7";
    let (status, out, _) = agent.script("c", script);
    assert_eq!((status, out.len()), (ExitStatus::Code(7), 1 << 20));
}

#[test]
fn sixty_four_mib_go_through_cat_and_back_unchanged() {
    if !containers_work_here("64 MiB through cat") {
        return;
    }
    let mut agent = Running::start();
    let mut spec = container(&agent.root("c"), &["cat"]);
    spec.process.stdio = Stdio::Pipes { stdin: true, stdout: true, stderr: false };
    let (mut input, output) =
        (agent.attach(&first("c"), Stream::Stdin), agent.attach(&first("c"), Stream::Stdout));
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    // A pattern whose period fits no buffer.
    let sent: Vec<u8> = (0..64 << 20).map(|i: u32| (i % 251) as u8).collect();
    let reader = std::thread::spawn(move || {
        let (mut output, mut bytes) = (output, Vec::new());
        output.read_to_end(&mut bytes).unwrap();
        bytes
    });
    input.write_all(&sent).unwrap();
    input.shutdown(Shutdown::Write).unwrap();
    assert!(reader.join().unwrap() == sent);
    assert_eq!(agent.host.wait(&first("c")), ExitStatus::Code(0));
}

#[test]
fn descriptors_behind_the_standard_ones_are_pipes_sockets_and_null_in_their_places() {
    if !containers_work_here("preserved descriptors") {
        return;
    }
    let mut agent = Running::start();
    // What is read from 3 goes to 4, what the socket says comes back; nothing else is open.
    let script = "ls /proc/self/fd | wc -w; cat <&3 >&4; read word <&5; echo got $word >&5; \
        exec 5>&-; cat <&6; readlink /proc/$$/fd/6";
    let mut spec = container(&agent.root("c"), &["sh", "-c", script]);
    spec.process.stdio = Stdio::Pipes { stdin: false, stdout: true, stderr: false };
    use Preserved::{Input, Null, Output, Socket};
    spec.process.preserved = vec![Input, Output, Socket, Null];
    spec.process.user.who = Who::Ids { uid: 1000, gid: 1000 };
    let mut out = agent.attach(&first("c"), Stream::Stdout);
    let [mut three, mut four, mut five] =
        [0, 1, 2].map(|number| agent.attach(&first("c"), Stream::Preserved(number)));
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    three.write_all(b"through").unwrap();
    three.shutdown(Shutdown::Write).unwrap();
    let mut through = String::new();
    five.write_all(b"a word\n").unwrap();
    let mut answer = String::new();
    five.read_to_string(&mut answer).unwrap();
    four.read_to_string(&mut through).unwrap();
    assert_eq!((through.as_str(), answer.as_str()), ("through", "got a word\n"));
    let mut said = String::new();
    out.read_to_string(&mut said).unwrap();
    // Seven, and the one that `ls` has opened.
    assert_eq!(said, "8\n/dev/null\n");
    assert_eq!(agent.host.wait(&first("c")), ExitStatus::Code(0));
}

#[test]
fn streams_may_come_before_or_after_the_call_that_needs_them() {
    if !containers_work_here("streams in any order") {
        return;
    }
    let mut agent = Running::start();
    let spec = container(&agent.root("c"), &["echo", "hi"]);
    let early = agent.attach(&first("c"), Stream::Stderr);
    let call = agent.host.ask(create("c", spec));
    assert!(!agent.host.has_answered(call));
    let late = agent.attach(&first("c"), Stream::Stdout);
    assert!(matches!(agent.host.answer(call), Ok(Reply::Created { .. })));
    agent.host.call(start("c")).unwrap();
    assert_eq!((text(late), text(early)), ("hi\n".into(), String::new()));
}

#[test]
fn an_exit_is_told_only_after_the_host_has_taken_all_the_output() {
    if !containers_work_here("slow readers") {
        return;
    }
    let mut agent = Running::start();
    let spec = container(&agent.root("c"), &["dd", "if=/dev/zero", "bs=1024", "count=4096"]);
    let (out, err) =
        (agent.attach(&first("c"), Stream::Stdout), agent.attach(&first("c"), Stream::Stderr));
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    let call = agent.host.ask(wait(&first("c")));
    let early = agent.host.ask(Request::Wait { process: first("c"), early: true });
    assert!(!agent.host.has_answered(call));
    assert_eq!(text(out).len(), 4 << 20);
    drop(err);
    let exited = Ok(Reply::Exited { status: ExitStatus::Code(0) });
    assert_eq!(agent.host.answer(early), exited);
    assert_eq!(agent.host.answer(call), exited);
}

#[test]
fn that_a_process_has_ended_is_told_early_to_who_does_not_wait_for_its_output() {
    if !containers_work_here("early ends") {
        return;
    }
    let mut agent = Running::start();
    let spec = container(&agent.root("c"), &["yes"]);
    let (mut out, _err) =
        (agent.attach(&first("c"), Stream::Stdout), agent.attach(&first("c"), Stream::Stderr));
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    // It writes faster than we read: from now on something is always on its way.
    out.read_exact(&mut vec![0; 4 << 20]).unwrap();
    let call = agent.host.ask(wait(&first("c")));
    let early = agent.host.ask(Request::Wait { process: first("c"), early: true });
    agent.host.call(Request::Signal { process: first("c"), signal: 9, all: false }).unwrap();
    let exited = Ok(Reply::Exited { status: ExitStatus::Signal(9) });
    assert_eq!(agent.host.answer(early), exited);
    drop(out);
    assert_eq!(agent.host.answer(call), exited);
}

#[test]
fn a_reader_that_goes_away_is_a_broken_pipe_to_the_writer() {
    if !containers_work_here("broken pipes") {
        return;
    }
    let mut agent = Running::start();
    let spec = container(&agent.root("c"), &["sh", "-c", "yes; echo $? >&2"]);
    let mut out = agent.attach(&first("c"), Stream::Stdout);
    let err = agent.attach(&first("c"), Stream::Stderr);
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    out.read_exact(&mut [0; 100]).unwrap();
    drop(out);
    assert_eq!(text(err), "141\n", "128 and SIGPIPE");
}

#[test]
fn a_stream_that_comes_too_late_is_closed_and_not_forgotten() {
    if !containers_work_here("late streams") {
        return;
    }
    let mut agent = Running::start();
    let mut spec = container(&agent.root("c"), &["sleep", "1000"]);
    spec.process.stdio = NO_STREAMS;
    agent.host.call(create("c", spec)).unwrap();
    assert_eq!(text(agent.attach(&first("c"), Stream::Stdout)), "");
}

#[test]
fn a_terminal_has_its_size_its_echo_and_its_interrupt_key() {
    if !containers_work_here("terminals") {
        return;
    }
    let mut agent = Running::start();
    let script = "stty size; tty; read line; echo got $line; trap 'echo int; stty size; exit 3' INT; \
        echo ready; read forever";
    let mut spec = container(&agent.root("c"), &["sh", "-c", script]);
    spec.process.stdio = Stdio::Terminal { size: TerminalSize { rows: 25, columns: 90 } };
    spec.process.user.who = Who::Ids { uid: 1000, gid: 1000 };
    let mut terminal = agent.attach(&first("c"), Stream::Terminal);
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    terminal.write_all(b"word\n").unwrap();
    let mut said = String::new();
    let mut until = |terminal: &mut UnixStream, end: &str| {
        while !said.contains(end) {
            let mut bytes = [0; 256];
            let length = terminal.read(&mut bytes).unwrap();
            assert_ne!(length, 0, "{said:?}");
            said.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
        }
        said.clone()
    };
    let said = until(&mut terminal, "ready");
    for part in ["25 90\r\n", "/dev/pts/0\r\n", "word\r\n", "got word\r\n"] {
        assert!(said.contains(part), "{part:?} in {said:?}");
    }
    let size = TerminalSize { rows: 30, columns: 100 };
    agent.host.call(Request::Resize { process: first("c"), size }).unwrap();
    terminal.write_all(b"\x03").unwrap();
    until(&mut terminal, "int\r\n30 100\r\n");
    assert_eq!(agent.host.wait(&first("c")), ExitStatus::Code(3));
    assert_eq!(terminal.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_terminal_that_goes_away_hangs_its_processes_up() {
    if !containers_work_here("hang-ups") {
        return;
    }
    let mut agent = Running::start();
    let mut spec = container(&agent.root("c"), &["sh", "-c", "trap 'exit 9' HUP; yes"]);
    spec.process.stdio = Stdio::Terminal { size: TerminalSize { rows: 1, columns: 1 } };
    let mut terminal = agent.attach(&first("c"), Stream::Terminal);
    agent.host.call(create("c", spec)).unwrap();
    agent.host.call(start("c")).unwrap();
    terminal.read_exact(&mut [0; 10]).unwrap();
    drop(terminal);
    assert_eq!(agent.host.wait(&first("c")), ExitStatus::Code(9));
}

#[test]
fn streams_of_somebody_who_is_gone_are_not_kept_for_a_call_that_never_comes() {
    if !containers_work_here("abandoned streams") {
        return;
    }
    let mut agent = Running::start();
    let before = agent.belongings();
    for number in 0..10 {
        let session = agent.session();
        for stream in [Stream::Stdin, Stream::Stdout, Stream::Stderr] {
            drop(agent.attach(&first(&number.to_string()), stream));
        }
        drop(session);
    }
    agent.host.call(wait(&first("nobody"))).unwrap_err();
    // Whoever ends a session clears away what was left until then.
    drop(agent.session());
    agent.host.call(wait(&first("nobody"))).unwrap_err();
    assert_eq!(agent.belongings(), before);
}
