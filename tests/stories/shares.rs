//! A directory of the host as a container's root: what crosses, and what does not.
//!
//! The promise these hold: what the guest has written is the host's when the call returns; what the
//! host has changed in a file is found by who opens it then, all else after a second at the latest.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::XattrFlags;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tests::{House, Outcome, Running};

crate::stories![
    both_sides_see_what_the_other_writes,
    whoever_opens_a_file_finds_what_was_just_written,
    a_file_that_was_read_is_not_read_again_until_it_changes,
    a_program_the_host_has_changed_runs_as_it_is_now,
    a_name_is_gone_a_second_after_the_host_removed_it,
    owner_mode_and_kind_survive,
    links_renames_and_times_survive,
    attributes_survive,
    an_acl_of_the_host_holds_in_the_guest,
    a_shared_mapping_reaches_the_host,
    a_large_file_is_the_same_on_both_sides,
    a_read_only_root_of_the_host_is_not_written_to,
    links_and_dots_do_not_lead_to_the_host,
    volumes_are_written_to_unless_they_are_read_only,
    a_file_that_is_a_volume_shows_no_other,
    a_file_that_is_a_volume_is_read_as_it_is_now,
    a_volume_that_is_not_there_is_named,
    a_killed_file_server_is_an_error_and_no_hang,
    a_killed_vm_takes_the_file_server_along,
    a_killed_supervisor_takes_the_file_server_along,
];

/// A root with a shell, and this program to be the guest half.
struct Root {
    house: House,
    path: PathBuf,
    around: tempfile::TempDir,
}

impl Root {
    fn new() -> Self {
        let house = House::new();
        let around = tempfile::Builder::new().prefix("story-root-").tempdir().unwrap();
        let path = around.path().join("root");
        for directory in ["bin", "tmp", "etc"] {
            fs::create_dir_all(path.join(directory)).unwrap();
        }
        fs::copy("/usr/bin/busybox", path.join("bin/busybox")).unwrap();
        fs::copy(std::env::current_exe().unwrap(), path.join("bin/half")).unwrap();
        for tool in ["cat", "chmod", "chown", "cmp", "ln", "mkdir", "mkfifo", "mv", "rm", "sleep"]
            .iter()
            .chain(&["dd", "ls", "readlink", "sh", "stat", "sync", "tail", "touch", "test"])
        {
            symlink("busybox", path.join("bin").join(tool)).unwrap();
        }
        Self { house, path, around }
    }

    fn arguments<'a>(&'a self, options: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
        let root = ["--rootfs", self.path.to_str().unwrap()];
        [&["run", "--rm"], options, &root, command].concat()
    }

    fn script(&self, script: &str) -> Outcome {
        self.house.call(self.arguments(&[], &["sh", "-c", script]))
    }

    /// A container that runs what is written to it, line by line.
    fn shell(&self) -> Running {
        self.house.start(self.arguments(&["-i"], &["sh"]))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path.join(name)).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path.join(name), text).unwrap();
    }
}

fn both_sides_see_what_the_other_writes() {
    let root = Root::new();
    root.write("etc/motd", "from the host\n");
    let mut shell = root.shell();
    shell.write(b"cat /etc/motd; echo from the guest > /tmp/note; echo done\n");
    assert_eq!(shell.read_until("done\n"), "from the host\ndone\n");
    assert_eq!(root.read("tmp/note"), "from the guest\n");
    root.write("tmp/answer", "a new file\n");
    root.write("etc/motd", "and a longer one than before\n");
    shell.write(b"cat /tmp/answer; cat /etc/motd; stat -c %s /etc/motd; rm /tmp/note; echo done\n");
    let seen = "a new file\nand a longer one than before\n29\ndone\n";
    assert_eq!(shell.read_until("done\n"), seen);
    assert!(!root.path.join("tmp/note").exists());
    shell.finish().expect_code(0);
    root.house.expect_nothing_left();
}

fn whoever_opens_a_file_finds_what_was_just_written() {
    let root = Root::new();
    let (path, other) = (root.path.join("tmp/file"), root.path.join("tmp/other"));
    root.write("tmp/file", "");
    let mut shell = root.shell();
    let mut expect = |text: &str| {
        // Its size and times are believed for a second from here on: whoever opens it asks all the same.
        shell.write(b"cat /tmp/file; stat -c %s /tmp/file; echo done\n");
        assert_eq!(shell.read_until("done\n"), format!("{text}{}\ndone\n", text.len()));
    };
    for round in 0..5 {
        for text in ["short\n", "a longer one\n", "one as long.\n"] {
            let text = format!("{round}{text}");
            fs::write(&path, &text).unwrap();
            expect(&text);
        }
        let text = format!("{round} in its place\n");
        fs::write(&other, &text).unwrap();
        fs::rename(&other, &path).unwrap();
        expect(&text);
        // As long as before and of the same time: only whoever keeps the file knows.
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        let text = text.to_uppercase();
        let file = fs::File::options().write(true).open(&path).unwrap();
        fs::write(&path, &text).unwrap();
        file.set_modified(before).unwrap();
        expect(&text);
    }
    shell.finish().expect_code(0);
}

fn a_file_that_was_read_is_not_read_again_until_it_changes() {
    const LENGTH: usize = 1 << 20;
    let root = Root::new();
    let mut shell = root.shell();
    shell.write(b"echo ready\n");
    shell.read_until("ready\n");
    let server = root.house.process("microvm files");
    let mut read_from_host = |text: &str| {
        let before = bytes_read(server);
        // Another change in the second of the last one could look the same, and would be looked for.
        shell.write(b"sleep 1.1; cat /tmp/file | tail -c 6; echo done\n");
        assert_eq!(shell.read_until("done\n"), format!("{text}\ndone\n"));
        bytes_read(server) - before
    };
    for text in ["first", "later"] {
        root.write("tmp/file", &format!("{}{text}\n", " ".repeat(LENGTH)));
        assert!(read_from_host(text) >= LENGTH);
        assert!(read_from_host(text) < LENGTH / 8);
    }
    shell.finish().expect_code(0);
}

/// What a process has read from files.
fn bytes_read(process: Pid) -> usize {
    let io = fs::read_to_string(format!("/proc/{process}/io")).unwrap();
    let read = io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
    read.parse().unwrap()
}

fn a_program_the_host_has_changed_runs_as_it_is_now() {
    let root = Root::new();
    let path = root.path.join("bin/say");
    root.write("bin/say", "#!/bin/sh\necho first\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let mut shell = root.shell();
    shell.write(b"say; say; echo done\n");
    assert_eq!(shell.read_until("done\n"), "first\nfirst\ndone\n");
    root.write("bin/say", "#!/bin/sh\necho later\n");
    shell.write(b"say; echo done\n");
    assert_eq!(shell.read_until("done\n"), "later\ndone\n");
    shell.finish().expect_code(0);
}

fn a_name_is_gone_a_second_after_the_host_removed_it() {
    let root = Root::new();
    root.write("tmp/old", "x");
    let mut shell = root.shell();
    shell.write(b"test -e /tmp/old && echo done\n");
    shell.read_until("done\n");
    fs::remove_file(root.path.join("tmp/old")).unwrap();
    shell.write(b"sleep 1.1; test -e /tmp/old || echo gone; echo done\n");
    assert_eq!(shell.read_until("done\n"), "gone\ndone\n");
    shell.finish().expect_code(0);
}

fn owner_mode_and_kind_survive() {
    let root = Root::new();
    root.write("etc/given", "");
    std::os::unix::fs::chown(root.path.join("etc/given"), Some(1234), Some(5678)).unwrap();
    let script = "stat -c '%u %g' /etc/given; cd /tmp; mkfifo pipe; mkdir kept; chmod 1777 kept; \
                  touch file; chown 1000:100 file; chmod 4750 file; stat -c '%u %g %a' file";
    assert_eq!(root.script(script).expect_code(0).text(), "1234 5678\n1000 100 4750\n");
    let of = |name: &str| fs::symlink_metadata(root.path.join("tmp").join(name)).unwrap();
    assert_eq!(
        (of("file").uid(), of("file").gid(), of("file").mode() & 0o7777),
        (1000, 100, 0o4750)
    );
    assert_eq!(of("kept").mode() & 0o7777, 0o1777);
    assert_eq!(of("pipe").mode() & 0o17_0000, 0o1_0000);

    // Whoever makes a file owns it, and may do so for any group of his.
    fs::create_dir(root.path.join("shared")).unwrap();
    std::os::unix::fs::chown(root.path.join("shared"), Some(0), Some(7)).unwrap();
    fs::set_permissions(root.path.join("shared"), fs::Permissions::from_mode(0o775)).unwrap();
    let script = "umask 027; echo mine > /shared/mine; touch /etc/not-mine 2>/dev/null || echo no";
    let call = root.arguments(&["-u", "1000:7"], &["sh", "-c", script]);
    assert_eq!(root.house.call(call).expect_code(0).text(), "no\n");
    let mine = fs::metadata(root.path.join("shared/mine")).unwrap();
    assert_eq!((mine.uid(), mine.gid(), mine.mode() & 0o777), (1000, 7, 0o640));
}

fn links_renames_and_times_survive() {
    let root = Root::new();
    root.write("tmp/one", "one");
    let script = "cd /tmp; ln one two; ln -s ../tmp/one three; readlink three; mv one four; \
                  cat two four; stat -c %h two; touch -d @86400 two; mkdir -p a/b; mv a c; rm -r c";
    assert_eq!(root.script(script).expect_code(0).text(), "../tmp/one\noneone2\n");
    let of = |name: &str| fs::symlink_metadata(root.path.join("tmp").join(name)).unwrap();
    assert_eq!((of("two").ino(), of("two").mtime()), (of("four").ino(), 86400));
    assert_eq!(fs::read_link(root.path.join("tmp/three")).unwrap(), PathBuf::from("../tmp/one"));
    assert!(!root.path.join("tmp/one").exists() && !root.path.join("tmp/c").exists());
}

fn attributes_survive() {
    let root = Root::new();
    root.write("tmp/file", "x");
    let path = root.path.join("tmp/file");
    rustix::fs::setxattr(&path, CAPABILITY, &CAPABILITIES[0], XattrFlags::empty()).unwrap();
    root.house.call(root.arguments(&[], &["half", "attributes"])).expect_code(0);
    let mut value = [0; 32];
    let length = rustix::fs::getxattr(&path, CAPABILITY, &mut value).unwrap();
    assert_eq!(value[..length], CAPABILITIES[1]);
}

fn an_acl_of_the_host_holds_in_the_guest() {
    let root = Root::new();
    root.write("etc/secret", "for one user\n");
    // Tag, permissions and id each (`struct posix_acl_xattr_entry`): the owner reads and writes, user
    // 1000 reads, the group and others do nothing.
    let nobody = u32::MAX;
    let entries =
        [(1u16, 6u16, nobody), (2, 4, 1000), (4, 0, nobody), (0x10, 4, nobody), (0x20, 0, nobody)];
    let mut acl = Vec::from(2u32.to_le_bytes());
    for (tag, permissions, id) in entries {
        acl.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    let path = root.path.join("etc/secret");
    rustix::fs::setxattr(&path, "system.posix_acl_access", &acl, XattrFlags::empty()).unwrap();
    let as_user = |user| root.house.call(root.arguments(&["-u", user], &["cat", "/etc/secret"]));
    assert_eq!(as_user("1000").expect_code(0).text(), "for one user\n");
    as_user("1001").expect_code(1);
}

fn a_shared_mapping_reaches_the_host() {
    let root = Root::new();
    root.write("tmp/mapped", &"-".repeat(8192));
    root.house.call(root.arguments(&[], &["half", "mapping"])).expect_code(0);
    let text = root.read("tmp/mapped");
    assert_eq!((&text[..6], &text[8186..]), ("synced", "closed"));
}

fn a_large_file_is_the_same_on_both_sides() {
    let root = Root::new();
    // Nothing in it repeats at a distance of pages or messages.
    let bytes: Vec<u8> =
        (0..700_017u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(root.path.join("tmp/of-host"), &bytes).unwrap();
    root.script("cat /tmp/of-host > /tmp/of-guest; cmp /tmp/of-host /tmp/of-guest").expect_code(0);
    assert!(fs::read(root.path.join("tmp/of-guest")).unwrap() == bytes);
}

fn a_read_only_root_of_the_host_is_not_written_to() {
    let root = Root::new();
    root.write("etc/file", "as it was");
    let script = "echo x > /etc/file; touch /etc/new; rm /etc/file; chmod 777 /etc; cat /etc/file";
    let call = root.arguments(&["--read-only"], &["sh", "-c", script]);
    assert_eq!(root.house.call(call).expect_code(0).text(), "as it was");
    assert_eq!(root.read("etc/file"), "as it was");
    assert!(!root.path.join("etc/new").exists());
}

fn links_and_dots_do_not_lead_to_the_host() {
    let root = Root::new();
    root.write("etc/passwd", "the container's own\n");
    symlink("/etc/passwd", root.path.join("tmp/absolute")).unwrap();
    symlink("../../../../../../../../etc/passwd", root.path.join("tmp/upwards")).unwrap();
    symlink("/proc/1/root/etc/passwd", root.path.join("tmp/root")).unwrap();
    fs::write(root.around.path().join("beside"), "the host's").unwrap();
    let script = "cat /tmp/absolute /tmp/upwards /tmp/root /../../etc/passwd; \
                  cat /../beside /tmp/../../beside 2>/dev/null || echo nothing beside";
    let text = root.script(script).expect_code(0).text();
    assert_eq!(text, "the container's own\n".repeat(4) + "nothing beside\n");
}

fn volumes_are_written_to_unless_they_are_read_only() {
    let root = Root::new();
    let (house, path) = (&root.house, root.path.display());
    let [written, read] = [format!("{path}/tmp:/data"), format!("{path}/etc:/etc/of host:ro")];
    root.write("etc/motd", "from the host\n");
    let script = "cat '/etc/of host/motd'; echo mine > /data/mine; echo x > '/etc/of host/motd'; \
                  mount -o remount,rw '/etc/of host'; rm '/etc/of host/motd'; exit 0";
    let args = ["run", "--rm", "-v", &written, "-v", &read, "demo", "sh", "-c", script];
    assert_eq!(house.call(args).expect_code(0).text(), "from the host\n");
    assert_eq!(
        (root.read("tmp/mine"), root.read("etc/motd")),
        ("mine\n".into(), "from the host\n".into())
    );
    house.expect_nothing_left();
}

fn a_file_that_is_a_volume_shows_no_other() {
    let root = Root::new();
    root.write("etc/one", "one\n");
    root.write("etc/other", "other\n");
    let volume = format!("{}/etc/one:/etc/one", root.path.display());
    let script = "cat /etc/one; echo changed > /etc/one; ls -a /etc | grep -c other; \
                  cd /etc && cat one/../other 2>/dev/null || echo only one";
    let args = ["run", "--rm", "-v", &volume, "demo", "sh", "-c", script];
    assert_eq!(root.house.call(args).expect_code(0).text(), "one\n0\nonly one\n");
    assert_eq!(root.read("etc/one"), "changed\n");
    root.house.expect_nothing_left();
}

fn a_file_that_is_a_volume_is_read_as_it_is_now() {
    let root = Root::new();
    let path = root.around.path().join("names");
    fs::write(&path, "").unwrap();
    let volume = format!("{}:/etc/names", path.display());
    let mut shell = root.house.start(root.arguments(&["-i", "-v", &volume], &["sh"]));
    for names in ["one\n", "one\ntwo\n", "\n", "three and four\n"] {
        fs::write(&path, names).unwrap();
        shell.write(b"stat -c %s /etc/names; cat /etc/names; echo done\n");
        assert_eq!(shell.read_until("done\n"), format!("{}\n{names}done\n", names.len()));
    }
    shell.finish().expect_code(0);
}

fn a_volume_that_is_not_there_is_named() {
    let house = House::new();
    house.call(["run", "--rm", "-v", "/no/such:/x", "demo", "true"]).expect_refusal("/no/such");
    house.call(["run", "--rm", "-v", "./not-here:/x", "demo", "true"]).expect_refusal("not-here");
    house.expect_nothing_left();
}

fn a_killed_file_server_is_an_error_and_no_hang() {
    let root = Root::new();
    root.write("tmp/file", "x");
    let mut shell = root.shell();
    shell.write(b"echo ready\n");
    shell.read_until("ready\n");
    kill_process(root.house.process("microvm files"), Signal::KILL).unwrap();
    shell.write(b"read -r line < /tmp/file || echo an error; echo still here\n");
    assert_eq!(shell.read_until("still here\n"), "an error\nstill here\n");
    shell.write(b"exit 3\n");
    shell.finish().expect_code(3);
    root.house.expect_nothing_left();
}

fn a_killed_vm_takes_the_file_server_along() {
    let root = Root::new();
    let mut shell = root.shell();
    shell.write(b"echo ready\n");
    shell.read_until("ready\n");
    kill_process(root.house.process("microvm vmm"), Signal::KILL).unwrap();
    shell.finish().expect_code(125);
    root.house.expect_nothing_left();
}

fn a_killed_supervisor_takes_the_file_server_along() {
    let root = Root::new();
    let mut shell = root.shell();
    shell.write(b"echo ready\n");
    shell.read_until("ready\n");
    let server = pidfd_open(root.house.process("microvm files"), PidfdFlags::empty()).unwrap();
    shell.signal(Signal::KILL);
    // It ends with the VM, which ends with its owner. Readable: it has ended.
    poll(&mut [PollFd::new(&server, PollFlags::IN)], None).unwrap();
    shell.finish().expect_code(137);
}

/// What runs in the container where a shell has no word for it.
pub(crate) fn guest_half(part: &str) {
    match part {
        "attributes" => attributes(),
        "mapping" => mapping(),
        "impostor" => crate::own_networks::impostor(),
        _ => panic!("no such part: {part}"),
    }
}

/// An attribute that every file system of a host has; a value of it is checked by the kernels
/// (`struct vfs_cap_data`).
const CAPABILITY: &str = "security.capability";
const CAPABILITIES: [[u8; 20]; 2] = [capability(10), capability(13)];

const fn capability(number: u8) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[0] = 1;
    bytes[3] = 2;
    bytes[4 + (number / 8) as usize] = 1 << (number % 8);
    bytes
}

fn attributes() {
    let mut value = [0; 32];
    let length = rustix::fs::getxattr("/tmp/file", CAPABILITY, &mut value).unwrap();
    assert_eq!(value[..length], CAPABILITIES[0]);
    rustix::fs::removexattr("/tmp/file", CAPABILITY).unwrap();
    let mut names = [0; 256];
    let length = rustix::fs::listxattr("/tmp/file", &mut names).unwrap();
    assert!(!names[..length].starts_with(CAPABILITY.as_bytes()));
    rustix::fs::setxattr("/tmp/file", CAPABILITY, &CAPABILITIES[1], XattrFlags::CREATE).unwrap();
}

fn mapping() {
    let file = fs::OpenOptions::new().read(true).write(true).open("/tmp/mapped").unwrap();
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a new mapping at a place of the kernel's choice.
    let map = unsafe { rustix::mm::mmap(std::ptr::null_mut(), 8192, protection, flags, &file, 0) };
    let map = map.unwrap().cast::<u8>();
    drop(file);
    // SAFETY: the mapping is 8192 bytes long, writable, and nobody else's in this process.
    let bytes = unsafe { std::slice::from_raw_parts_mut(map, 8192) };
    bytes[..6].copy_from_slice(b"synced");
    // SAFETY: the range is the mapping.
    unsafe { rustix::mm::msync(map.cast(), 8192, MsyncFlags::SYNC) }.unwrap();
    assert_eq!(&fs::read("/tmp/mapped").unwrap()[..6], b"synced");
    bytes[8186..].copy_from_slice(b"closed");
}
