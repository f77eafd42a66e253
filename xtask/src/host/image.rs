//! The emulated host's disk and kernel: Debian 13 from packages by name.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{self, Key};
use crate::{packages, step};

/// Counted up when [`build`] makes something else of the same input.
const FORMAT: &str = "1";

const SUITE: &str = "trixie";

/// What is in it, beside what Debian calls essential.
const PACKAGES: &[&str] = &[
    // To be a machine.
    "linux-image-cloud-amd64",
    "busybox-static",
    "ca-certificates",
    "e2fsprogs",
    "iproute2",
    "kmod",
    "openssh-server",
    "procps",
    // To be a container host, and to measure ourselves against.
    "aardvark-dns",
    "apparmor",
    "buildah",
    "containerd",
    "containernetworking-plugins",
    "crun",
    "dnsmasq-base",
    "nftables",
    "passt",
    "podman",
    "qemu-system-x86",
    "runc",
    "skopeo",
    "tinyproxy-bin",
    "umoci",
    "virtiofsd",
    // To look at what happened.
    "erofs-utils",
    "iperf3",
    "linux-perf",
    "strace",
];

/// Files that make it ours: where, what, and with which mode.
const FILES: &[(&str, &str, u32)] = &[
    ("etc/inittab", include_str!("../../host/inittab"), 0o644),
    ("etc/emulated-host/boot", include_str!("../../host/boot"), 0o755),
    ("etc/emulated-host/serve", include_str!("../../host/serve"), 0o755),
    ("etc/emulated-host/sshd_config", include_str!("../../host/sshd_config"), 0o644),
    ("etc/resolv.conf", "nameserver 10.0.2.3\n", 0o644),
    ("etc/hosts", "127.0.0.1 localhost emulated\n::1 localhost\n", 0o644),
];

/// Process 1 of the initial RAM disk, and the modules that it loads.
const INIT: &str = include_str!("../../host/init");
const INIT_MODULES: &[&str] = &[
    "drivers/acpi/nfit/nfit.ko",
    "drivers/nvdimm/libnvdimm.ko",
    "drivers/nvdimm/nd_btt.ko",
    "drivers/nvdimm/nd_pmem.ko",
];

/// Sparse; what a test writes has to fit beside a gigabyte of packages.
const DISK_BYTES: u64 = 16 << 30;

/// An image in the cache. Its disk is only read.
pub(crate) struct Image {
    /// An ext4 file system.
    pub(crate) disk: PathBuf,
    /// A kernel that can mount the disk as `/dev/nvme0n1` with what is built in.
    pub(crate) kernel: PathBuf,
    /// An initial RAM disk that mounts it when it is memory.
    pub(crate) initrd: PathBuf,
    /// The public half of the key that its sshd proves itself with, a line of `known_hosts`
    /// without the name.
    pub(crate) host_key: String,
}

/// Builds the image, or finds it in the cache.
pub(crate) fn image() -> Result<Image> {
    let mut key =
        Key::new().part("format", FORMAT).part("suite", SUITE).part("packages", PACKAGES.join(" "));
    for (path, content, _) in FILES {
        key = key.part(path, content);
    }
    key = key.part("init", INIT).part("modules", INIT_MODULES.join(" "));
    let entry = cache::entry("host-image", &key, build)?;
    let host_key = entry.join("host_key.pub");
    Ok(Image {
        disk: entry.join("disk.ext4"),
        kernel: entry.join("vmlinuz"),
        initrd: entry.join("initrd.cpio"),
        host_key: fs::read_to_string(&host_key).with_context(|| host_key.display().to_string())?,
    })
}

fn build(entry: &Path) -> Result<()> {
    packages::install(&["mmdebstrap", "e2fsprogs", "xz-utils", "cpio"])?;
    let root = entry.join("root");
    bootstrap(&root)?;
    for (path, content, mode) in FILES {
        write(&root.join(path), content, *mode)?;
    }
    let init = root.join("usr/sbin/init");
    symlink("/usr/bin/busybox", &init).with_context(|| init.display().to_string())?;
    // Every command comes through root's login shell: the small one.
    step::quiet(
        "emulated host: giving root a shell",
        Command::new("chroot").arg(&root).args(["usermod", "--shell", "/bin/sh", "root"]),
    )?;
    let modules = unpack_modules(&root)?;
    pack_initrd(&root, &modules, entry)?;
    copy(&root.join("vmlinuz"), &entry.join("vmlinuz"))?;
    copy(&root.join("etc/ssh/ssh_host_ed25519_key.pub"), &entry.join("host_key.pub"))?;

    let disk = entry.join("disk.ext4");
    File::create(&disk)
        .and_then(|file| file.set_len(DISK_BYTES))
        .with_context(|| disk.display().to_string())?;
    // No journal: nobody boots from this disk after a crash, every machine writes to a copy.
    step::quiet(
        "emulated host: making its disk",
        Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-O", "^has_journal", "-L", "root", "-d"])
            .args([&root, &disk]),
    )?;
    fs::remove_dir_all(&root).with_context(|| root.display().to_string())
}

/// Debian as its packages unpack it, from mmdebstrap's own choice of mirror.
fn bootstrap(root: &Path) -> Result<()> {
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .args(["--variant=minbase", "--dpkgopt=force-unsafe-io"])
        .args(["man", "locale", "doc"].map(|d| format!("--dpkgopt=path-exclude=/usr/share/{d}/*")))
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg(SUITE)
        .arg(root)
        // The kernel has its disk's driver built in: no initial RAM disk, which takes long to make.
        .env("INITRD", "No");
    step::quiet(
        &format!("emulated host: installing Debian {SUITE} (one to three minutes)"),
        &mut mmdebstrap,
    )
}

/// An emulated CPU takes seconds to unpack the modules of KVM at each boot. The answer is the
/// directory of the kernel's modules.
fn unpack_modules(root: &Path) -> Result<PathBuf> {
    let modules = root.join("usr/lib/modules");
    step::quiet(
        "emulated host: unpacking kernel modules",
        Command::new("find").arg(&modules).args([
            "-name",
            "*.ko.xz",
            "-exec",
            "xz",
            "--decompress",
            "{}",
            "+",
        ]),
    )?;
    let mut releases = fs::read_dir(&modules).with_context(|| modules.display().to_string())?;
    let release = releases.next().with_context(|| format!("{}: empty", modules.display()))??;
    step::quiet(
        "emulated host: listing kernel modules",
        Command::new("chroot").arg(root).arg("depmod").arg(release.file_name()),
    )?;
    Ok(release.path())
}

fn pack_initrd(root: &Path, modules: &Path, entry: &Path) -> Result<()> {
    let tree = entry.join("initrd");
    for directory in ["bin", "dev", "proc", "root", "sys"] {
        let directory = tree.join(directory);
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    }
    write(&tree.join("init"), INIT, 0o755)?;
    copy(&root.join("usr/bin/busybox"), &tree.join("bin/busybox"))?;
    for module in INIT_MODULES {
        let name = module.rsplit('/').next().unwrap_or(module);
        copy(&modules.join("kernel").join(module), &tree.join(name))?;
    }
    step::quiet(
        "emulated host: packing its initial RAM disk",
        Command::new("sh")
            .args(["-c", "find . | cpio --quiet --create --format=newc > ../initrd.cpio"])
            .current_dir(&tree),
    )?;
    fs::remove_dir_all(&tree).with_context(|| tree.display().to_string())
}

fn write(path: &Path, content: &str, mode: u32) -> Result<()> {
    let written = || -> io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, content)?;
        fs::set_permissions(path, Permissions::from_mode(mode))
    };
    written().with_context(|| path.display().to_string())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    Ok(())
}
