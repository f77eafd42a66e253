//! What goes in and comes out arrives, whole and in the right place.

use std::io::Write;

use tests::{House, Noise};

crate::stories![
    hello_comes_from_another_kernel_as_root,
    output_written_just_before_exit_arrives_whole,
    sixty_four_mebibytes_pass_through_cat_unchanged,
    stdout_and_stderr_stay_apart,
    stdin_is_empty_without_i,
    a_reader_who_leaves_ends_the_writer,
    output_of_a_background_process_is_not_lost,
    bytes_that_are_not_text_arrive_as_they_are,
];

fn hello_comes_from_another_kernel_as_root() {
    let house = House::new();
    let here = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let outcome = house.script("echo hello from $(uname -r); id").expect_code(0);
    let text = outcome.text();
    assert!(text.starts_with("hello from 6.12."), "{text}");
    assert!(!text.contains(here.trim()), "that is this machine's own kernel: {text}");
    assert!(text.contains("uid=0(root) gid=0(root)"), "{text}");
    assert_eq!(outcome.stderr, "");
    house.expect_nothing_left();
}

fn output_written_just_before_exit_arrives_whole() {
    let house = House::new();
    let outcome = house.script("head -c 1048576 /dev/zero | tr '\\0' x; exit 7").expect_code(7);
    assert_eq!(outcome.stdout.len(), 1 << 20);
    assert!(outcome.stdout.iter().all(|&byte| byte == b'x'));
    house.expect_nothing_left();
}

fn sixty_four_mebibytes_pass_through_cat_unchanged() {
    const BYTES: usize = 64 << 20;
    let house = House::new();
    let cat = house.start(["run", "--rm", "-i", "demo", "cat"]);
    let outcome = cat.finish_with(|stdin| stdin.write_all(&noise(BYTES)).unwrap()).expect_code(0);
    assert_eq!(outcome.stdout.len(), BYTES);
    assert!(outcome.stdout == noise(BYTES), "64 MiB came back changed");
    house.expect_nothing_left();
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    Noise::default().fill(&mut noise);
    noise
}

fn stdout_and_stderr_stay_apart() {
    let house = House::new();
    let outcome = house.script("echo out; echo err >&2").expect_code(0);
    assert_eq!((outcome.text().as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
}

fn stdin_is_empty_without_i() {
    let house = House::new();
    let cat = house.start(["run", "--rm", "demo", "cat"]);
    let outcome = cat.finish_with(|stdin| {
        // Nobody reads it: the pipe may be closed already, which is fine.
        let _ = stdin.write_all(b"not for the container");
    });
    assert_eq!(outcome.expect_code(0).text(), "");
}

fn a_reader_who_leaves_ends_the_writer() {
    let house = House::new();
    let mut yes = house.start(["run", "--rm", "demo", "yes"]);
    yes.read_until("y\ny\n");
    yes.close_stdout();
    // Killed by SIGPIPE in the container, or the tool noticed the broken pipe itself.
    let code = yes.finish().code;
    assert!(code == 141 || code == 1 || code == 125, "{code}");
    house.expect_nothing_left();
}

fn output_of_a_background_process_is_not_lost() {
    let house = House::new();
    let outcome = house.script("(echo from the background) & wait; echo last").expect_code(0);
    assert_eq!(outcome.text(), "from the background\nlast\n");
}

fn bytes_that_are_not_text_arrive_as_they_are() {
    let house = House::new();
    let outcome = house.script("printf '\\377\\000\\r\\n\\200'").expect_code(0);
    assert_eq!(outcome.stdout, b"\xff\0\r\n\x80");
}
