//! Bad input gets one line that names the thing, exit 125, and nothing stays.

use std::fs;

use rustix::mount::MountFlags;
use tests::{House, Outcome, Tmpfs};

crate::stories![
    an_image_that_does_not_exist,
    too_little_and_too_much_memory,
    no_vcpus_and_too_many,
    a_kernel_that_is_text,
    a_kernel_that_is_not_there,
    a_rootfs_that_is_not_there,
    a_rootfs_without_the_program,
    a_name_that_is_a_path,
    a_user_the_image_does_not_know,
    a_truncated_archive,
    an_archive_that_is_text,
    a_full_disk,
];

fn an_image_that_does_not_exist() {
    let house = House::new();
    let never = ["run", "--rm", "--pull", "never", "no-such-image", "true"];
    house.call(never).expect_refusal("no-such-image");
    house.expect_nothing_left();
}

fn too_little_and_too_much_memory() {
    let house = House::new();
    for memory in ["1m", "0", "1t", "-5m", "lots"] {
        house
            .call(["run", "--rm", &format!("--memory={memory}"), "demo", "true"])
            .expect_refusal("memory");
    }
    house.expect_nothing_left();
}

fn no_vcpus_and_too_many() {
    let house = House::new();
    for cpus in ["0", "1000", "-1", "many"] {
        house
            .call(["run", "--rm", &format!("--cpus={cpus}"), "demo", "true"])
            .expect_refusal("cpus");
    }
    house.expect_nothing_left();
}

fn a_kernel_that_is_text() {
    let house = House::new();
    let kernel = house.state().join("kernel.txt");
    fs::write(&kernel, "a poem about kernels\n").unwrap();
    let kernel = kernel.to_str().unwrap();
    house.call(["--kernel", kernel, "run", "--rm", "demo", "true"]).expect_refusal("kernel.txt");
    house.expect_nothing_left();
}

fn a_kernel_that_is_not_there() {
    let house = House::new();
    house
        .call(["--kernel", "/no/kernel", "run", "--rm", "demo", "true"])
        .expect_refusal("/no/kernel");
    house.expect_nothing_left();
}

fn a_rootfs_that_is_not_there() {
    let house = House::new();
    house.call(["run", "--rm", "--rootfs", "/no/such/dir", "true"]).expect_refusal("/no/such/dir");
    house.expect_nothing_left();
}

fn a_rootfs_without_the_program() {
    let house = House::new();
    let root = tempfile::Builder::new().prefix("story-root-").tempdir().unwrap();
    let path = root.path().to_str().unwrap();
    let outcome = house.call(["run", "--rm", "--rootfs", path, "/bin/sh"]).expect_code(127);
    assert!(outcome.stderr.contains("/bin/sh"), "{}", outcome.stderr);
    house.expect_nothing_left();
}

fn a_name_that_is_a_path() {
    let house = House::new();
    for name in ["../x", "a/b", ".", "", "-x"] {
        let outcome = house.call(["run", "--rm", &format!("--name={name}"), "demo", "true"]);
        outcome.expect_refusal("name");
    }
    house.expect_nothing_left();
}

fn a_user_the_image_does_not_know() {
    let house = House::new();
    house
        .call(["run", "--rm", "-u", "nobody-knows", "demo", "true"])
        .expect_refusal("nobody-knows");
    house.expect_nothing_left();
}

fn a_truncated_archive() {
    let house = House::new();
    let whole = fs::read(std::env::var_os("MICROVM_DEMO").unwrap()).unwrap();
    let archive = house.state().join("half.tar");
    fs::write(&archive, &whole[..whole.len() / 2]).unwrap();
    house.call(["load", archive.to_str().unwrap()]).expect_refusal("half.tar");
    house.expect_nothing_left();
}

fn an_archive_that_is_text() {
    let house = House::new();
    let archive = house.state().join("poem.tar");
    fs::write(&archive, "not an archive at all\n".repeat(100)).unwrap();
    house.call(["load", archive.to_str().unwrap()]).expect_refusal("poem.tar");
    house.expect_nothing_left();
}

/// A store and a state directory on a file system with no room: the error names the place, and with
/// room again the next command works.
fn a_full_disk() {
    let house = House::new();
    let disk = FullDisk::mount(&house.state().join("full"));
    let store = disk.0.path().join("store");
    let demo = std::env::var("MICROVM_DEMO").unwrap();
    let load = || Outcome::of(&mut house.command_with_store(&store, ["load", &demo]));
    disk.fill();
    load().expect_refusal("full");
    disk.empty();
    load().expect_code(0);
    drop(disk);
    house.expect_nothing_left();
}

/// A file system of 8 MiB.
struct FullDisk(Tmpfs);

impl FullDisk {
    fn mount(path: &std::path::Path) -> Self {
        Self(Tmpfs::mount(path, MountFlags::empty(), c"size=8m"))
    }

    fn fill(&self) {
        let filled = fs::write(self.0.path().join("filler"), vec![1; 16 << 20]);
        assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    }

    fn empty(&self) {
        fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}
