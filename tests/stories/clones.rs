//! A start is a restore: what two copies of one machine must not have in common, and what becomes of the
//! machine they are copies of.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use tests::{House, when_it_soaks};

crate::stories![
    two_clones_have_no_random_number_layout_or_name_in_common,
    starts_at_once_make_one_template_and_no_two_are_alike,
    a_clone_knows_what_time_it_is,
    a_clone_has_its_own_disk_and_its_own_files_of_the_host,
    a_damaged_template_is_made_again_and_never_used,
    templates_are_built_listed_inspected_and_removed,
    a_start_that_wants_no_template_makes_none,
];

/// What a machine could have from its template, a line each: its random numbers three times, the places of
/// stack, vDSO and a mapping in two new processes, and its name.
const TELL: &str = "for i in 1 2 3; do cat /proc/sys/kernel/random/uuid; done;
    cat /proc/sys/kernel/random/boot_id;
    head -c 16 /dev/urandom | od -An -tx1;
    for i in 1 2; do awk '/stack|vdso/ { print $1 }' /proc/self/maps; done;
    hostname";

/// What is done to a file of a template.
type Spoil<'a> = &'a dyn Fn(&File);

/// Everything that a clone told.
fn told(text: &str) -> BTreeSet<String> {
    text.lines().map(|line| line.trim().to_owned()).collect()
}

#[track_caller]
fn have_nothing_in_common(tales: &[String]) {
    let mut seen = BTreeSet::new();
    for tale in tales {
        let told = told(tale);
        assert!(told.len() >= 8, "{tale}");
        let again: Vec<_> = seen.intersection(&told).collect();
        assert!(again.is_empty(), "{again:?} in more than one of {tales:#?}");
        seen.extend(told);
    }
}

fn templates(house: &House) -> Vec<String> {
    let list = house.call(["template", "ls", "--quiet"]).expect_code(0);
    list.text().lines().map(str::to_owned).collect()
}

fn file_of_template(house: &House, file: &str) -> PathBuf {
    let [name] = &templates(house)[..] else { panic!("not one template") };
    house.state().join(".templates").join(name).join(file)
}

fn two_clones_have_no_random_number_layout_or_name_in_common() {
    let house = House::without_templates();
    let tales = [(); 2].map(|()| house.script(TELL).expect_code(0).text());
    have_nothing_in_common(&tales);
    assert_eq!(templates(&house).len(), 1);
    house.expect_nothing_left();
}

fn starts_at_once_make_one_template_and_no_two_are_alike() {
    let house = House::without_templates();
    // That KVM works is found out by one alone: many at once are too slow to believe it.
    house.call(["--no-template", "run", "--rm", "demo", "true"]).expect_code(0);
    assert!(templates(&house).is_empty());
    let run = ["run", "--rm", "--memory", "128m", "demo", "sh", "-c", TELL];
    let under_way: Vec<_> = (0..when_it_soaks(100, 8)).map(|_| house.start(run)).collect();
    let tales: Vec<_> =
        under_way.into_iter().map(|run| run.finish().expect_code(0).text()).collect();
    have_nothing_in_common(&tales);
    assert_eq!(templates(&house).len(), 1);
    house.expect_nothing_left();
}

fn a_clone_knows_what_time_it_is() {
    let house = House::without_templates();
    house.script("true").expect_code(0);
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let before = now();
    let said: u64 = house.script("date +%s").expect_code(0).text().trim().parse().unwrap();
    assert!((before..=now()).contains(&said), "{before} <= {said} <= {}", now());
}

fn a_clone_has_its_own_disk_and_its_own_files_of_the_host() {
    let house = House::without_templates();
    let shared = tempfile::Builder::new().prefix("story-").tempdir().unwrap();
    let volume = format!("{}:/mnt", shared.path().display());
    let script = "grep -c . /etc/passwd; echo \"$0\" > /mnt/who; touch /only-here; ls /mnt";
    for who in ["first", "second"] {
        let run = ["run", "--rm", "-v", &volume, "demo", "sh", "-c", script, who];
        let outcome = house.call(run).expect_code(0).text();
        assert!(outcome.ends_with("who\n"), "{outcome}");
        assert_eq!(fs::read_to_string(shared.path().join("who")).unwrap().trim(), who);
        house.script("test ! -e /only-here && test ! -e /mnt/who").expect_code(0);
    }
    house.expect_nothing_left();
}

fn a_damaged_template_is_made_again_and_never_used() {
    let house = House::without_templates();
    house.script("true").expect_code(0);
    let flip = |file: &File| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, 100).unwrap();
        file.write_all_at(&[!byte[0]], 100).unwrap();
    };
    let spoils: [(&str, Spoil<'_>); 6] = [
        ("state", &flip),
        ("state", &|file| file.set_len(50).unwrap()),
        ("memory", &|file| file.set_len(1 << 20).unwrap()),
        ("working-set", &flip),
        ("working-set", &|file| file.set_len(0).unwrap()),
        ("about.json", &|file| file.set_len(0).unwrap()),
    ];
    for (name, spoil) in spoils {
        let path = file_of_template(&house, name);
        spoil(&File::options().read(true).write(true).open(&path).unwrap());
        let spoilt = fs::read(&path).unwrap();
        house.script("echo well").expect_code(0);
        assert_ne!(fs::read(file_of_template(&house, name)).unwrap(), spoilt, "{name}");
    }
    house.expect_nothing_left();
}

fn templates_are_built_listed_inspected_and_removed() {
    let house = House::without_templates();
    let build = ["template", "build", "--memory", "96m", "--cpus", "2"];
    let name = house.call(build).expect_code(0).text().trim().to_owned();
    let made = fs::metadata(file_of_template(&house, "memory")).unwrap().modified().unwrap();
    assert_eq!(house.call(build).expect_code(0).text().trim(), name);
    let run = ["run", "--rm", "--memory", "96m", "--cpus", "2", "demo", "nproc"];
    assert_eq!(house.call(run).expect_code(0).text(), "2\n");
    let used = fs::metadata(file_of_template(&house, "memory")).unwrap().modified().unwrap();
    assert_eq!((templates(&house), made), (vec![name.clone()], used));
    let list = house.call(["template", "ls"]).expect_code(0).text();
    assert!(list.contains(&name) && list.contains("96 MiB"), "{list}");
    let about = house.call(["template", "inspect", &name]).expect_code(0).text();
    assert!(about.contains("\"ram_bytes\": 100663296"), "{about}");
    house.call(["template", "rm", &name]).expect_code(0);
    assert!(templates(&house).is_empty());
    for word in [&name, "../demo", "nothing"] {
        house.call(["template", "rm", word]).expect_refusal(word);
    }
    house.expect_nothing_left();
}

fn a_start_that_wants_no_template_makes_none() {
    let house = House::without_templates();
    house.call(["--no-template", "run", "--rm", "demo", "true"]).expect_code(0);
    assert!(templates(&house).is_empty());
    house.expect_nothing_left();
}
