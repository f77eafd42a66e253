use super::*;

/// What the kernel's machine makes of the program.
fn run(program: &[u64], kind: i32, major: u32, minor: u32, accesses: i32) -> bool {
    let context = [(accesses as u32) << 16 | kind as u32, major, minor];
    let mut registers = [0_u32; 6];
    let mut at = 0;
    loop {
        let word = program[at];
        let (code, to, from) =
            (word & 0xff, (word >> 8 & 0xf) as usize, (word >> 12 & 0xf) as usize);
        let (offset, value) = ((word >> 16) as u16 as i16, (word >> 32) as u32);
        let mut takes = false;
        match code {
            0x61 => registers[to] = context[offset as usize / 4],
            0xbc => registers[to] = registers[from],
            0xb4 => registers[to] = value,
            0x54 => registers[to] &= value,
            0x74 => registers[to] >>= value,
            0x05 => takes = true,
            0x56 => takes = registers[to] != value,
            0x46 => takes = registers[to] & value != 0,
            0x95 => return registers[0] == 1,
            code => panic!("{code:#x} at {at}"),
        }
        at = at.checked_add_signed(1 + if takes { isize::from(offset) } else { 0 }).unwrap();
    }
}

fn rules(json: &str) -> Vec<LinuxDeviceCgroup> {
    serde_json::from_str(json).unwrap()
}

#[test]
fn a_container_without_rules_has_what_every_container_has() {
    let program = compile(&[]).unwrap();
    for minor in [3, 5, 7, 8, 9] {
        assert!(run(&program, CHARACTER, 1, minor, READ | WRITE), "{minor}");
    }
    assert!(run(&program, CHARACTER, 136, 77, READ | WRITE));
    assert!(run(&program, BLOCK, 254, 0, MAKE));
    assert!(!run(&program, BLOCK, 254, 0, MAKE | READ));
    assert!(!run(&program, BLOCK, 1, 3, READ), "a disk has the numbers of /dev/null");
    assert!(!run(&program, CHARACTER, 10, 229, READ));
}

#[test]
fn for_each_access_the_last_rule_that_matches_counts() {
    let program = compile(&rules(
        r#"[{"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "access": "rw"},
            {"allow": false, "type": "c", "major": 10, "minor": 200, "access": "w"},
            {"allow": true, "type": "b", "major": 8, "minor": -1, "access": "r"}]"#,
    ))
    .unwrap();
    assert!(run(&program, CHARACTER, 10, 229, READ | WRITE));
    assert!(run(&program, CHARACTER, 10, 200, READ));
    assert!(!run(&program, CHARACTER, 10, 200, READ | WRITE));
    assert!(run(&program, BLOCK, 8, 5, READ | MAKE));
    assert!(!run(&program, BLOCK, 8, 5, WRITE));
    assert!(!run(&program, CHARACTER, 8, 5, READ));
}

#[test]
fn a_rule_about_everything_ends_what_stood_before_it() {
    let json = r#"[{"allow": false, "type": "c", "major": 10, "access": "rwm"},
                   {"allow": true, "type": "a"}]"#;
    let program = compile(&rules(json)).unwrap();
    assert!(run(&program, CHARACTER, 10, 229, ALL));
    assert!(run(&program, BLOCK, 254, 0, ALL));
    let nothing = compile(&rules(r#"[{"allow": true, "type": "a"}, {"allow": false}]"#)).unwrap();
    assert!(!run(&nothing, BLOCK, 254, 0, READ));
}

#[test]
fn rules_that_mean_nothing_are_refused_by_field() {
    let refusal = |json: &str| compile(&rules(json)).unwrap_err().to_string();
    assert_eq!(
        refusal(r#"[{"allow": true, "type": "c", "minor": -7}]"#),
        "linux.resources.devices[0].minor: -7 is no number of a device"
    );
    assert_eq!(
        refusal(r#"[{"allow": true, "type": "b", "access": "rx"}]"#),
        "linux.resources.devices[0].access: \"rx\" is not made of r, w and m"
    );
    assert_eq!(
        refusal(r#"[{"allow": true, "type": "p"}]"#),
        "linux.resources.devices[0].type: \"p\" is no kind of a device"
    );
}
