//! Standard streams of a bundle's container as engines have them: pipes that nobody reads, or slowly, or
//! that are closed. The exit status survives them all.

use std::io::{PipeReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;

use rustix::io::{FdFlags, fcntl_setfd};
use tests::{Bundle, House, Noise, when_it_soaks};

crate::stories![
    what_nobody_reads_does_not_keep_an_exit_status_back,
    a_process_that_nobody_reads_can_be_killed_and_its_status_is_known,
    a_reader_that_is_slow_gets_every_byte_and_the_status,
    a_process_whose_streams_are_all_closed_runs_and_has_a_status,
    a_reader_that_leaves_does_not_take_the_status_along,
    everything_comes_back_that_goes_through_a_container,
    descriptors_of_the_caller_are_the_containers,
    descriptors_of_the_caller_are_an_execs,
    a_socket_that_systemd_hands_over_is_the_containers,
];

/// A container that was created with a pipe for its output, and the end to read from.
fn created(house: &House, bundle: &Bundle) -> PipeReader {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut create = house.command(["create", "--bundle", bundle.path().to_str().unwrap(), "box"]);
    create.stdout(writer).stderr(Stdio::null());
    assert!(create.status().unwrap().success());
    house.call(["start", "box"]).expect_code(0);
    reader
}

/// The container has ended, which is no matter of its streams, with this code.
#[track_caller]
fn ends_with(house: &House, code: &str) {
    assert_eq!(house.call(["wait", "box"]).expect_code(0).text().trim(), code);
    assert_eq!(house.status("box"), "stopped");
    house.call(["delete", "box"]).expect_code(0);
}

fn what_nobody_reads_does_not_keep_an_exit_status_back() {
    let bundle = Bundle::new(&["sh", "-c", "dd if=/dev/zero bs=1024 count=60 2>/dev/null; exit 5"]);
    let house = House::new();
    let mut reader = created(&house, &bundle);
    ends_with(&house, "5");
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 60 << 10);
    house.expect_cleared("box");
}

fn a_process_that_nobody_reads_can_be_killed_and_its_status_is_known() {
    let script = "i=0; while dd if=/dev/zero bs=4096 count=1 2>/dev/null; do i=$((i+1)); \
                  [ $i = 40 ] && echo much > /much; done";
    let bundle = Bundle::new(&["sh", "-c", script]);
    let house = House::new();
    let mut reader = created(&house, &bundle);
    // More than the pipe holds: what is between it and us is full, and some of it is on its way.
    bundle.wait_for("much");
    house.call(["kill", "box", "KILL"]).expect_code(0);
    ends_with(&house, "137");
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert!(all.len() >= 40 * 4096, "{}", all.len());
    house.expect_cleared("box");
}

fn a_reader_that_is_slow_gets_every_byte_and_the_status() {
    let bundle = Bundle::new(&["sh", "-c", "seq 1 60000; exit 6"]);
    let house = House::new();
    let mut reader = created(&house, &bundle);
    let (mut all, mut byte) = (Vec::new(), [0]);
    while reader.read(&mut byte).unwrap() == 1 {
        all.extend(byte);
        if all.len() % 4096 == 0 {
            thread::yield_now();
        }
    }
    let expected: String = (1..=60_000).map(|number| format!("{number}\n")).collect();
    assert!(all == expected.as_bytes(), "{} bytes", all.len());
    ends_with(&house, "6");
    house.expect_cleared("box");
}

fn a_process_whose_streams_are_all_closed_runs_and_has_a_status() {
    let script = "cat; echo out; echo err >&2; ls -l /proc/self/fd > /open; exit 7";
    let bundle = Bundle::new(&["sh", "-c", script]);
    let house = House::new();
    let mut create = house.command(["create", "--bundle", bundle.path().to_str().unwrap(), "box"]);
    // SAFETY: three system calls between fork and exec, and no memory is touched.
    unsafe {
        create.pre_exec(|| {
            for number in 0..3 {
                nix::unistd::close(number)?;
            }
            Ok(())
        });
    }
    assert!(create.status().unwrap().success());
    house.call(["start", "box"]).expect_code(0);
    ends_with(&house, "7");
    house.expect_cleared("box");
}

fn a_reader_that_leaves_does_not_take_the_status_along() {
    let script = "while echo and on; do :; done 2>/dev/null; exit 8";
    let bundle = Bundle::new(&["sh", "-c", &format!("trap '' PIPE; {script}")]);
    let house = House::new();
    let mut reader = created(&house, &bundle);
    reader.read_exact(&mut [0; 100]).unwrap();
    drop(reader);
    ends_with(&house, "8");
    house.expect_cleared("box");
}

/// 1 GiB when it soaks, through standard input into a container and out of it again.
fn everything_comes_back_that_goes_through_a_container() {
    let bytes = when_it_soaks(1 << 30, 64 << 20);
    let bundle = Bundle::new(&["sh", "-c", "cat; exit 9"]);
    let house = House::new();
    let mut run: Command =
        house.command(["run", "--bundle", bundle.path().to_str().unwrap(), "box"]);
    let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (run.stdin.take().unwrap(), run.stdout.take().unwrap());
    let writer = thread::spawn(move || {
        let mut noise = Noise::default();
        let mut piece = [0; 64 << 10];
        for _ in 0..bytes / piece.len() {
            noise.fill(&mut piece);
            stdin.write_all(&piece).unwrap();
        }
    });
    let (mut noise, mut expected, mut piece) =
        (Noise::default(), vec![0; 64 << 10], vec![0; 64 << 10]);
    for number in 0..bytes / piece.len() {
        noise.fill(&mut expected);
        stdout.read_exact(&mut piece).unwrap();
        assert!(piece == expected, "other bytes in piece {number} of 64 KiB");
    }
    assert_eq!(stdout.read(&mut piece).unwrap(), 0, "more came back than went in");
    writer.join().unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(9));
    house.expect_cleared("box");
}

/// The same command, with more descriptors as a shell redirects them.
fn redirected(command: &Command, redirections: &str) -> Command {
    let mut shell = Command::new("sh");
    // As systemd does it, which knows whom it hands sockets to (sd_listen_fds(3)).
    shell.arg("-c").arg(format!("LISTEN_PID=$$ exec \"$0\" \"$@\" {redirections}"));
    shell.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    shell
}

fn descriptors_of_the_caller_are_the_containers() {
    let bundle = Bundle::new(&["sh", "-c", "cat <&3 >&4; echo $(readlink /proc/self/fd/5) >&4"]);
    let house = House::new();
    let (input, output) = (bundle.path().join("in"), bundle.path().join("out"));
    std::fs::write(&input, "what was written\n").unwrap();
    let directory = bundle.path().to_str().unwrap();
    let words = ["create", "--bundle", directory, "--preserve-fds", "3", "box"];
    let redirections = format!("3<'{}' 4>'{}' 5</dev/null", input.display(), output.display());
    let mut create = redirected(&house.command(words), &redirections);
    // What is seen of them later is the container's: the caller has gone.
    assert!(create.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    house.call(["start", "box"]).expect_code(0);
    ends_with(&house, "0");
    let said = std::fs::read_to_string(&output).unwrap();
    assert_eq!(said, "what was written\n/dev/null\n");
    house.expect_cleared("box");
}

fn descriptors_of_the_caller_are_an_execs() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    let house = House::new();
    house.create(&bundle, "box");
    house.call(["start", "box"]).expect_code(0);
    let exec = |words: &[&str], redirections: &str| {
        let words = [&["exec", "--preserve-fds", "1", "box"], words].concat();
        tests::Outcome::of(&mut redirected(&house.command(words), redirections))
    };
    // The other end of a pipe, and a second name of our own standard output.
    assert_eq!(exec(&["cat", "/proc/self/fd/3"], "3</etc/hostname").expect_code(0).text(), {
        std::fs::read_to_string("/etc/hostname").unwrap()
    });
    assert_eq!(exec(&["sh", "-c", "echo hi >&3"], "3>&1").expect_code(0).text(), "hi\n");
    let refused = exec(&["true"], "3</").expect_code(255);
    assert!(refused.stderr.contains("descriptor 3 is a directory"), "{}", refused.stderr);
    let refused = exec(&["true"], "3<&-").expect_code(255);
    assert!(refused.stderr.contains("descriptor 3 is not open"), "{}", refused.stderr);
    house.call(["delete", "--force", "box"]).expect_code(0);
    house.expect_cleared("box");
}

fn a_socket_that_systemd_hands_over_is_the_containers() {
    let bundle =
        Bundle::new(&["sh", "-c", "read line <&3; echo $line $LISTEN_FDS $LISTEN_PID $$ >&3"]);
    let house = House::new();
    let directory = bundle.path().to_str().unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    fcntl_setfd(&theirs, FdFlags::empty()).unwrap();
    let create = |redirections: &str| {
        let mut create = house.command(["create", "--bundle", directory, "box"]);
        create.env("LISTEN_FDS", "1");
        redirected(&create, redirections)
    };
    let refused = tests::Outcome::of(&mut create("3</")).expect_code(1);
    assert!(
        refused.stderr.contains("LISTEN_FDS: descriptor 3 is a directory"),
        "{}",
        refused.stderr
    );
    let mut create = create(&format!("3<&{}", theirs.as_raw_fd()));
    assert!(create.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    drop(theirs);
    house.call(["start", "box"]).expect_code(0);
    ours.write_all(b"hello\n").unwrap();
    let mut said = String::new();
    ours.read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello 1 1 1\n");
    ends_with(&house, "0");
    house.expect_cleared("box");
}
