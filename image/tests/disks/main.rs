//! Whether Linux and `fsck.erofs` read what we write, and what limits of the host do to a load.
//!
//! These learn at run time what they can use (the kernel's EROFS by a loop device as root, the tools
//! `fsck.erofs` and `tar`). One that cannot run here says why and is counted as ignored.

mod garden;

use std::error::Error;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use garden::{garden, portrait};
use image::{Digest, Limits, Store, pack_directory};
use libtest_mimic::{Arguments, Failed, Trial};

/// Set in a process of this program that is to load an archive and be stopped on the way.
const CHILD: &str = "IMAGE_TEST_LOAD";

fn main() -> ExitCode {
    if let Some(store) = std::env::var_os(CHILD) {
        return load_within_limits(Path::new(&store));
    }
    let arguments = Arguments::from_args();
    let mount = mountable();
    let fsck = tool("fsck.erofs");
    let tar = tool("tar");
    let trials = vec![
        trial("fsck_finds_nothing_wrong_with_a_disk_of_everything", &fsck, fsck_accepts),
        trial("the_kernel_shows_a_packed_directory_as_it_was", &mount, kernel_agrees),
        trial(
            "the_kernel_shows_a_loaded_layer_as_it_was",
            &mount.clone().and(tar.clone()),
            layer_agrees,
        ),
        trial("sparse_archives_of_gnu_tar_arrive_with_their_holes", &tar, sparse_archives),
        trial("a_directory_packs_to_the_same_bytes_every_time", &Ok(()), same_bytes),
        trial("a_load_killed_at_any_byte_leaves_a_store_that_works", &Ok(()), killed_anywhere),
        trial("a_full_disk_is_named_and_leaves_nothing_behind", &Ok(()), full_disk),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

type Outcome = Result<(), Box<dyn Error>>;

fn trial(name: &str, can: &Result<(), String>, run: fn() -> Outcome) -> Trial {
    let trial = Trial::test(name, move || run().map_err(|error| Failed::from(error.to_string())));
    match can {
        Ok(()) => trial,
        Err(why) => {
            eprintln!("{name} cannot run here: {why}");
            trial.with_ignored_flag(true)
        }
    }
}

fn tool(name: &str) -> Result<(), String> {
    let found =
        Command::new(name).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.map(drop).map_err(|error| format!("{name}: {error}"))
}

fn mountable() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root may mount".to_owned());
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    match known.contains("\terofs\n") && Path::new("/dev/loop-control").exists() {
        true => tool("mount"),
        false => Err("this kernel has no EROFS or no loop device".to_owned()),
    }
}

fn check(command: &mut Command) -> Outcome {
    let output = command.stdin(Stdio::null()).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{command:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
        .into()),
    }
}

fn pack(root: &Path, disk: &Path) -> Outcome {
    let scratch = disk.parent().ok_or("no parent")?;
    pack_directory(root, &File::create(disk)?, scratch, &Limits::default())?;
    Ok(())
}

fn fsck_accepts() -> Outcome {
    let scratch = tempfile::tempdir()?;
    let (root, disk) = (scratch.path().join("root"), scratch.path().join("disk"));
    garden(&root)?;
    pack(&root, &disk)?;
    fsck(&disk)?;
    // It must be able to object, or its silence says nothing.
    let file = File::options().write(true).open(&disk)?;
    std::os::unix::fs::FileExt::write_all_at(&file, b"\xff", 1100)?;
    match fsck(&disk) {
        Ok(()) => Err("fsck.erofs did not see a changed superblock".into()),
        Err(_) => Ok(()),
    }
}

/// Reads everything on the disk. What version 1.5 finds wrong it does not always say by its exit code.
fn fsck(disk: &Path) -> Outcome {
    let output = Command::new("fsck.erofs").arg("--extract").arg(disk).output()?;
    let said = String::from_utf8([output.stdout, output.stderr].concat())?;
    match output.status.success() && !said.contains("<E>") {
        true => Ok(()),
        false => Err(said.into()),
    }
}

/// A mounted disk; unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(disk: &Path, place: PathBuf) -> Result<Self, Box<dyn Error>> {
        fs::create_dir(&place)?;
        check(Command::new("mount").args(["-t", "erofs", "-o", "loop,ro"]).arg(disk).arg(&place))?;
        Ok(Self(place))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn kernel_agrees() -> Outcome {
    let scratch = tempfile::tempdir()?;
    let (root, disk) = (scratch.path().join("root"), scratch.path().join("disk"));
    garden(&root)?;
    pack(&root, &disk)?;
    same_portrait(&root, &disk)
}

/// The same by way of a tar archive that others wrote.
fn layer_agrees() -> Outcome {
    let scratch = tempfile::tempdir()?;
    let (root, layer) = (scratch.path().join("root"), scratch.path().join("layer.tar"));
    garden(&root)?;
    let mut tar = Command::new("tar");
    tar.args(["--create", "--format", "pax", "--xattrs", "--xattrs-include", "*", "--sparse"]);
    check(tar.arg("--file").arg(&layer).arg("--directory").arg(&root).arg("."))?;
    let whole = scratch.path().join("archive.tar");
    fs::write(&whole, archive(&fs::read(&layer)?)?)?;
    let store = Store::open(&scratch.path().join("store"))?;
    same_portrait(&root, &store.load(&whole, None)?[0].disk)
}

fn same_portrait(root: &Path, disk: &Path) -> Outcome {
    let scratch = tempfile::tempdir()?;
    let mounted = Mounted::new(disk, scratch.path().join("mounted"))?;
    let (was, is) = (portrait(root)?, portrait(&mounted.0)?);
    for path in was.keys().chain(is.keys()) {
        if was.get(path) != is.get(path) {
            let (was, is) = (was.get(path), is.get(path));
            return Err(format!("{}: {was:?} became {is:?}", path.display()).into());
        }
    }
    // The garden has 3,000 files in one directory and 300 directories in one another.
    if was.len() < 3300 { Err("the garden is empty".into()) } else { Ok(()) }
}

fn same_bytes() -> Outcome {
    let scratch = tempfile::tempdir()?;
    let root = scratch.path().join("root");
    garden(&root)?;
    let [one, two] = ["one", "two"].map(|name| scratch.path().join(name));
    pack(&root, &one)?;
    pack(&root, &two)?;
    if fs::read(one)? == fs::read(two)? { Ok(()) } else { Err("the disks differ".into()) }
}

/// An OCI archive with one layer, `layer`.
fn archive(layer: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let machine = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let config = serde_json::to_vec(&serde_json::json!({
        "os": "linux", "architecture": machine,
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(layer).to_string()] },
    }))?;
    let descriptor = |kind: &str, blob: &[u8]| {
        let kind = format!("application/vnd.oci.image.{kind}");
        serde_json::json!({
            "mediaType": kind, "digest": Digest::of(blob).to_string(), "size": blob.len(),
        })
    };
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "config": descriptor("config.v1+json", &config),
        "layers": [descriptor("layer.v1.tar", layer)],
    }))?;
    let index = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "manifests": [descriptor("manifest.v1+json", &manifest)],
    }))?;
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: String, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content)
    };
    add("index.json".to_owned(), &index)?;
    for blob in [&manifest[..], &config, layer] {
        add(format!("blobs/sha256/{}", Digest::of(blob).hex()), blob)?;
    }
    Ok(tar.into_inner()?)
}

fn sparse_archives() -> Outcome {
    let scratch = tempfile::tempdir()?;
    let root = scratch.path().join("root");
    fs::create_dir(&root)?;
    let file = File::create(root.join("sparse"))?;
    for n in 0..40u64 {
        let piece = vec![n as u8 + 1; 5000];
        std::os::unix::fs::FileExt::write_all_at(&file, &piece, n * 100_000)?;
    }
    // Whole blocks, so that no piece of it is beside an inode, whose times the formats round.
    file.set_len(5000 * 4096)?;
    let packed = scratch.path().join("packed");
    pack(&root, &packed)?;
    for format in ["gnu", "pax"] {
        let layer = scratch.path().join(format!("{format}.tar"));
        let mut tar = Command::new("tar");
        tar.args(["--create", "--sparse", "--format", format, "--file"]).arg(&layer);
        check(tar.arg("--directory").arg(&root).arg("."))?;
        let bytes = fs::read(&layer)?;
        if bytes.len() > 1_000_000 {
            return Err(format!("tar did not make {format} sparse: {} bytes", bytes.len()).into());
        }
        let whole = scratch.path().join("archive.tar");
        fs::write(&whole, archive(&bytes)?)?;
        let store = Store::open(&scratch.path().join(format!("store-{format}")))?;
        let image = store.load(&whole, None)?.remove(0);
        let disk = fs::read(&image.disk)?;
        // The file is all there is, and its blocks are behind the first on either disk.
        let data = fs::read(&packed)?;
        if disk[4096..] != data[4096..] {
            return Err(format!("the file out of the {format} archive is another").into());
        }
        if File::open(&image.disk)?.metadata()?.blocks() * 512 > 2_000_000 {
            return Err("the holes were filled".into());
        }
    }
    Ok(())
}

/// What the child does: loads the archive beside the store. Its limit on the size of files, and
/// whether going over it kills, are set by the parent.
fn load_within_limits(store: &Path) -> ExitCode {
    let archive = store.with_file_name("archive.tar");
    let load = || Ok::<_, Box<dyn Error>>(Store::open(store)?.load(&archive, Some("demo"))?);
    match load() {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", chain(&*error));
            ExitCode::from(125)
        }
    }
}

fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// A place with an archive of some 3 MB, and the limits on file sizes (in the shell's blocks of 512
/// bytes) at which a load of it is stopped: in each of its files, at their starts and ends.
fn place() -> Result<(tempfile::TempDir, Vec<u64>), Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    let mut tar = tar::Builder::new(Vec::new());
    for n in 0..30u8 {
        let mut header = tar::Header::new_gnu();
        header.set_size(100_000);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("file{n}"), &vec![n + 1; 100_000][..])?;
    }
    fs::write(scratch.path().join("archive.tar"), archive(&tar.into_inner()?)?)?;
    Ok((scratch, vec![0, 1, 8, 100, 1000, 3000, 5000, 5850, 5870, 5950]))
}

/// Loads in a process whose files may not grow over `blocks`; going over it is an error, or death.
fn load_in_child(store: &Path, blocks: u64, death: bool) -> std::io::Result<std::process::Output> {
    let trap = if death { "" } else { "trap '' XFSZ;" };
    Command::new("sh")
        .arg("-c")
        .arg(format!("{trap} ulimit -c 0; ulimit -f {blocks}; exec \"$0\""))
        .arg(std::env::current_exe()?)
        .env(CHILD, store)
        .output()
}

fn killed_anywhere() -> Outcome {
    let (scratch, limits) = place()?;
    let mut killed = 0;
    for blocks in limits {
        let store = scratch.path().join(format!("store{blocks}"));
        let output = load_in_child(&store, blocks, true)?;
        killed += usize::from(output.status.signal().is_some());
        let opened = Store::open(&store)?;
        if fs::read_dir(store.join("tmp"))?.next().is_some() {
            return Err(format!("killed at {blocks} blocks, something is left in tmp").into());
        }
        if output.status.signal().is_some() && !opened.images()?.is_empty() {
            return Err(format!("killed at {blocks} blocks, there is half an image").into());
        }
        opened.load(&scratch.path().join("archive.tar"), Some("demo"))?;
        opened.find("demo")?;
    }
    // The largest limit lets it through, the smallest does not even let the store be made.
    if killed < 7 { Err(format!("only {killed} loads were killed").into()) } else { Ok(()) }
}

fn full_disk() -> Outcome {
    let (scratch, limits) = place()?;
    let mut refused = 0;
    for blocks in limits {
        let store = scratch.path().join(format!("store{blocks}"));
        Store::open(&store)?;
        let output = load_in_child(&store, blocks, false)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            continue;
        }
        refused += 1;
        let named = said.contains(&*store.to_string_lossy()) && said.lines().count() == 1;
        if output.status.code() != Some(125) || !named || !said.contains("File too large") {
            return Err(format!("at {blocks} blocks: {:?} {said:?}", output.status).into());
        }
        if fs::read_dir(store.join("tmp"))?.next().is_some() {
            return Err(format!("refused at {blocks} blocks, something is left in tmp").into());
        }
        Store::open(&store)?.load(&scratch.path().join("archive.tar"), Some("demo"))?;
    }
    if refused < 7 { Err(format!("only {refused} loads were refused").into()) } else { Ok(()) }
}
