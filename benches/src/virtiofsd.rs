//! The same files through virtiofsd, to a guest of QEMU's with the same kernel: what a user of another VMM has.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::daemon::Daemon;
use crate::inside::{self, PROGRAM};
use crate::race::PATH;

/// Where its package puts it.
const VIRTIOFSD: &str = "/usr/libexec/virtiofsd";

/// What the guest calls its share, and where it has it.
const TAG: &str = "shared";
const DATA: &str = "/data";

/// A file of the share, for what the guest has to say.
const SAID: &str = "said";

/// A guest that can be started again and again.
pub(crate) struct Guest {
    kernel: PathBuf,
    initramfs: PathBuf,
    socket: PathBuf,
}

impl Guest {
    /// Where it has the files of the share's top.
    pub(crate) const FILES: &str = "/data/files";

    /// With the kernel and the demo's programs of `outputs`; what it needs besides is made in `scratch`.
    pub(crate) fn new(outputs: &Path, scratch: &Path) -> Result<Self> {
        let (root, packed) = (scratch.join("initramfs"), scratch.join("initramfs.cpio"));
        let mut copy = Command::new("cp");
        run(copy.arg("--archive").arg(outputs.join("demo-rootfs")).arg(&root))?;
        let inside = |path: &str| root.join(path.trim_start_matches('/'));
        fs::copy(inside::on_host()?, inside(PROGRAM)).context("this program")?;
        fs::create_dir(inside(DATA)).context(DATA)?;
        let init = inside("init");
        let script = format!(
            "#!/bin/sh\nmount -t virtiofs {TAG} {DATA}\n{PROGRAM} ${{words//,/ }} > {DATA}/{SAID} 2>&1\n\
             umount {DATA}\nreboot -f\n"
        );
        fs::write(&init, script).with_context(|| init.display().to_string())?;
        fs::set_permissions(&init, PermissionsExt::from_mode(0o755))?;
        let mut pack = Command::new("/bin/sh");
        pack.args(["-c", "find . | busybox cpio -o -H newc > \"$1\"", "sh"]).arg(&packed);
        run(pack.current_dir(&root))?;
        let kernel = outputs.join("vmlinux");
        Ok(Self { kernel, initramfs: packed, socket: scratch.join("virtiofsd.sock") })
    }

    /// Lets the stopwatch do as it is told in a guest that has `shared`, and gives the first line that it says.
    pub(crate) fn says(&self, shared: &Path, words: &[&str]) -> Result<String> {
        let mut server = Command::new(VIRTIOFSD);
        server.arg("--socket-path").arg(&self.socket).arg("--shared-dir").arg(shared);
        // Names and attributes are a second old at most, which is what it does by itself.
        server.args(["--cache", "auto", "--sandbox", "none", "--log-level", "info"]);
        let server = Daemon::start(server, "Waiting for vhost-user socket connection")?;
        run(&mut self.qemu(words))?;
        drop(server);
        let said = shared.join(SAID);
        let said = fs::read_to_string(&said).with_context(|| said.display().to_string())?;
        Ok(said.lines().next().unwrap_or_default().to_owned())
    }

    fn qemu(&self, words: &[&str]) -> Command {
        // What is behind `--` is not for init alone: QEMU says there what devices it has.
        let words = words.join(",");
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.env_clear().env("PATH", PATH);
        qemu.args(["-machine", "microvm,accel=kvm,acpi=off,memory-backend=memory"])
            .args(["-cpu", "host", "-smp", "1", "-m", "512M"])
            .args(["-object", "memory-backend-memfd,id=memory,size=512M,share=on"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .arg("-chardev")
            .arg(format!("socket,id=files,path={}", self.socket.display()))
            .args(["-device", &format!("vhost-user-fs-device,chardev=files,tag={TAG}")])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs)
            .args(["-append", &format!("quiet tsc=reliable reboot=t panic=-1 words={words}")]);
        qemu.stdin(Stdio::null());
        qemu
    }
}

/// Runs it to its end, which is to be a good one.
fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().display().to_string();
    let output = command.output().with_context(|| name.clone())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {}: {}", output.status, said.trim());
    Ok(())
}
