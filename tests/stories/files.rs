//! Files in and out of a container, and images made of one.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tests::{House, Outcome};

crate::stories![
    a_file_goes_in_and_comes_out_as_it_was,
    a_directory_goes_where_docker_would_put_it,
    an_archive_goes_in_and_comes_out,
    a_copy_that_cannot_be_is_refused_by_its_path,
    links_of_a_container_do_not_lead_to_the_host,
    nothing_of_a_containers_becomes_root_on_the_host,
    volumes_and_memory_are_reached_too,
    an_export_is_the_root_without_its_mounts,
    a_diff_tells_what_was_added_changed_and_deleted,
    a_commit_is_an_image_that_runs,
    files_of_a_container_that_has_ended_are_on_its_disk,
    a_killed_visit_leaves_a_container_as_it_was,
    files_that_were_in_memory_are_gone_with_it,
];

/// A container that runs until it is told to end, and a directory of the host's.
struct Place {
    house: House,
    around: tempfile::TempDir,
}

impl Place {
    /// The script is done when this comes back.
    fn new(script: &str) -> Self {
        Self::with(&[], script)
    }

    fn with(options: &[&str], script: &str) -> Self {
        let around = tempfile::Builder::new().prefix("story-files-").tempdir().unwrap();
        let place = Self { house: House::new(), around };
        let options = [&["run", "-d", "--name", "box"], options].concat();
        let rest = ["demo", "sh", "-c", "while :; do sleep 1000; done"];
        place.house.call([&options[..], &rest].concat()).expect_code(0);
        place.exec(script);
        place
    }

    fn exec(&self, script: &str) -> String {
        let done = self.house.call(["exec", "box", "sh", "-c", script]);
        let inspect = || self.house.call(["inspect", "box"]).text();
        assert_eq!(done.code, 0, "{}\n{}", done.stderr, inspect());
        done.text()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.around.path().join(name)
    }

    fn cp(&self, options: &[&str], from: impl AsRef<Path>, to: impl AsRef<Path>) -> Outcome {
        let ends = [from.as_ref().to_str().unwrap(), to.as_ref().to_str().unwrap()];
        self.house.call([&["cp"], options, &ends].concat())
    }

    fn end(self) {
        self.house.call(["rm", "-f", "box"]).expect_code(0);
        self.house.expect_nothing_left();
    }
}

fn a_file_goes_in_and_comes_out_as_it_was() {
    let place = Place::new("true");
    // Nothing in it repeats at a distance of pages or messages.
    let bytes: Vec<u8> =
        (0..300_017u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(place.path("large"), &bytes).unwrap();
    fs::set_permissions(place.path("large"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(place.path("large"), Some(1234), Some(5678)).unwrap();
    let time = "touch -d @86400 ";
    Command::new("sh")
        .args(["-c", &format!("{time}{}", place.path("large").display())])
        .status()
        .unwrap();
    place.cp(&[], place.path("large"), "box:/tmp").expect_code(0);
    assert_eq!(place.exec("stat -c '%u %g %a %Y' /tmp/large"), "0 0 640 86400\n");
    place.cp(&["-a"], place.path("large"), "box:/etc/other").expect_code(0);
    assert_eq!(place.exec("stat -c '%u %g' /etc/other"), "1234 5678\n");
    place.cp(&[], "box:/etc/other", place.path("back")).expect_code(0);
    assert!(fs::read(place.path("back")).unwrap() == bytes);
    let back = fs::metadata(place.path("back")).unwrap();
    assert_eq!((back.uid(), back.mode() & 0o777, back.mtime()), (0, 0o640, 86400));
    place.cp(&["-a"], "box:/etc/other", place.path("back")).expect_code(0);
    assert_eq!(fs::metadata(place.path("back")).unwrap().uid(), 1234);
    place.end();
}

fn a_directory_goes_where_docker_would_put_it() {
    let place = Place::new("mkdir -p /there /src/sub; echo x > /src/sub/file; ln -s sub /src/link");
    fs::create_dir_all(place.path("dir/sub")).unwrap();
    fs::write(place.path("dir/sub/file"), "from the host").unwrap();
    symlink("sub/file", place.path("dir/link")).unwrap();
    // Into what is there under its own name, as what is not there, and only what is in it.
    place.cp(&[], place.path("dir"), "box:/there").expect_code(0);
    place.cp(&[], place.path("dir"), "box:/new").expect_code(0);
    place.cp(&[], place.path("dir/."), "box:/there").expect_code(0);
    let found =
        "cd /; for f in there/dir new there; do cat $f/sub/file $f/link; readlink $f/link; done";
    assert_eq!(place.exec(found), "from the hostfrom the hostsub/file\n".repeat(3));
    fs::create_dir(place.path("out")).unwrap();
    place.cp(&[], "box:/src", place.path("out")).expect_code(0);
    place.cp(&[], "box:/src", place.path("fresh")).expect_code(0);
    place.cp(&[], "box:/src/.", place.path("out")).expect_code(0);
    for at in ["out/src", "fresh", "out"] {
        assert_eq!(fs::read_to_string(place.path(at).join("sub/file")).unwrap(), "x\n", "{at}");
        assert_eq!(fs::read_link(place.path(at).join("link")).unwrap(), Path::new("sub"));
    }
    // A link by its name, and what it leads to where that is asked for.
    place.cp(&[], "box:/src/link", place.path("link")).expect_code(0);
    assert!(place.path("link").is_symlink());
    place.cp(&["-L"], "box:/src/link", place.path("followed")).expect_code(0);
    assert!(place.path("followed/file").is_file());
    place.end();
}

fn an_archive_goes_in_and_comes_out() {
    let place = Place::new("mkdir -p /src/sub; echo x > /src/sub/file; chown 7:8 /src/sub/file");
    let script = "\"$0\" --root \"$1\" --store \"$2\" cp box:/src - | tar -tvf - --numeric-owner && \
                  cd \"$3\" && mkdir in && echo y > in/y && ln in/y in/z && tar --owner=a:9 --group=b:10 -czf - in | \
                  \"$0\" --root \"$1\" --store \"$2\" cp - box:/src";
    let template = place.house.command(["cp"]);
    let args: Vec<_> = template.get_args().collect();
    let mut shell = Command::new("bash");
    shell.args(["-o", "pipefail", "-c", script]).arg(template.get_program());
    shell.arg(args[1]).arg(args[3]).arg(place.around.path());
    let listed = Outcome::of(&mut shell).expect_code(0).text();
    assert!(listed.contains(" 7/8 ") && listed.contains(" src/sub/file"), "{listed}");
    let seen = place.exec("stat -c '%u %g %h' /src/in/y; cat /src/in/z");
    assert_eq!(seen, "9 10 2\ny\n");
    place.end();
}

fn a_copy_that_cannot_be_is_refused_by_its_path() {
    let place = Place::new("mkdir /dir; echo x > /file");
    fs::create_dir(place.path("dir")).unwrap();
    fs::write(place.path("file"), "").unwrap();
    place.cp(&[], "box:/no-such", place.path("x")).expect_refusal("no-such");
    place.cp(&[], place.path("no-such"), "box:/x").expect_refusal("no-such");
    place.cp(&[], "box:/file", place.path("missing/")).expect_refusal("missing");
    place.cp(&[], "box:/dir", place.path("file")).expect_refusal("file");
    place.cp(&[], place.path("dir"), "box:/file").expect_refusal("/file");
    place.cp(&[], place.path("file"), "box:/missing/").expect_refusal("/missing/");
    place.cp(&[], place.path("file"), "box:/missing/x").expect_refusal("/missing");
    place.cp(&[], "box:/a", "box:/b").expect_refusal("between containers");
    place.cp(&[], place.path("a"), place.path("b")).expect_refusal("CONTAINER:PATH");
    place.cp(&[], "no-box:/a", place.path("b")).expect_refusal("no-box");
    assert!(!place.path("x").exists() && !place.path("missing").exists());
    place.end();
}

fn links_of_a_container_do_not_lead_to_the_host() {
    let script = "mkdir /t; ln -s / /t/abs; ln -s ../../../../.. /t/up; ln -s /proc/1/root /t/root; \
                  echo mine > /etc/hostname-of-box";
    let place = Place::new(script);
    // In the container a link leads to what is there in the container.
    for link in ["abs", "up"] {
        let from = format!("box:/t/{link}/etc/hostname-of-box");
        place.cp(&[], from, place.path(link)).expect_code(0);
        assert_eq!(fs::read_to_string(place.path(link)).unwrap(), "mine\n");
    }
    // The kernel's own way out of everything is none.
    place.cp(&[], "box:/t/root/etc/passwd", place.path("x")).expect_refusal("symbolic link");
    // On the host it is a link, through which nothing is written.
    place.cp(&[], "box:/t", place.path("t")).expect_code(0);
    assert_eq!(fs::read_link(place.path("t/abs")).unwrap(), Path::new("/"));
    place.exec("rm /t/abs; mkdir /t/abs; echo x > /t/abs/story-was-here");
    place.cp(&[], "box:/t/.", place.path("t")).expect_refusal("abs");
    assert!(!Path::new("/story-was-here").exists());
    place.end();
}

fn nothing_of_a_containers_becomes_root_on_the_host() {
    let place = Place::new("mkdir /t; cp /bin/busybox /t/su; chmod 6755 /t/su; mkfifo /t/pipe");
    place.cp(&["-a"], "box:/t", place.path("t")).expect_code(0);
    assert_eq!(fs::metadata(place.path("t/su")).unwrap().mode() & 0o7777, 0o755);
    place.cp(&[], "box:/dev/null", place.path("null")).expect_refusal("a device");
    assert!(!place.path("null").exists());
    place.end();
}

fn volumes_and_memory_are_reached_too() {
    let place =
        Place::with(&["-v", "/data", "--tmpfs", "/mem"], "echo v > /data/v; echo m > /mem/m");
    for from in ["box:/data/v", "box:/mem/m"] {
        place.cp(&[], from, place.around.path()).expect_code(0);
    }
    assert_eq!(fs::read_to_string(place.path("v")).unwrap(), "v\n");
    assert_eq!(fs::read_to_string(place.path("m")).unwrap(), "m\n");
    place.cp(&[], place.path("v"), "box:/mem/v").expect_code(0);
    assert_eq!(place.exec("cat /mem/v"), "v\n");
    place.end();
}

fn an_export_is_the_root_without_its_mounts() {
    let place = Place::with(&["--tmpfs", "/mem"], "echo x > /mem/hidden; echo kept > /etc/kept");
    let archive = place.path("root.tar");
    place.house.call(["export", "-o", archive.to_str().unwrap(), "box"]).expect_code(0);
    let mut list = Command::new("tar");
    let listed = Outcome::of(list.arg("-tf").arg(&archive)).expect_code(0).text();
    let has = |name: &str| listed.lines().any(|line| line.trim_end_matches('/') == name);
    for name in ["bin/busybox", "etc/kept", "mem", "proc", "dev"] {
        assert!(has(name), "{name} in {listed}");
    }
    let inside =
        |name: &str| listed.lines().any(|line| line.starts_with(name) && line.len() > name.len());
    assert!(!inside("proc/") && !inside("dev/") && !has("mem/hidden"), "{listed}");
    place.end();
}

fn a_diff_tells_what_was_added_changed_and_deleted() {
    let script = "echo x >> /etc/passwd; rm /etc/group; mkdir /new; echo y > /new/file; rm -r /usr; mkdir /usr";
    let place = Place::new(&format!("mkdir -p /usr; {script}"));
    let told = place.house.call(["diff", "box"]).expect_code(0).text();
    for line in ["C /etc", "C /etc/passwd", "D /etc/group", "A /new", "A /new/file"] {
        assert!(told.lines().any(|told| told == line), "{line} in {told}");
    }
    assert!(!told.contains("busybox"), "{told}");
    // Places for what microvm mounts are nothing that the container has changed.
    assert!(!told.contains("hosts") && !told.contains("hostname"), "{told}");
    let json = place.house.call(["diff", "--format", "json", "box"]).expect_code(0).text();
    assert!(json.contains("\"/new/file\"") && json.contains("\"deleted\""), "{json}");
    place.end();
}

fn a_commit_is_an_image_that_runs() {
    let script = "echo mine > /etc/mine; rm /etc/group; mkdir -p /srv/data; echo seed > /srv/data/seed; \
                  mkdir /opaque; chmod 4711 /etc/mine";
    let place = Place::new(script);
    let commit =
        ["commit", "-m", "a story", "-c", "CMD [\"cat\", \"/etc/mine\"]", "-c", "VOLUME /srv/data"];
    let commit = [&commit[..], &["-c", "ENV STORY=told", "box", "story:1"]].concat();
    let id = place.house.call(commit).expect_code(0).text();
    assert!(id.starts_with("sha256:"), "{id}");
    let house = &place.house;
    assert_eq!(house.call(["run", "--rm", "story:1"]).expect_code(0).text(), "mine\n");
    let look = "test -e /etc/group || echo gone; stat -c %a /etc/mine; echo $STORY; cat /srv/data/seed; \
                grep -c ' /srv/data ' /proc/mounts";
    let seen = house.call(["run", "--rm", "story:1", "sh", "-c", look]).expect_code(0).text();
    assert_eq!(seen, "gone\n4711\ntold\nseed\n1\n");
    let past = house.call(["history", "story:1"]).expect_code(0).text();
    assert!(past.contains("a story"), "{past}");
    // What others read of it is whole.
    let archive = place.path("story.tar");
    let save = ["save", "--format", "oci-archive", "-o", archive.to_str().unwrap(), "story:1"];
    house.call(save).expect_code(0);
    house.call(["rmi", "story:1"]).expect_code(0);
    house.call(["load", archive.to_str().unwrap()]).expect_code(0);
    assert_eq!(house.call(["run", "--rm", "story:1"]).expect_code(0).text(), "mine\n");
    house.call(["rmi", "story:1"]).expect_code(0);
    place.end();
}

fn files_of_a_container_that_has_ended_are_on_its_disk() {
    let place = Place::with(
        &["--storage", "size=64m", "-v", "visited:/data"],
        "echo before > /note; rm /etc/hostname; echo kept > /data/kept",
    );
    let house = &place.house;
    house.call(["stop", "-t", "0", "box"]).expect_code(0);
    let was = house.call(["wait", "box"]).text();
    // Both ways, in its volumes too, and what is written is there when it starts again.
    place.cp(&[], "box:/note", place.path("note")).expect_code(0);
    place.cp(&[], "box:/data/kept", place.path("kept")).expect_code(0);
    assert_eq!(fs::read_to_string(place.path("note")).unwrap(), "before\n");
    assert_eq!(fs::read_to_string(place.path("kept")).unwrap(), "kept\n");
    fs::write(place.path("note"), "after\n").unwrap();
    place.cp(&[], place.path("note"), "box:/tmp/note").expect_code(0);
    place.cp(&[], "box:/no-such", place.path("x")).expect_refusal("no-such");
    let changes = house.call(["diff", "box"]).expect_code(0).text();
    assert!(changes.contains("A /note\n") && changes.contains("A /tmp/note\n"), "{changes}");
    house.call(["export", "-o", place.path("root.tar").to_str().unwrap(), "box"]).expect_code(0);
    let listed = Outcome::of(Command::new("tar").arg("-tf").arg(place.path("root.tar")));
    assert!(listed.expect_code(0).text().lines().any(|line| line == "note"));
    house.call(["commit", "box", "with-note"]).expect_code(0);
    // It has ended as it had, for whoever asks.
    let shown = house.call(["ps", "-a"]).text();
    assert!(shown.contains("exited"), "{shown}");
    assert_eq!(house.call(["wait", "box"]).text(), was);
    house.call(["start", "box"]).expect_code(0);
    assert_eq!(place.exec("cat /tmp/note"), "after\n");
    let note = house.call(["run", "--rm", "with-note", "cat", "/note", "/tmp/note"]);
    assert_eq!(note.expect_code(0).text(), "before\nafter\n");
    house.call(["rmi", "with-note"]).expect_code(0);
    house.call(["rm", "-f", "box"]).expect_code(0);
    house.call(["volume", "rm", "visited"]).expect_code(0);
    house.expect_nothing_left();
}

fn a_killed_visit_leaves_a_container_as_it_was() {
    let place = Place::with(&["--storage", "size=64m"], "echo before > /note");
    place.house.call(["stop", "-t", "0", "box"]).expect_code(0);
    let was = place.house.call(["wait", "box"]).text();
    fs::write(place.path("large"), vec![b'x'; 1 << 20]).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-cf", "-", "-C"]).arg(place.around.path()).arg("large");
    let archive = tar.output().unwrap().stdout;
    // Half of an archive, which is more than waits in a pipe: the other side has begun to read it.
    let mut visit = place.house.start(["cp", "-", "box:/tmp"]);
    visit.write(&archive[..archive.len() / 2]);
    visit.signal(Signal::KILL);
    visit.finish().expect_code(137);
    assert_eq!(place.house.call(["wait", "box"]).text(), was);
    place.cp(&[], "box:/note", place.path("note")).expect_code(0);
    assert_eq!(fs::read_to_string(place.path("note")).unwrap(), "before\n");
    place.end();
}

fn files_that_were_in_memory_are_gone_with_it() {
    let house = House::new();
    house.call(["run", "--name", "over", "demo", "true"]).expect_code(0);
    let gone = "container over has ended, and what it wrote was in its memory";
    for args in [&["cp", "over:/etc", "/tmp/x"][..], &["export", "over"], &["diff", "over"]] {
        house.call(args).expect_refusal(gone);
    }
    house.call(["commit", "over", "x"]).expect_refusal(gone);
    house.call(["rm", "over"]).expect_code(0);
    house.expect_nothing_left();
}
