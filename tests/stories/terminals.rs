//! A person at a terminal.

use tests::{House, Terminal};

crate::stories![
    a_terminal_is_one_inside_and_has_its_size,
    a_resized_window_is_resized_inside,
    ctrl_c_interrupts_the_program_inside_and_not_us,
    the_terminal_is_left_as_it_was_found,
    ctrl_d_ends_a_shell,
    exec_has_a_terminal_too,
];

fn shell_in_a_terminal(house: &House, rows: u16, columns: u16) -> Terminal {
    Terminal::start(house.command(["run", "--rm", "-it", "demo", "sh"]), rows, columns)
}

fn a_terminal_is_one_inside_and_has_its_size() {
    let house = House::new();
    let mut terminal = shell_in_a_terminal(&house, 33, 77);
    terminal.write("test -t 0 -a -t 1 -a -t 2 && stty size; tty; echo d''one\n");
    let shown = terminal.read_until("done\r\n");
    assert!(shown.contains("33 77\r\n"), "{shown}");
    assert!(shown.contains("/dev/"), "{shown}");
    terminal.write("exit 3\n");
    assert_eq!(terminal.finish().code, 3);
    house.expect_nothing_left();
}

fn a_resized_window_is_resized_inside() {
    let house = House::new();
    // One without job control: all it starts stays in the foreground with it, and hears what it hears.
    let script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.1; done";
    let command = house.command(["run", "--rm", "-it", "demo", "sh", "-c", script]);
    let mut terminal = Terminal::start(command, 24, 80);
    terminal.read_until("ready\r\n");
    terminal.resize(50, 132);
    terminal.read_until("50 132\r\n");
    assert_eq!(terminal.finish().code, 0);
}

fn ctrl_c_interrupts_the_program_inside_and_not_us() {
    let house = House::new();
    let mut terminal = shell_in_a_terminal(&house, 24, 80);
    // Said by the job itself: it is in the foreground then.
    terminal.write("sh -c 'echo re\"\"ady; exec sleep 1000'; echo code $''?\n");
    terminal.read_until("ready\r\n");
    terminal.write("\x03");
    terminal.write("echo st''ill here\n");
    terminal.read_until("still here\r\n");
    terminal.write("exit 0\n");
    assert_eq!(terminal.finish().code, 0);
    house.expect_nothing_left();
}

fn the_terminal_is_left_as_it_was_found() {
    let house = House::new();
    for ending in ["exit 0", "exit 1", "kill -9 $$"] {
        let command =
            house.command(["run", "--rm", "-it", "demo", "sh", "-c", &format!("{ending}; exit 0")]);
        let mut terminal = Terminal::start(command, 24, 80);
        let before = terminal.mode();
        terminal.wait();
        assert_eq!(terminal.mode(), before, "after {ending}");
    }
    let missing = house.command(["run", "--rm", "-it", "demo", "no-such-program"]);
    let mut terminal = Terminal::start(missing, 24, 80);
    let before = terminal.mode();
    assert_eq!(terminal.wait(), 127);
    assert_eq!(terminal.mode(), before, "after a program that is not there");
}

fn ctrl_d_ends_a_shell() {
    let house = House::new();
    let mut terminal = shell_in_a_terminal(&house, 24, 80);
    terminal.write("echo re''ady\n");
    terminal.read_until("ready\r\n");
    // Typed before the prompt is there it would be lost, as on any terminal: the shell changes its mode.
    terminal.read_until("# ");
    terminal.write("\x04");
    assert_eq!(terminal.finish().code, 0);
}

fn exec_has_a_terminal_too() {
    let house = House::new();
    house.call(["run", "-d", "--name", "box", "demo", "sleep", "1000"]).expect_code(0);
    let mut terminal = Terminal::start(house.command(["exec", "-it", "box", "sh"]), 20, 60);
    terminal.write("stty size; tty; exit 6\n");
    terminal.read_until("20 60\r\n");
    terminal.read_until("/dev/pts/");
    assert_eq!(terminal.finish().code, 6);
    house.call(["rm", "-f", "box"]).expect_code(0);
    house.expect_nothing_left();
}
