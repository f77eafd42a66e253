//! What can be said about a container's mounts.

mod guest;

use guest::{NO_STREAMS, Running, container, containers_work_here, create};
use proto::message::FaultKind;
use proto::spec::Mount;

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.into(),
        kind: (!kind.is_empty()).then(|| kind.into()),
        source: Some(source.into()),
        options: options.iter().map(|option| option.to_string()).collect(),
        ..Mount::default()
    }
}

#[test]
fn every_kind_of_option_changes_the_mount_it_stands_at() {
    if !containers_work_here("mount options") {
        return;
    }
    let mut agent = Running::start();
    let root = agent.root("c");
    let tree = agent.root("tree");
    std::fs::create_dir(tree.join("below")).unwrap();
    let tree = tree.to_str().unwrap().to_owned();
    let script = "grep -E ' /t[0-9]' /proc/self/mountinfo | cut -d' ' -f5-";
    let mut spec = container(&root, &["sh", "-c", script]);
    spec.mounts.extend([
        mount("/t1", "tmpfs", "one", &["noexec,nodev,nosuid,noatime,nodiratime,nosymfollow,sync"]),
        mount(
            "/t2",
            "tmpfs",
            "two",
            &["strictatime", "lazytime", "mand", "silent", "iversion", "ro"],
        ),
        mount("/t3", "", &tree, &["rbind", "rro", "rnosuid", "rnodev", "rnoexec", "rnoatime"]),
        mount("/t3", "", "", &["remount", "nosymfollow"]),
        mount("/t4", "tmpfs", "four", &["shared", "dirsync", "async"]),
        mount("/t5", "", &tree, &["bind", "unbindable", "ro", "exec", "mode=755", "size=1k"]),
    ]);
    let (_, out, err) = agent.run("c", spec);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines.len(), 5, "{out}{err}");
    let says = |line: usize, words: &[&str]| {
        for word in words {
            assert!(lines[line].contains(word), "{word} in {}", lines[line]);
        }
    };
    says(0, &["/t1 rw,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow", "one", "sync"]);
    says(1, &["/t2 ro - ", "two", "lazytime"]);
    says(2, &["/t3 ro,nosuid,nodev,noexec,noatime,nosymfollow"]);
    says(3, &["/t4 rw,relatime shared:", "four", "dirsync"]);
    says(4, &["/t5 ro,relatime unbindable"]);
}

#[test]
fn options_that_mean_nothing_or_are_not_supported_are_refused_by_name() {
    if !containers_work_here("refused mount options") {
        return;
    }
    let mut agent = Running::start();
    let mut spec = container(&agent.root("c"), &["true"]);
    spec.process.stdio = NO_STREAMS;
    let usual = spec.mounts.clone();
    let mut refusal = |mount: Mount| {
        spec.mounts = [usual.clone(), vec![mount]].concat();
        let fault = agent.host.call(create("c", spec.clone())).unwrap_err();
        assert_eq!(fault.kind, FaultKind::InvalidSpec, "{fault}");
        fault.message
    };
    assert_eq!(
        refusal(mount("/x", "", "/tmp", &["bind", "ridmap"])),
        "mounts: /x: options: ridmap is not supported"
    );
    assert_eq!(
        refusal(mount("/dev", "", "", &["remount", "size=5"])),
        "mounts: /dev: options: size means nothing there"
    );
    assert_eq!(
        refusal(mount("/x", "", "/tmp", &["bind", "tmpcopyup"])),
        "mounts: /x: options: tmpcopyup means nothing there"
    );
    spec.mounts = usual;
    spec.root_propagation = Some("rsometimes".into());
    let fault = agent.host.call(create("c", spec)).unwrap_err();
    assert_eq!(fault.message, "linux.rootfsPropagation: \"rsometimes\" is no propagation");
}

#[test]
fn proc_is_not_mounted_where_a_link_of_the_image_points() {
    if !containers_work_here("a link at /proc") {
        return;
    }
    let mut agent = Running::start();
    let root = agent.root("c");
    let _ = std::fs::remove_dir(root.join("proc"));
    std::os::unix::fs::symlink("/elsewhere", root.join("proc")).unwrap();
    std::fs::create_dir(root.join("elsewhere")).unwrap();
    let mut spec = container(&root, &["true"]);
    spec.process.stdio = NO_STREAMS;
    spec.mounts = vec![mount("/proc", "proc", "proc", &[])];
    let fault = agent.host.call(create("c", spec)).unwrap_err();
    assert_eq!(fault.message, "mounts: /proc: proc must be mounted on ordinary directory");
}

#[test]
fn what_an_image_has_is_copied_into_a_tmpfs_that_asks_for_it() {
    if !containers_work_here("tmpcopyup") {
        return;
    }
    let mut agent = Running::start();
    let root = agent.root("c");
    let inner = root.join("data/in");
    std::fs::create_dir_all(&inner).unwrap();
    std::fs::write(inner.join("file"), "old\n").unwrap();
    std::os::unix::fs::symlink("/nowhere", root.join("data/link")).unwrap();
    let mode = |path: &std::path::Path, mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(path, mode).unwrap();
    };
    std::os::unix::fs::chown(inner.join("file"), Some(7), Some(8)).unwrap();
    mode(&inner.join("file"), 0o4751);
    mode(&inner, 0o711);
    mode(&root.join("data"), 0o1770);
    std::fs::create_dir(root.join("plain")).unwrap();
    mode(&root.join("plain"), 0o751);
    let script = "cd /data; stat -c '%n %a %u:%g' . in in/file; readlink link; cat in/file; \
        echo new > in/file; stat -c %a /plain /absent; ls /plain";
    let mut spec = container(&root, &["sh", "-c", script]);
    std::fs::write(root.join("plain/hidden"), "").unwrap();
    spec.mounts.extend([
        mount("/data", "tmpfs", "tmpfs", &["tmpcopyup", "rprivate", "nosuid", "nodev"]),
        mount("/plain", "tmpfs", "tmpfs", &[]),
        mount("/absent", "tmpfs", "tmpfs", &[]),
    ]);
    let (_, out, err) = agent.run("c", spec);
    assert_eq!(err, "");
    let expected = ". 1770 0:0\nin 711 0:0\nin/file 4751 7:8\n/nowhere\nold\n751\n1777\n";
    assert_eq!(out, expected);
    assert_eq!(std::fs::read_to_string(inner.join("file")).unwrap(), "old\n");
}

#[test]
fn the_root_passes_on_what_is_mounted_as_it_is_told_to() {
    if !containers_work_here("root propagation") {
        return;
    }
    let mut agent = Running::start();
    let root = agent.root("c");
    let propagation = |agent: &mut Running, word: Option<&str>| {
        let script = "grep -E ' (/|/x) rw' /proc/self/mountinfo | cut -d' ' -f5,7";
        let mut spec = container(&root, &["sh", "-c", script]);
        spec.mounts.push(mount("/x", "tmpfs", "x", &["rw", "private"]));
        spec.root_propagation = word.map(String::from);
        let (_, out, err) = agent.run("c", spec);
        assert_eq!(err, "");
        // The numbers of groups are the kernel's affair.
        out.lines().map(|line| line.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(propagation(&mut agent, None), ["/ -", "/x -"]);
    assert_eq!(propagation(&mut agent, Some("shared")), ["/ shared", "/x -"]);
    assert_eq!(propagation(&mut agent, Some("rshared")), ["/ shared", "/x -"]);
    assert_eq!(propagation(&mut agent, Some("unbindable")), ["/ unbindable", "/x -"]);
    assert_eq!(propagation(&mut agent, Some("rslave")), ["/ -", "/x -"]);
}

#[test]
fn file_systems_of_every_kind_are_mounted_with_options_of_their_own() {
    if !containers_work_here("file systems") {
        return;
    }
    let mut agent = Running::start();
    let root = agent.root("c");
    for (layer, file) in [("lower", "low"), ("upper", "up")] {
        let layer = agent.root_of("c").join(layer);
        std::fs::create_dir(&layer).unwrap();
        std::fs::write(layer.join(file), "").unwrap();
    }
    std::fs::create_dir(root.join("work")).unwrap();
    let base = root.to_str().unwrap().to_owned();
    let layers = [
        format!("lowerdir={base}/lower"),
        format!("upperdir={base}/upper"),
        format!("workdir={base}/work"),
    ];
    let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
    let mut spec = container(
        &root,
        &[
            "sh",
            "-c",
            "ls /over; ls -d /proc/1 /cg/cgroup.procs /cg2/cgroup.procs; \
            grep -oE '^proc /proc .*hidepid=[a-z]+|^devpts .*gid=5' /proc/mounts | grep -oE '[^,]*$'",
        ],
    );
    spec.mounts[0].options.push("hidepid=invisible".into());
    spec.mounts.extend([
        mount("/over", "overlay", "overlay", &layers),
        mount("/cg", "cgroup", "cgroup", &["ro"]),
        mount("/cg2", "cgroup2", "cgroup2", &["ro", "nosuid"]),
        mount("/mq", "mqueue", "mqueue", &[]),
    ]);
    let (_, out, err) = agent.run("c", spec);
    assert_eq!(
        out, "low\nup\n/cg/cgroup.procs\n/cg2/cgroup.procs\n/proc/1\nhidepid=invisible\ngid=5\n",
        "{err}"
    );
}
