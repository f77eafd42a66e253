//! The emulated hosts of this checkout: started, found again and ended.
//!
//! One is what people work with; tests take more where there are processors for them. Each is a directory
//! in the cache. QEMU holds a record lock on `pid` as long as it lives, and the
//! kernel tells who holds one: that, and no remembered number, says whether the host is up. Its
//! companions (the file server and the ssh connection) end when it ends.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Flock, FlockType, Pid, Signal, fcntl_getlk, kill_process};
use serde::{Deserialize, Serialize};

use super::image::{self, Image};
use super::machine::{self, Clock, escaped};
use super::{qmp, ssh};
use crate::cache::{self, Key};
use crate::{paths, step};

/// QEMU takes from this machine what is used of it.
const RAM: &str = "6G";

/// A host that is not ready by then hangs: on a busy machine it takes half a minute.
const READY_SECONDS: i64 = 300;

/// The place of a host of this checkout, whether it is up or not.
pub(crate) struct Instance {
    directory: PathBuf,
}

/// What can be there of a host.
pub(crate) enum Found {
    /// No process.
    Nothing,
    /// QEMU's process, and nobody can connect to it: not yet, or not any more.
    Half(Pid),
    /// A host to work with.
    Up(Up),
}

/// A host that is up.
pub(crate) struct Up {
    directory: PathBuf,
    /// QEMU's process.
    pub(crate) pid: Pid,
    facts: Facts,
}

/// What cannot be seen from outside, written once the host is ready.
#[derive(Serialize, Deserialize)]
struct Facts {
    /// On loopback, where its sshd answers.
    ssh_port: u16,
    /// Device and inode of the directory it shares: a `target` that was removed and made anew is
    /// another one.
    shared: (u64, u64),
    /// Of the image it booted from.
    disk: PathBuf,
}

impl Instance {
    /// The one of this checkout that people work with.
    pub(crate) fn of_checkout() -> Result<Self> {
        Self::number(0)
    }

    /// So many of this checkout, that one first.
    pub(crate) fn several(count: usize) -> Result<Vec<Self>> {
        (0..count).map(Self::number).collect()
    }

    /// All that this checkout ever had.
    pub(crate) fn all_of_checkout() -> Result<Vec<Self>> {
        let mut count = 0;
        while place(count)?.is_dir() {
            count += 1;
        }
        Self::several(count)
    }

    fn number(number: usize) -> Result<Self> {
        let directory = place(number)?;
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        Ok(Self { directory })
    }

    /// Those of all checkouts that ever had one.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let hosts = hosts()?;
        let entries = fs::read_dir(&hosts).with_context(|| hosts.display().to_string())?;
        let mut all = Vec::new();
        for entry in entries {
            let directory = entry.with_context(|| hosts.display().to_string())?.path();
            if directory.is_dir() {
                all.push(Self { directory });
            }
        }
        Ok(all)
    }

    /// What there is of the host.
    pub(crate) fn find(&self) -> Result<Found> {
        let Some(pid) = self.qemu()? else { return Ok(Found::Nothing) };
        // They are written last: without them the host is on its way up, or was left there.
        let facts = fs::read(self.directory.join("facts.json"));
        let facts = facts.ok().and_then(|facts| serde_json::from_slice(&facts).ok());
        Ok(match facts {
            Some(facts) => Found::Up(Up { directory: self.directory.clone(), pid, facts }),
            None => Found::Half(pid),
        })
    }

    /// The host, started if it is not up, or if it is of another image or shares a directory that
    /// is gone.
    pub(crate) fn up(&self) -> Result<Up> {
        fs::create_dir_all(paths::target())?;
        let image = image::image()?;
        let shared = shared()?;
        let _lock = self.lock()?;
        let up = match self.find()? {
            Found::Up(up) if up.facts.shared == shared && up.facts.disk == image.disk => up,
            found => {
                if !matches!(found, Found::Nothing) {
                    step::say("emulated host: it is of no use any more, starting another");
                }
                self.end()?;
                self.start(&image, shared).or_else(|error| self.end().and(Err(error)))?
            }
        };
        up.copy_outputs()?;
        Ok(up)
    }

    /// Ends the host if it is up, and everything that was written in it is gone. Says whether
    /// there was one.
    pub(crate) fn down(&self) -> Result<bool> {
        let _lock = self.lock()?;
        self.end()
    }

    fn lock(&self) -> Result<File> {
        cache::lock(&self.directory.join("lock"), "emulated host")
    }

    /// The process that holds the lock on `pid`.
    fn qemu(&self) -> Result<Option<Pid>> {
        let path = self.directory.join("pid");
        let Ok(file) = File::open(&path) else { return Ok(None) };
        let whole = Flock::from(FlockType::WriteLock);
        let holder = fcntl_getlk(&file, &whole).with_context(|| path.display().to_string())?;
        Ok(holder.and_then(|lock| lock.pid))
    }

    /// Ends what is there, however far it came, and returns when it is gone.
    fn end(&self) -> Result<bool> {
        let pid_file = self.directory.join("pid");
        let connection = UnixStream::connect(self.directory.join("ssh.sock"));
        let qemu = self.qemu()?;
        if let Some(pid) = qemu {
            kill_process(pid, Signal::KILL).with_context(|| format!("ending QEMU, {pid:?}"))?;
            wait_for(|| Ok(fcntl_lock(File::open(&pid_file)?, FlockOperation::LockShared)?))
                .with_context(|| pid_file.display().to_string())?;
        }
        // The others end by themselves when QEMU has gone. A file server that QEMU has never
        // connected to still waits: somebody who comes and goes is the same to it.
        if let Ok(mut connection) = connection {
            let _ = io::copy(&mut connection, &mut io::sink());
        }
        let _ = UnixStream::connect(self.directory.join("files.sock"));
        let files = self.directory.join("files");
        wait_for(|| Ok(flock(File::open(&files)?, FlockOperation::LockShared)?))
            .with_context(|| files.display().to_string())?;
        Ok(qemu.is_some())
    }

    fn start(&self, image: &Image, shared: (u64, u64)) -> Result<Up> {
        step::say("emulated host: starting");
        let began = Instant::now();
        let at = |name: &str| self.directory.join(name);
        self.clear()?;
        machine::install()?;
        let key = ssh::new_key(&at("key"))?;
        serve_files(&paths::target(), &at("files"), &at("files.sock"))?;

        let mut qemu = machine::machine(image, Clock::Real, &format!("serve=ssh ssh_key={key}"))?;
        qemu.args(["-machine", "q35,memory-backend=ram", "-m", RAM]);
        qemu.args(["-object", &format!("memory-backend-memfd,id=ram,share=on,size={RAM}")]);
        qemu.args(["-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:0-:22"]);
        qemu.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
        qemu.args(["-chardev", &format!("socket,id=files,path={}", escaped(&at("files.sock")))]);
        qemu.args(["-device", "vhost-user-fs-pci,chardev=files,tag=target"]);
        qemu.arg("-qmp").arg(format!("unix:{},server=on,wait=off", escaped(&at("qmp.sock"))));
        qemu.arg("-pidfile").arg(at("pid"));
        qemu.arg("-serial").arg(format!("file:{}", at("console.log").display()));
        qemu.args(["-chardev", "stdio,id=ready,signal=off", "-serial", "chardev:ready"]);
        let log = File::create(at("qemu.log")).context("qemu.log")?;
        let mut qemu = qemu
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("starting QEMU")?;
        self.wait_until_ready(&mut qemu)?;

        let facts = Facts {
            ssh_port: qmp::forwarded_port(&at("qmp.sock"))?,
            shared,
            disk: image.disk.clone(),
        };
        let pid = Pid::from_child(&qemu);
        let up = Up { directory: self.directory.clone(), pid, facts };
        ssh::connect(&up, &image.host_key)?;
        up.mount_target()?;
        fs::write(at("facts.json"), serde_json::to_vec(&up.facts)?).context("facts.json")?;
        step::say(&format!("emulated host: up in {:.1} s", began.elapsed().as_secs_f32()));
        Ok(up)
    }

    /// Removes what the last host left, all but the lock.
    fn clear(&self) -> Result<()> {
        let shown = || self.directory.display().to_string();
        for entry in fs::read_dir(&self.directory).with_context(shown)? {
            let path = entry.with_context(shown)?.path();
            if !path.ends_with("lock") {
                fs::remove_file(&path).with_context(|| path.display().to_string())?;
            }
        }
        Ok(())
    }

    /// Returns when the machine says that somebody can connect. If it ends instead, the error has
    /// its last words.
    fn wait_until_ready(&self, qemu: &mut Child) -> Result<()> {
        let stdout = qemu.stdout.take().context("QEMU has no standard output")?;
        let deadline = Timespec { tv_sec: READY_SECONDS, tv_nsec: 0 };
        let heard = poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&deadline))?;
        let mut line = String::new();
        if heard > 0 {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if line.trim_end() == "ready" {
            return Ok(());
        }
        // It may have ended already.
        let _ = qemu.kill();
        let status = qemu.wait()?;
        show_logs(&self.directory);
        if heard == 0 {
            bail!("the emulated host did not come up in {READY_SECONDS} s");
        }
        bail!("the emulated host ended before it was up, QEMU: {status}")
    }
}

impl Up {
    /// In the host, where a copy of the outputs is, as they were when [`Instance::up`] was called.
    /// Reading the kernel from the shared directory for every VM takes seconds.
    pub(crate) const OUTPUTS: &str = "/opt/microvm";

    /// The disk of the image it booted from.
    pub(crate) fn image(&self) -> &Path {
        &self.facts.disk
    }

    /// Does what is done once in the life of a host, and again if `key` is another than last time.
    pub(crate) fn once(
        &self,
        name: &str,
        key: &str,
        act: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let done = self.file(&format!("{name}.done"));
        if fs::read_to_string(&done).is_ok_and(|last| last == key) {
            return Ok(());
        }
        act()?;
        fs::write(&done, key).with_context(|| done.display().to_string())
    }

    /// Shows the end of what QEMU and the machine in it had to say.
    pub(crate) fn show_logs(&self) {
        show_logs(&self.directory);
    }

    /// A file of the instance.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// On loopback, where its sshd answers.
    pub(super) fn ssh_port(&self) -> u16 {
        self.facts.ssh_port
    }

    fn copy_outputs(&self) -> Result<()> {
        let outputs = paths::outputs();
        let Ok(entries) = fs::read_dir(&outputs) else { return Ok(()) };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.with_context(|| outputs.display().to_string())?;
            let seen = entry.metadata().with_context(|| entry.path().display().to_string())?;
            if seen.is_file() {
                files.push((entry.path(), seen.len(), seen.mtime(), seen.mtime_nsec()));
            }
        }
        if files.is_empty() {
            return Ok(());
        }
        files.sort();
        let key = Key::new().part("files", format!("{files:?}")).short();
        self.once("outputs", &key, || {
            // Whoever runs the old ones goes on with them.
            let script = "rm -rf \"$0.new\" && mkdir \"$0.new\" && cp \"$@\" \"$0.new\" \
                          && rm -rf \"$0\" && mv \"$0.new\" \"$0\"";
            let words = ["sh", "-c", script, Self::OUTPUTS].map(OsStr::new);
            let words = words.into_iter().chain(files.iter().map(|file| file.0.as_os_str()));
            let copy = &mut ssh::command(self, Path::new("/"), words);
            step::quiet("emulated host: copying the outputs", copy)
        })
    }

    /// The checkout's `target` is at the same path inside.
    fn mount_target(&self) -> Result<()> {
        let target = paths::target();
        let script = "mkdir -p \"$0\" && mount -t virtiofs target \"$0\"";
        let words = ["sh", "-c", script, &target.to_string_lossy()];
        step::read(
            "mounting target in the emulated host",
            &mut ssh::command(self, Path::new("/"), words),
        )?;
        Ok(())
    }
}

/// Serves `directory` to the QEMU that connects to `socket`, until that one ends. The file `alive`
/// is locked meanwhile.
fn serve_files(directory: &Path, alive: &Path, socket: &Path) -> Result<()> {
    let listener = UnixListener::bind(socket).with_context(|| socket.display().to_string())?;
    let alive = File::create(alive).with_context(|| alive.display().to_string())?;
    flock(&alive, FlockOperation::LockExclusive)?;
    // Both are for the child to inherit, and closed here when this returns.
    fcntl_setfd(&listener, FdFlags::empty())?;
    fcntl_setfd(&alive, FdFlags::empty())?;
    Command::new("setsid")
        .arg("/usr/lib/qemu/virtiofsd")
        .arg(format!("--fd={}", listener.as_raw_fd()))
        // What was built a moment ago is seen at once: nothing is believed for any time.
        .args(["-o", "cache=auto,timeout=0,flock,xattr", "-o"])
        .arg(format!("source={}", directory.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting virtiofsd")?;
    Ok(())
}

fn show_logs(directory: &Path) {
    for log in ["qemu.log", "console.log"] {
        step::show_last_lines(&fs::read(directory.join(log)).unwrap_or_default());
    }
}

/// The directory of this checkout's host of that number.
fn place(number: usize) -> Result<PathBuf> {
    let checkout = paths::checkout();
    let key = Key::new().part("checkout", checkout.as_os_str().as_encoded_bytes());
    let key = if number == 0 { key } else { key.part("number", number.to_string()) };
    Ok(hosts()?.join(key.short()))
}

fn hosts() -> Result<PathBuf> {
    Ok(paths::cache()?.join("hosts"))
}

/// Device and inode of `target`.
fn shared() -> Result<(u64, u64)> {
    let target = paths::target();
    let seen = fs::metadata(&target).with_context(|| target.display().to_string())?;
    Ok((seen.dev(), seen.ino()))
}

/// Blocks on a lock on a file; one that is not there is not locked.
fn wait_for(lock: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    match lock() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
