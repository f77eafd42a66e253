use std::path::Path;

use super::*;

fn host() -> Host {
    Host {
        memory_bytes: 4 << 30,
        terminal: TerminalSize { rows: 50, columns: 132 },
        stdin_is_terminal: true,
        environment: BTreeMap::from([("LANG".to_owned(), "C.UTF-8".to_owned())]),
        id: Id::from_bits([0xab; 32]),
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn run(words_behind_run: &[&str]) -> Wishes {
    Wishes { image_and_command: words(words_behind_run), ..Wishes::default() }
}

fn planned(wishes: &Wishes) -> Plan {
    container(&image::Config::default(), wishes, &host()).unwrap()
}

fn refused(wishes: &Wishes) -> String {
    container(&image::Config::default(), wishes, &host()).unwrap_err().to_string()
}

#[test]
fn what_runs_follows_dockers_rules_of_entrypoint_and_command() {
    type Words = &'static [&'static str];
    // The image's entrypoint and command, --entrypoint, the command given → what runs.
    let rules: [(Words, Words, Option<&str>, Words, Words); 8] = [
        (&[], &["sh"], None, &[], &["sh"]),
        (&[], &["sh"], None, &["ls", "-l"], &["ls", "-l"]),
        (&["/init"], &["--serve"], None, &[], &["/init", "--serve"]),
        (&["/init"], &["--serve"], None, &["--help"], &["/init", "--help"]),
        (&["/init"], &["--serve"], Some("sh"), &[], &["sh"]),
        (&["/init"], &["--serve"], Some("sh"), &["-c", "x"], &["sh", "-c", "x"]),
        (&["/init"], &["--serve"], Some(""), &["ls"], &["ls"]),
        (&[], &[], None, &["ls"], &["ls"]),
    ];
    for (image_entrypoint, image_command, entrypoint, command, runs) in rules {
        let image = image::Config {
            entrypoint: words(image_entrypoint),
            command: words(image_command),
            ..image::Config::default()
        };
        let wishes = Wishes {
            entrypoint: entrypoint.map(str::to_owned),
            ..run(&[&["demo"], command].concat())
        };
        let plan = container(&image, &wishes, &host()).unwrap();
        assert_eq!(plan.container.process.args, words(runs), "{wishes:?}");
    }
}

#[test]
fn nothing_to_run_is_refused_with_the_images_name() {
    assert_eq!(refused(&run(&["demo"])), "no command given, and demo has none");
    let reset = Wishes { entrypoint: Some(String::new()), ..run(&["demo"]) };
    let image = image::Config { command: words(&["sh"]), ..image::Config::default() };
    assert!(matches!(container(&image, &reset, &host()), Err(PlanError::NoCommand { .. })));
    assert_eq!(refused(&run(&[])), "no image given (and no --rootfs)");
}

#[test]
fn with_a_directory_as_root_every_word_is_the_command() {
    let wishes = Wishes { rootfs: Some(PathBuf::from("/srv/root")), ..run(&["/bin/sh", "-l"]) };
    let plan = planned(&wishes);
    assert_eq!(plan.container.process.args, words(&["/bin/sh", "-l"]));
    assert_eq!(plan.container.root, Root::Share { name: plan.shares[0].name.clone() });
    assert_eq!(plan.shares[0].path, Path::new("/srv/root"));
}

#[test]
fn what_is_written_over_an_image_goes_to_memory_or_to_the_second_disk() {
    let upper = |storage: Option<&str>| {
        let storage = storage.map(str::to_owned);
        planned(&Wishes { storage, read_only: true, ..run(&["demo", "sh"]) })
    };
    let usual = upper(None);
    let half = Some(USUAL_RAM_BYTES / 2);
    let root = Root::Disk { index: 0, upper_bytes: half, upper_disk: None };
    assert_eq!((usual.container.root, usual.storage), (root, None));
    let disk = upper(Some("size=1g"));
    let root = Root::Disk { index: 0, upper_bytes: None, upper_disk: Some(1) };
    assert_eq!(disk.container.root, root);
    assert_eq!(disk.storage.map(|storage| storage.bytes), Some(1 << 30));
    assert!(disk.container.readonly);
    let rootfs = Some(PathBuf::from("/srv/root"));
    let both = Wishes { storage: Some("size=1g".to_owned()), rootfs, ..run(&["sh"]) };
    assert!(refused(&both).starts_with("--storage is for images"));
}

#[test]
fn a_volume_is_a_share_and_a_mount_of_it() {
    let volumes = words(&["/srv/data:/data", "/etc/hosts:/etc/hosts:ro"]);
    let plan = planned(&Wishes { volumes, ..run(&["demo", "sh"]) });
    let usual = defaults::mounts().len();
    let ends = &plan.container.mounts[usual..usual + 2];
    for ((shared, mount), (path, destination, read_only)) in plan
        .shares
        .iter()
        .zip(ends)
        .zip([("/srv/data", "/data", false), ("/etc/hosts", "/etc/hosts", true)])
    {
        assert_eq!(
            (shared.path.as_path(), shared.holds),
            (Path::new(path), Holds::read_only_if(read_only))
        );
        assert_eq!(mount.destination, Path::new(destination));
        assert_eq!(mount.share.as_ref(), Some(&shared.name));
    }
}

fn destinations(plan: &Plan) -> Vec<&str> {
    let usual = defaults::mounts().len();
    let mounts = plan.container.mounts[usual..].iter().filter(|mount| mount.content.is_none());
    mounts.map(|mount| mount.destination.to_str().unwrap()).collect()
}

#[test]
fn what_is_mounted_in_something_else_comes_behind_it_whatever_the_order() {
    let wishes = Wishes {
        volumes: words(&["/srv:/data/a/b", "/srv:/data"]),
        mounts: words(&["type=tmpfs,dst=/data/a"]),
        tmpfs: words(&["/other/a", "/b"]),
        ..run(&["demo", "sh"])
    };
    let plan = planned(&wishes);
    assert_eq!(destinations(&plan), ["/data", "/b", "/data/a", "/other/a", "/data/a/b"]);
}

#[test]
fn two_mounts_at_one_place_are_refused_and_a_usual_one_is_replaced() {
    let at = |volumes: &[&str], tmpfs: &[&str]| Wishes {
        volumes: words(volumes),
        tmpfs: words(tmpfs),
        ..run(&["demo", "sh"])
    };
    assert_eq!(refused(&at(&["/a:/data", "/b:/data/"], &[])), "two mounts at /data");
    assert_eq!(refused(&at(&["/a:/data"], &["/x/../data"])), "two mounts at /data");
    let of = |wishes: &Wishes, place: &str| {
        let mounts = planned(wishes).container.mounts.into_iter();
        mounts.filter(|mount| mount.destination == Path::new(place)).collect::<Vec<_>>()
    };
    let shm = of(&at(&[], &["/dev/shm:size=1g"]), "/dev/shm");
    assert_eq!(shm.len(), 1);
    assert!(shm[0].options.contains(&"size=1g".to_owned()));
    let dev = at(&["/dev:/dev"], &[]);
    assert_eq!(of(&dev, "/dev").len(), 1);
    assert_eq!(of(&dev, "/dev/pts").len(), 0);
}

#[test]
fn a_container_finds_its_name_and_localhost_unless_somebody_has_brought_others() {
    let files = |wishes: &Wishes| {
        let mounts = planned(wishes).container.mounts.into_iter();
        let files = mounts.filter_map(|mount| Some((mount.destination, mount.content?)));
        files.collect::<BTreeMap<_, _>>()
    };
    let named = Wishes { hostname: Some("box".into()), ..run(&["demo", "sh"]) };
    let hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\tbox\n";
    let (at, name) = (PathBuf::from("/etc/hosts"), PathBuf::from("/etc/hostname"));
    let both = BTreeMap::from([(at, hosts.to_owned()), (name.clone(), "box\n".to_owned())]);
    assert_eq!(files(&named), both);
    // On a network others make `/etc/hosts`.
    let on_network = Wishes { network: Some("town".into()), ..named.clone() };
    let name_alone = |wishes: &Wishes| files(wishes).into_keys().eq([name.clone()]);
    assert!(name_alone(&on_network));
    let brought = Wishes { volumes: words(&["/x:/etc/hosts"]), ..named.clone() };
    assert!(name_alone(&brought));
    assert!(files(&Wishes { volumes: words(&["/x:/etc"]), ..named.clone() }).is_empty());
    assert!(files(&Wishes { rootfs: Some("/srv/root".into()), ..named }).is_empty());
}

#[test]
fn an_images_volumes_are_the_containers_own_unless_somebody_has_another_wish() {
    let image = image::Config {
        command: words(&["sh"]),
        volumes: words(&["/var/lib/data", "var/log/"]),
        ..image::Config::default()
    };
    let wishes = Wishes { volumes: words(&["logs:/var/log", "/new"]), ..run(&["demo"]) };
    let plan = container(&image, &wishes, &host()).unwrap();
    let volumes: Vec<_> = plan.volumes.iter().map(|v| (v.name.as_ref(), v.anonymous)).collect();
    let id = "ab".repeat(32);
    let own = |number| format!("{id}-{number}");
    assert_eq!(volumes, [(&own(0)[..], true), ("logs", false), (&own(2), true)]);
    assert_eq!(destinations(&plan), ["/new", "/var/log", "/var/lib/data"]);
    let mounts = plan.container.mounts.iter().filter(|mount| mount.share.is_some());
    assert!(mounts.clone().all(|mount| mount.copies_up) && mounts.count() == 3);

    let many = (0..65).map(|number| format!("/v{number}")).collect();
    let image = image::Config { volumes: many, ..image };
    let refused = container(&image, &wishes, &host()).unwrap_err().to_string();
    assert_eq!(refused, "the image has 65 volumes, over the limit of 64");
    let image = image::Config { volumes: words(&["/a/.."]), ..image };
    let refused = container(&image, &wishes, &host()).unwrap_err().to_string();
    assert_eq!(refused, "the image's volume \"/a/..\": the destination is the root");
}

#[test]
fn a_limit_is_bytes_with_or_without_a_unit_or_none() {
    let read = |word| super::limit_bytes(word).map_err(|error| error.to_string());
    assert_eq!(read("-1"), Ok(-1));
    assert_eq!(read("33554432"), Ok(32 << 20));
    assert_eq!(read("50M"), Ok(50 << 20));
    assert_eq!(read("-2"), Err("\"-2\" is no number of bytes, as 512m is one".into()));
}

#[test]
fn memory_is_read_as_docker_reads_it_and_kept_within_the_machine() {
    for (word, mebibytes) in [
        ("64m", 64),
        ("65M", 66), // in steps of 2 MiB
        ("1g", 1024),
        ("1.5g", 1536),
        ("1GiB", 1024),
        ("131072k", 128),
        ("134217728", 128),
        ("4g", 4096),
    ] {
        let wishes = Wishes { memory: Some(word.to_owned()), ..run(&["demo", "true"]) };
        assert_eq!(planned(&wishes).ram_bytes, mebibytes << 20, "{word}");
    }
    assert_eq!(planned(&run(&["demo", "true"])).ram_bytes, 512 << 20);
    for (word, complaint) in [
        ("1m", "less than the least a VM needs, 64m"),
        ("0", "less than the least"),
        ("1t", "more than this machine has, 4096m"),
        ("99999999999999999999999t", "more than this machine has"),
        ("-5m", "not a size"),
        ("lots", "not a size"),
        ("", "not a size"),
        ("m", "not a size"),
        ("1e9", "not a size"),
        ("inf", "not a size"),
        ("1..5g", "not a size"),
    ] {
        let said = refused(&Wishes { memory: Some(word.to_owned()), ..run(&["demo", "true"]) });
        assert!(said.starts_with("--memory") && said.contains(complaint), "{word}: {said}");
    }
}

#[test]
fn cpus_are_whole_and_from_1_to_32() {
    for (word, vcpus) in [("1", 1), ("32", 32), ("0.5", 1), ("1.5", 2), ("31.1", 32)] {
        let wishes = Wishes { cpus: Some(word.to_owned()), ..run(&["demo", "true"]) };
        assert_eq!(planned(&wishes).vcpus, vcpus, "{word}");
    }
    assert_eq!(planned(&run(&["demo", "true"])).vcpus, 1);
    for word in ["0", "-1", "33", "32.1", "1000", "many", "", "nan", "inf"] {
        let said = refused(&Wishes { cpus: Some(word.to_owned()), ..run(&["demo", "true"]) });
        assert_eq!(said, format!("--cpus {word:?} is not a number from 1 to 32"));
    }
}

#[test]
fn a_container_without_a_name_goes_by_the_beginning_of_its_id() {
    let plan = planned(&run(&["demo", "true"]));
    assert_eq!(plan.name.as_ref(), "abababababab");
    assert_eq!(plan.container.hostname.as_deref(), Some("abababababab"));
    let wishes = Wishes {
        name: Some("web".to_owned()),
        hostname: Some("www.example".to_owned()),
        ..run(&["demo", "true"])
    };
    let plan = planned(&wishes);
    assert_eq!(plan.name.as_ref(), "web");
    assert_eq!(plan.container.hostname.as_deref(), Some("www.example"));
    for name in ["", "../x", "a/b"] {
        let said = refused(&Wishes { name: Some(name.to_owned()), ..run(&["demo", "true"]) });
        assert!(said.contains("not a container name"), "{said}");
    }
    for name in ["", "-x", "a..b", "a b", &"a".repeat(65)] {
        let said = refused(&Wishes { hostname: Some(name.to_owned()), ..run(&["demo", "true"]) });
        assert!(said.contains("not a host name"), "{said}");
    }
}

#[test]
fn the_environment_is_ours_then_the_images_then_the_callers() {
    let image = image::Config {
        env: words(&["PATH=/opt/bin", "A=image", "B=image", "rubbish", "=x"]),
        ..image::Config::default()
    };
    let mut wishes = run(&["demo", "true"]);
    wishes.process.env = words(&["B=caller", "C=1=2", "LANG", "NOT_SET_HERE", "EMPTY="]);
    let plan = container(&image, &wishes, &host()).unwrap();
    assert_eq!(
        plan.container.process.env,
        words(&[
            "PATH=/opt/bin",
            "HOSTNAME=abababababab",
            "container=microvm",
            "A=image",
            "B=caller",
            "C=1=2",
            "LANG=C.UTF-8",
            "EMPTY=",
        ])
    );
    wishes.process.env = words(&["=x"]);
    assert_eq!(refused(&wishes), "--env \"=x\" has no name");
}

#[test]
fn a_variable_is_not_replaced_by_one_whose_name_begins_like_it() {
    let mut wishes = run(&["demo", "true"]);
    wishes.process.env = words(&["PATHS=1", "PA=2"]);
    let env = planned(&wishes).container.process.env;
    assert!(env[0].starts_with("PATH=/usr/local/sbin"), "{env:?}");
    assert!(env.contains(&"PATHS=1".to_owned()) && env.contains(&"PA=2".to_owned()), "{env:?}");
}

#[test]
fn the_streams_are_those_that_were_asked_for() {
    let size = TerminalSize { rows: 50, columns: 132 };
    let pipes = |stdin| Stdio::Pipes { stdin, stdout: true, stderr: true };
    for (interactive, tty, detach, on_terminal, expected) in [
        (false, false, false, true, Some(pipes(false))),
        (true, false, false, false, Some(pipes(true))),
        (true, true, false, true, Some(Stdio::Terminal { size })),
        (false, true, false, false, Some(Stdio::Terminal { size })),
        (true, true, true, false, Some(Stdio::Terminal { size })),
        (true, true, false, false, None),
    ] {
        let mut wishes = Wishes { detach, ..run(&["demo", "true"]) };
        wishes.process = ProcessWishes { interactive, tty, ..ProcessWishes::default() };
        let host = Host { stdin_is_terminal: on_terminal, ..host() };
        match (container(&image::Config::default(), &wishes, &host), expected) {
            (Ok(plan), Some(expected)) => {
                assert_eq!(plan.container.process.stdio, expected, "{wishes:?}");
                let told = plan.container.process.env.contains(&"TERM=xterm".to_owned());
                assert_eq!(told, tty, "{wishes:?}");
            }
            (planned, expected) => {
                assert_eq!(planned.err(), Some(PlanError::NoTerminal), "{expected:?}")
            }
        }
    }
}

#[test]
fn the_user_and_directory_are_the_callers_or_the_images_or_root_in_the_root() {
    let image = image::Config {
        user: Some("app:app".to_owned()),
        working_dir: Some("srv".to_owned()),
        ..image::Config::default()
    };
    let name = |name: &str| Who::Name { name: name.to_owned() };
    let plain = run(&["demo", "true"]);
    let mut asked = plain.clone();
    asked.process.user = Some("1000:100".to_owned());
    asked.process.workdir = Some("/etc".to_owned());
    for (image, wishes, who, cwd) in [
        (&image, &plain, name("app:app"), "/srv"),
        (&image, &asked, name("1000:100"), "/etc"),
        (&image::Config::default(), &plain, Who::Ids { uid: 0, gid: 0 }, "/"),
    ] {
        let process = container(image, wishes, &host()).unwrap().container.process;
        assert_eq!((process.user.who, process.cwd.as_path()), (who, Path::new(cwd)));
    }
    asked.process.workdir = Some("etc".to_owned());
    assert_eq!(refused(&asked), "--workdir \"etc\" is not an absolute path");
}

#[test]
fn root_in_a_container_is_not_root_of_its_kernel() {
    let container = planned(&run(&["demo", "true"])).container;
    let kept = &container.process.capabilities.bounding;
    assert_eq!(kept.len(), 13);
    for never in ["CAP_MKNOD", "CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_NET_ADMIN"]
    {
        assert!(!kept.contains(&never.to_owned()), "{never}");
    }
    assert!(container.process.capabilities.ambient.is_empty());
    assert!(container.masked_paths.contains(&PathBuf::from("/proc/kcore")));
    assert!(container.readonly_paths.contains(&PathBuf::from("/proc/sysrq-trigger")));
    let sys = container.mounts.iter().find(|mount| mount.destination == Path::new("/sys")).unwrap();
    assert!(sys.options.contains(&"ro".to_owned()));
}

#[test]
fn an_image_that_smuggles_a_zero_byte_is_refused_by_its_field() {
    let smuggled = |config: image::Config| {
        container(&config, &run(&["demo"]), &host()).unwrap_err().to_string()
    };
    let base = image::Config { command: words(&["sh"]), ..image::Config::default() };
    for (config, field) in [
        (image::Config { command: words(&["s\0h"]), ..base.clone() }, "Cmd or Entrypoint"),
        (image::Config { env: words(&["A=\0"]), ..base.clone() }, "Env"),
        (image::Config { user: Some("\0".to_owned()), ..base.clone() }, "User"),
        (image::Config { working_dir: Some("\0".to_owned()), ..base.clone() }, "WorkingDir"),
    ] {
        assert_eq!(smuggled(config), format!("the image's {field} contains a zero byte"));
    }
}

#[test]
fn an_added_process_takes_after_the_first_where_nothing_else_was_asked() {
    let mut first = run(&["demo", "serve"]);
    first.process.env = words(&["A=1"]);
    first.process.user = Some("app".to_owned());
    first.process.workdir = Some("/srv".to_owned());
    let first = planned(&first).container.process;

    let plain = ProcessWishes::default();
    let added = exec(&first, &plain, &words(&["ls"]), &host()).unwrap();
    assert_eq!(added, Process { args: words(&["ls"]), ..first.clone() });

    let asked = ProcessWishes {
        interactive: true,
        tty: true,
        env: words(&["A=2"]),
        workdir: Some("/tmp".to_owned()),
        user: Some("0".to_owned()),
    };
    let added = exec(&first, &asked, &words(&["sh"]), &host()).unwrap();
    assert!(added.env.contains(&"A=2".to_owned()) && added.env.contains(&"TERM=xterm".to_owned()));
    assert_eq!(added.cwd, Path::new("/tmp"));
    assert_eq!(added.user.who, Who::Name { name: "0".to_owned() });
    assert!(matches!(added.stdio, Stdio::Terminal { .. }));
}

#[test]
fn signals_go_by_name_and_by_number() {
    for (word, number) in
        [("TERM", 15), ("SIGTERM", 15), ("term", 15), ("9", 9), ("USR1", 10), ("64", 64)]
    {
        assert_eq!(signal_number(word), Ok(number), "{word}");
    }
    for word in ["", "0", "65", "-1", "SIGNONE", "SIG"] {
        assert!(signal_number(word).is_err(), "{word}");
    }
}
