use super::*;

/// What the kernel's machine makes of the program.
fn run(seccomp: &Seccomp, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = vec![number, architecture, 0, 0];
    data.extend(arguments.iter().flat_map(|argument| [*argument as u32, (argument >> 32) as u32]));
    let (mut at, mut word) = (0, 0_u32);
    loop {
        let bytes = seccomp.program[at].to_le_bytes();
        let [c0, c1, yes, no, v0, v1, v2, v3] = bytes;
        let value = u32::from_le_bytes([v0, v1, v2, v3]);
        let branch = |takes| usize::from(if takes { yes } else { no });
        at += 1;
        match u16::from_le_bytes([c0, c1]) {
            0x20 => word = data[value as usize / 4],
            0x54 => word &= value,
            0x05 => at += value as usize,
            0x15 => at += branch(word == value),
            0x25 => at += branch(word > value),
            0x35 => at += branch(word >= value),
            0x06 => return value,
            code => panic!("{code:#x} at {at}"),
        }
    }
}

fn compiled(json: &str) -> Seccomp {
    compile(&serde_json::from_str(json).unwrap()).unwrap()
}

fn native(seccomp: &Seccomp, name: &str, arguments: [u64; 6]) -> u32 {
    run(seccomp, AUDIT_X86_64, Table::X86_64.find(name)[0].number, arguments)
}

const NONE: [u64; 6] = [0; 6];

#[test]
fn every_action_is_what_the_kernel_knows_it_as() {
    let cases = [
        ("SCMP_ACT_KILL", "", 0),
        ("SCMP_ACT_KILL_THREAD", "", 0),
        ("SCMP_ACT_KILL_PROCESS", "", 0x8000_0000),
        ("SCMP_ACT_TRAP", "", 0x0003_0000),
        ("SCMP_ACT_ERRNO", "", 0x0005_0001),
        ("SCMP_ACT_ERRNO", ", \"errnoRet\": 38", 0x0005_0026),
        ("SCMP_ACT_TRACE", ", \"errnoRet\": 7", 0x7ff0_0007),
        ("SCMP_ACT_LOG", "", 0x7ffc_0000),
    ];
    for (action, errno, result) in cases {
        let seccomp = compiled(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{{"names": ["mkdir"], "action": "{action}"{errno}}}]}}"#
        ));
        assert_eq!(native(&seccomp, "mkdir", NONE), result, "{action}");
        assert_eq!(native(&seccomp, "mkdirat", NONE), ALLOW);
    }
    let refused = |json: &str| compile(&serde_json::from_str(json).unwrap()).unwrap_err();
    assert_eq!(
        refused(r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#).to_string(),
        "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY is not supported"
    );
}

#[test]
fn arguments_are_compared_with_all_their_bits() {
    const BIG: u64 = 0x1_0000_0005;
    let near = [0, 4, 5, 6, BIG - 1, BIG, BIG + 1, 0x2_0000_0000, 0x1_ffff_ffff, u64::MAX];
    type Compare = fn(u64, u64) -> bool;
    let operators: [(&str, Compare); 6] = [
        ("NE", |a, b| a != b),
        ("LT", |a, b| a < b),
        ("LE", |a, b| a <= b),
        ("EQ", |a, b| a == b),
        ("GE", |a, b| a >= b),
        ("GT", |a, b| a > b),
    ];
    for (name, compare) in operators {
        for value in [5, BIG] {
            let seccomp = compiled(&format!(
                r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": ["mkdir"],
                "action": "SCMP_ACT_TRAP",
                "args": [{{"index": 5, "value": {value}, "op": "SCMP_CMP_{name}"}}]}}]}}"#
            ));
            for argument in near {
                let expected = if compare(argument, value) { TRAP } else { ALLOW };
                let found = native(&seccomp, "mkdir", [0, 0, 0, 0, 0, argument]);
                assert_eq!(found, expected, "{argument:#x} {name} {value:#x}");
            }
        }
    }
    let seccomp = compiled(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["clone"],
        "action": "SCMP_ACT_TRAP", "args": [{"index": 0, "value": 64424509455,
        "valueTwo": 4294967297, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#,
    );
    // The mask is 0xf_0000_000f, the value 0x1_0000_0001.
    let masked = |argument| native(&seccomp, "clone", [argument, 0, 0, 0, 0, 0]);
    assert_eq!(masked(0x31_0000_0031), TRAP);
    assert_eq!(masked(0x31_0000_0032), ALLOW);
    assert_eq!(masked(0x32_0000_0031), ALLOW);
}

#[test]
fn conditions_of_an_entry_are_all_to_be_met_and_entries_are_alternatives() {
    let seccomp = compiled(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["socket"], "action": "SCMP_ACT_TRAP", "args": [
            {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
            {"index": 1, "value": 2, "op": "SCMP_CMP_GT"}]},
        {"names": ["socket", "bind"], "action": "SCMP_ACT_LOG", "args": [
            {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
        {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"},
            {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
        {"names": ["bind"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    let socket = |domain, kind| native(&seccomp, "socket", [domain, kind, 0, 0, 0, 0]);
    assert_eq!(socket(1, 3), TRAP);
    assert_eq!(socket(1, 2), LOG);
    assert_eq!(socket(2, 3), ERRNO | EPERM);
    assert_eq!(native(&seccomp, "bind", [1, 0, 0, 0, 0, 0]), ALLOW, "it asks for nothing");
    for (persona, result) in [(0, ALLOW), (8, ALLOW), (9, ERRNO | EPERM)] {
        assert_eq!(native(&seccomp, "personality", [persona, 0, 0, 0, 0, 0]), result);
    }
}

#[test]
fn a_table_that_is_not_listed_is_deadly() {
    let of = |architectures: &str| {
        compiled(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "architectures": [{architectures}],
            "syscalls": [{{"names": ["socket", "execve"], "action": "SCMP_ACT_TRAP"}}]}}"#
        ))
    };
    let (alone, all) = (
        of("\"SCMP_ARCH_X86_64\", \"SCMP_ARCH_AARCH64\""),
        of("\"SCMP_ARCH_X86_64\", \"SCMP_ARCH_X86\", \"SCMP_ARCH_X32\""),
    );
    assert_eq!(run(&alone, AUDIT_X86_64, 59, NONE), TRAP);
    assert_eq!(run(&alone, AUDIT_I386, 11, NONE), KILL_THREAD);
    assert_eq!(run(&alone, AUDIT_X86_64, X32_BIT, NONE), KILL_THREAD);
    assert_eq!(run(&alone, AUDIT_X86_64, u32::MAX, NONE), ALLOW, "a tracer skips it");
    assert_eq!(run(&all, AUDIT_I386, 11, NONE), TRAP);
    assert_eq!(run(&all, AUDIT_I386, 4, NONE), ALLOW);
    assert_eq!(run(&all, AUDIT_I386, 102, [1, 0, 0, 0, 0, 0]), TRAP, "socket by socketcall");
    assert_eq!(run(&all, AUDIT_I386, 102, [2, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(run(&all, AUDIT_X86_64, X32_BIT | 520, NONE), TRAP);
    assert_eq!(run(&all, AUDIT_X86_64, X32_BIT | 59, NONE), ALLOW);
    assert_eq!(run(&all, 0xc000_00b7, 59, NONE), KILL_THREAD);
}

#[test]
fn a_call_newer_than_the_profile_does_not_exist() {
    let json = |more: &str| {
        format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO"{more}, "syscalls": [
            {{"names": ["read", "clone3", "not_yet_thought_of"], "action": "SCMP_ACT_ALLOW"}}]}}"#
        )
    };
    let seccomp = compiled(&json(""));
    assert_eq!(native(&seccomp, "read", NONE), ALLOW);
    assert_eq!(native(&seccomp, "write", NONE), ERRNO | EPERM);
    assert_eq!(native(&seccomp, "clone3", NONE), ALLOW);
    assert_eq!(native(&seccomp, "close_range", NONE), ERRNO | ENOSYS);
    let seccomp = compiled(&json(", \"defaultErrnoRet\": 13"));
    assert_eq!(native(&seccomp, "close_range", NONE), ERRNO | 13);
}

/// As many names as the profile of a popular engine has.
fn large(syscalls: &str) -> String {
    let names: Vec<String> = (0..440)
        .filter_map(syscalls::x86_64::Sysno::new)
        .filter(|call| call.id() % 11 != 3)
        .map(|call| format!("\"{}\"", call.name()))
        .collect();
    format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{{"names": [{}], "action": "SCMP_ACT_ALLOW"}}{syscalls}]}}"#,
        names.join(", ")
    )
}

#[test]
fn a_profile_of_hundreds_of_names_is_searched_and_not_walked_through() {
    let seccomp = compiled(&large(""));
    assert!(seccomp.program.len() < 800, "{}", seccomp.program.len());
    assert_eq!(seccomp.flags, 2);
    for call in (0..440).filter_map(syscalls::x86_64::Sysno::new) {
        let expected = if call.id() % 11 == 3 { ERRNO | EPERM } else { ALLOW };
        assert_eq!(native(&seccomp, call.name(), NONE), expected, "{}", call.name());
    }
}

#[test]
fn a_program_the_kernel_would_not_take_is_refused_with_its_length() {
    let one = |n: usize| {
        format!(
            r#", {{"names": ["mremap"], "action": "SCMP_ACT_TRAP", "args": [
            {{"index": 1, "value": {n}, "op": "SCMP_CMP_EQ"}}]}}"#
        )
    };
    let many: String = (0..1500).map(one).collect();
    let refused = compile(&serde_json::from_str(&large(&many)).unwrap()).unwrap_err();
    let SeccompError::TooLong { instructions } = refused else { panic!("{refused}") };
    assert!(instructions > MAX_INSTRUCTIONS, "{instructions}");
}

#[test]
fn the_kernel_takes_the_program_and_does_what_it_says() {
    // getppid is refused, getuid is a matter of nothing; the other end of a fork tells by its status.
    let denied = r#", {"names": ["getsid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18,
        "args": [{"index": 0, "value": 4294967297, "op": "SCMP_CMP_EQ"}]}"#;
    let json = large(denied).replace("\"getsid\", ", "");
    let seccomp = compiled(&json);
    let filters: Vec<nix::libc::sock_filter> = seccomp
        .program
        .iter()
        .map(|number| {
            let [c0, c1, jt, jf, v0, v1, v2, v3] = number.to_le_bytes();
            let (code, k) = (u16::from_le_bytes([c0, c1]), u32::from_le_bytes([v0, v1, v2, v3]));
            nix::libc::sock_filter { code, jt, jf, k }
        })
        .collect();
    let program = nix::libc::sock_fprog {
        len: u16::try_from(filters.len()).unwrap(),
        filter: filters.as_ptr().cast_mut(),
    };
    // SAFETY: the child makes system calls and ends.
    let child = unsafe { nix::libc::fork() };
    if child == 0 {
        let code = in_the_child(&program);
        // SAFETY: never returns.
        unsafe { nix::libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: `status` is a place for one.
    assert_eq!(unsafe { nix::libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!((nix::libc::WIFEXITED(status), nix::libc::WEXITSTATUS(status)), (true, 0));
}

/// Which of the expectations was wrong, 0 for none.
fn in_the_child(program: &nix::libc::sock_fprog) -> i32 {
    // SAFETY: takes plain numbers.
    let given_up = unsafe { nix::libc::prctl(nix::libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: the program and what it points to outlive the call.
    let installed = unsafe {
        nix::libc::syscall(nix::libc::SYS_seccomp, nix::libc::SECCOMP_SET_MODE_FILTER, 0, program)
    };
    if (given_up, installed) != (0, 0) {
        return 1;
    }
    let getsid = |pid: u64| {
        // SAFETY: takes a plain number.
        let result = unsafe { nix::libc::syscall(nix::libc::SYS_getsid, pid) };
        (result, std::io::Error::last_os_error().raw_os_error())
    };
    // By its low half alone 0x1_0000_0001 would be process 1.
    match (getsid(0x1_0000_0001), getsid(1)) {
        ((-1, Some(18)), (-1, Some(1))) => 0,
        _ => 2,
    }
}
