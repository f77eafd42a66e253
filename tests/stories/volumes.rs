//! Volumes, and what else is mounted in a container.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use tests::House;

crate::stories![
    mounts_stand_in_each_other_whatever_their_order,
    a_tmpfs_is_as_large_as_was_said,
    a_named_volume_outlives_its_containers,
    an_empty_volume_begins_as_what_the_image_has_there,
    a_volume_nobody_named_goes_with_its_container,
    a_volume_in_use_is_not_removed,
    volumes_are_listed_and_pruned,
    a_mount_that_cannot_be_is_refused_by_its_word,
];

/// A house with volumes of its own, and a directory of the host's.
struct Place {
    house: House,
    around: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let around = tempfile::Builder::new().prefix("story-volumes-").tempdir().unwrap();
        Self { house: House::new(), around }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.around.path().join(name)
    }

    /// Where the host finds what is in a volume.
    fn data(&self, name: &str) -> PathBuf {
        let shown = self.house.call(["volume", "inspect", name]).expect_code(0).text();
        let line = shown.lines().find_map(|line| line.trim().strip_prefix("\"Mountpoint\": \""));
        PathBuf::from(line.unwrap().trim_end_matches(['"', ',']))
    }

    fn names(&self) -> Vec<String> {
        let text = self.house.call(["volume", "ls", "-q"]).expect_code(0).text();
        text.lines().map(str::to_owned).collect()
    }

    fn run(&self, options: &[&str], script: &str) -> String {
        let args = [&["run", "--rm"], options, &["demo", "sh", "-c", script]].concat();
        self.house.call(args).expect_code(0).text()
    }
}

fn mounts_stand_in_each_other_whatever_their_order() {
    let place = Place::new();
    for name in ["outer", "inner"] {
        fs::create_dir(place.path(name)).unwrap();
        fs::write(place.path(name).join("name"), name).unwrap();
    }
    fs::create_dir_all(place.path("outer/a/b")).unwrap();
    let inner = format!("type=bind,src={},dst=/data/a/b,ro", place.path("inner").display());
    let outer = format!("{}:/data", place.path("outer").display());
    let script = "cat /data/name /data/a/b/name; echo x 2>/dev/null > /data/a/b/name || echo no; \
                  grep -c ' /data/a tmpfs' /proc/mounts; touch /data/a/mark";
    let said = place.run(&["--mount", &inner, "--tmpfs", "/data/a", "-v", &outer], script);
    assert_eq!(said, "outerinnerno\n1\n");
    assert!(!place.path("outer/a/mark").exists());
    place.house.expect_nothing_left();
}

fn a_tmpfs_is_as_large_as_was_said() {
    let place = Place::new();
    let script = "dd if=/dev/zero of=/small/x bs=1k count=2000 2>/dev/null || echo full; \
                  stat -c %a /small /other; touch /ro/x 2>/dev/null || echo read-only";
    let options = ["--tmpfs", "/small:size=1m,mode=1770", "--tmpfs", "/ro:ro"];
    let key = ["--mount", "type=tmpfs,dst=/other,tmpfs-mode=700"];
    assert_eq!(
        place.run(&[options.as_slice(), &key].concat(), script),
        "full\n1770\n700\nread-only\n"
    );
    place.house.expect_nothing_left();
}

fn a_named_volume_outlives_its_containers() {
    let place = Place::new();
    let volume = "outlives:/data";
    assert_eq!(place.run(&["-v", volume], "echo kept > /data/file; chown 7:8 /data/file"), "");
    let written = place.data("outlives").join("file");
    assert_eq!(fs::read_to_string(&written).unwrap(), "kept\n");
    let metadata = fs::metadata(&written).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (7, 8));
    let script = "cat /data/file; touch /data/new 2>/dev/null || echo read-only";
    assert_eq!(place.run(&["-v", "outlives:/data:ro"], script), "kept\nread-only\n");
    place.house.call(["volume", "rm", "outlives"]).expect_code(0);
    place.house.call(["volume", "rm", "outlives"]).expect_refusal("\"outlives\" does not exist");
    place.house.call(["volume", "rm", "-f", "outlives"]).expect_code(0);
    place.house.expect_nothing_left();
}

fn an_empty_volume_begins_as_what_the_image_has_there() {
    let place = Place::new();
    let script = "cmp /etc/passwd /first/passwd && echo same; stat -c %a /etc /first";
    // `/etc` of the image comes with its second mount, the first is seen at another place.
    place.run(&["-v", "begins:/etc"], "chmod 750 /etc; rm /etc/group; echo mine > /etc/mine");
    let data = place.data("begins");
    assert!(data.join("passwd").exists() && !data.join("group").exists());
    assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o750);
    let again = place.run(&["-v", "begins:/etc"], "cat /etc/mine; test -e /etc/group || echo gone");
    assert_eq!(again, "mine\ngone\n");
    assert_eq!(place.run(&["-v", "begins:/first"], script), "same\n755\n750\n");
    place.run(&["--mount", "src=bare,dst=/etc,volume-nocopy"], "true");
    assert_eq!(fs::read_dir(place.data("bare")).unwrap().count(), 0);
    place.house.call(["volume", "rm", "begins", "bare"]).expect_code(0);
    place.house.expect_nothing_left();
}

fn a_volume_nobody_named_goes_with_its_container() {
    let place = Place::new();
    let before = place.names();
    place.run(&["-v", "/data"], "echo x > /data/x");
    place.house.call(["run", "--rm", "-v", "/data", "demo", "no-such"]).expect_code(127);
    assert_eq!(place.names(), before);
    let keep = ["run", "--name", "keeps", "-v", "/data", "demo", "sh", "-c", "echo x > /data/x"];
    place.house.call(keep).expect_code(0);
    let own: Vec<_> = place.names().into_iter().filter(|name| !before.contains(name)).collect();
    assert_eq!(own.len(), 1);
    assert!(place.data(&own[0]).join("x").exists());
    place.house.call(["rm", "-v", "keeps"]).expect_code(0);
    assert_eq!(place.names(), before);
    place.house.expect_nothing_left();
}

fn a_volume_in_use_is_not_removed() {
    let place = Place::new();
    place
        .house
        .call(["run", "--name", "user", "-v", "in-use:/data", "demo", "true"])
        .expect_code(0);
    place.house.call(["volume", "rm", "in-use"]).expect_refusal("in-use is used by container user");
    place.house.call(["volume", "prune", "-a"]).expect_code(0);
    assert!(place.names().contains(&"in-use".to_owned()));
    place.house.call(["rm", "user"]).expect_code(0);
    place.house.call(["volume", "rm", "in-use"]).expect_code(0);
    place.house.expect_nothing_left();
}

fn volumes_are_listed_and_pruned() {
    let place = Place::new();
    let create = ["volume", "create", "--label", "of=story", "listed"];
    assert_eq!(place.house.call(create).expect_code(0).text(), "listed\n");
    place.house.call(create).expect_refusal("listed exists already");
    let unnamed = place.house.call(["volume", "create"]).expect_code(0).text();
    let shown = place.house.call(["volume", "ls", "--format", "json"]).expect_code(0).text();
    for word in ["\"Name\": \"listed\"", "\"of\": \"story\"", unnamed.trim()] {
        assert!(shown.contains(word), "{word} in {shown}");
    }
    let pruned = place.house.call(["volume", "prune"]).expect_code(0).text();
    assert!(pruned.contains(&unnamed) && !pruned.contains("listed"), "{pruned}");
    place.house.call(["volume", "rm", "listed"]).expect_code(0);
}

fn a_mount_that_cannot_be_is_refused_by_its_word() {
    let place = Place::new();
    for (option, word, thing) in [
        ("-v", "/a:/b:rshared", "rshared"),
        ("-v", "/a:b", "\"b\""),
        ("--mount", "type=bind,src=/a,dst=/b,bogus=1", "bogus"),
        ("--mount", "type=nfs,src=/a,dst=/b", "nfs"),
        ("--tmpfs", "/a:bogus", "bogus"),
        ("--tmpfs", "/", "the root"),
    ] {
        place.house.call(["run", "--rm", option, word, "demo", "true"]).expect_refusal(thing);
    }
    let twice = ["run", "--rm", "-v", "/tmp:/a", "--tmpfs", "/a/", "demo", "true"];
    place.house.call(twice).expect_refusal("two mounts at /a");
    place.house.expect_nothing_left();
}
