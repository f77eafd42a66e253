//! What the two sides say to each other, without any container.

mod guest;

use std::io::{Read, Write};

use guest::{Running, exec, first, process};
use proto::frame;
use proto::message::{Adoption, FaultKind, Hello, Reply, Request};
use proto::network::Network;

/// What is read until the agent closes, without its hello.
fn rest(mut socket: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    // An agent that closes a connection with unread bytes on it resets it.
    let _ = socket.read_to_end(&mut bytes);
    let hello = 4 + frame::length(*bytes.first_chunk().unwrap()).unwrap();
    bytes.split_off(hello)
}

#[test]
fn the_agent_says_who_it_is_before_it_is_asked() {
    let mut agent = Running::start();
    let hello = agent.host.hello();
    assert_eq!((hello.version, hello.agent_started_ns), (proto::VERSION, Some(1)));
    assert_eq!(agent.session().hello(), hello);
}

#[test]
fn a_host_of_another_version_reads_the_agents_and_is_left_alone() {
    let agent = Running::start();
    let mut socket = agent.dial_session();
    let hello = Hello { version: proto::VERSION + 1, name: "later".into(), agent_started_ns: None };
    socket.write_all(&frame::encode(&hello).unwrap()).unwrap();
    assert_eq!(rest(&socket), b"");
    assert_eq!(agent.session().hello().version, proto::VERSION);
}

#[test]
fn bytes_that_are_no_frame_end_their_session_and_no_other() {
    let agent = Running::start();
    for nonsense in [&b"\xff\xff\xff\xff"[..], b"\x02\0\0\0{}", b"\x03\0\0\0abc"] {
        let mut socket = agent.dial_session();
        socket.write_all(nonsense).unwrap();
        assert_eq!(rest(&socket), b"", "{nonsense:?}");
    }
    assert_eq!(agent.session().hello().version, proto::VERSION);
}

#[test]
fn a_stream_of_another_version_is_closed() {
    let agent = Running::start();
    let mut socket = agent.dial_stdio();
    socket.write_all(b"\x02\0\0\0{}").unwrap();
    assert_eq!(socket.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn calls_for_what_does_not_exist_are_answered_by_its_name() {
    let mut agent = Running::start();
    let requests = [
        Request::Start { container: "web".into() },
        Request::Wait { process: first("web"), early: false },
        Request::Signal { process: first("web"), signal: 9, all: true },
        Request::Exec { process: exec("web", "x"), spec: Box::new(process(&["true"])) },
    ];
    for request in requests {
        let fault = agent.host.call(request).unwrap_err();
        assert_eq!(fault.kind, FaultKind::NoSuchProcess);
        assert_eq!(fault.message, "container web does not exist");
    }
}

#[test]
fn the_agent_ends_with_its_first_session_and_not_with_another() {
    let agent = Running::start();
    drop(agent.session());
    assert_eq!(agent.session().hello().version, proto::VERSION);
    // `Stop::HostGone`, as an exit code.
    assert_eq!(agent.end(), (agent::Stop::HostGone as i32) << 8);
}

#[test]
fn powering_off_is_answered_before_it_is_done() {
    let mut agent = Running::start();
    agent.host.call(Request::PowerOff).unwrap();
    let status = agent.end();
    assert_eq!(status, (agent::Stop::PowerOff as i32) << 8);
}

#[test]
fn a_guest_that_was_saved_does_nothing_before_somebody_has_adopted_it_wholly() {
    let mut agent = Running::start();
    let adopt = |wall_clock_ns| {
        Request::Adopt(Adoption {
            seed: [7; 32],
            wall_clock_ns,
            disk_sectors: vec![],
            network: Network::default(),
        })
    };
    let ask = || Request::Processes { container: "web".into() };
    assert_eq!(agent.host.call(Request::Settle).unwrap(), Reply::Done);
    let mut later = agent.session();
    let nobody = "the guest was saved, and nobody has adopted it";
    for host in [&mut agent.host, &mut later] {
        assert_eq!(host.call(ask()).unwrap_err().message, nobody);
    }
    assert_eq!(agent.host.call(adopt(0)).unwrap_err().message, "clock: invalid argument");
    assert_eq!(agent.host.call(ask()).unwrap_err().message, nobody);
    assert_eq!(agent.host.call(adopt(1)).unwrap(), Reply::Done);
    for host in [&mut agent.host, &mut later] {
        assert_eq!(host.call(ask()).unwrap_err().message, "container web does not exist");
    }
    // One that was its own already is nobody's after it could not be made so again.
    agent.host.call(adopt(0)).unwrap_err();
    assert_eq!(agent.host.call(ask()).unwrap_err().message, nobody);
}
