//! The tools people have, calling us as they call runc.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tests::{House, Outcome, Terminal};

/// The tools that these stories need.
pub(crate) const TOOLS: [&str; 5] = ["apparmor_parser", "podman", "containerd", "ctr", "buildah"];

crate::stories![
    podman_runs_in_the_foreground_and_its_codes_are_ours,
    podman_looks_after_a_container_in_the_background,
    podman_gives_a_person_a_terminal,
    podman_lends_directories_and_files,
    podman_limits_and_confines,
    podman_s_apparmor_profile_is_the_vm_s,
    podman_checks_health,
    podman_hears_what_a_vm_cannot_do,
    podman_takes_what_we_saved_and_we_what_it_saved,
    containerd_runs_tasks,
    buildah_builds_and_runs,
];

/// The demo image as podman and buildah know it.
pub(crate) const IMAGE: &str = "localhost/demo:latest";

fn program() -> String {
    tests::program().unwrap().to_str().unwrap().to_owned()
}

pub(crate) fn podman<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new("podman");
    command.args(["--runtime", &program()]).args(args).stdin(Stdio::null());
    command
}

#[track_caller]
pub(crate) fn call(args: &[&str]) -> Outcome {
    Outcome::of(&mut podman(args))
}

/// `podman run ARGS…` with no network.
#[track_caller]
fn run(args: &[&str]) -> Outcome {
    load();
    call(&[&["run", "--network", "none"], args].concat())
}

/// The demo image in podman's store, once.
pub(crate) fn load() {
    static LOADED: std::sync::Once = std::sync::Once::new();
    LOADED.call_once(|| {
        let demo = std::env::var("MICROVM_DEMO").unwrap();
        call(&["load", "-q", "-i", &demo]).expect_code(0);
    });
}

/// No container of podman's may be left, nor anything we made for one.
#[track_caller]
pub(crate) fn expect_nothing_left() {
    assert_eq!(call(&["ps", "-aq"]).expect_code(0).text(), "");
    let list = Outcome::of(Command::new(program()).args(["list", "-q"])).expect_code(0);
    assert_eq!(list.text(), "");
    let processes = Outcome::of(Command::new("ps").args(["-eo", "args"])).expect_code(0);
    assert!(!processes.text().contains("microvm vmm"), "{}", processes.text());
    assert!(!processes.text().contains("supervise-bundle"), "{}", processes.text());
}

fn podman_runs_in_the_foreground_and_its_codes_are_ours() {
    let hello = run(&["--rm", IMAGE, "sh", "-c", "uname -r; id -u; echo seen >&2; exit 7"]);
    let hello = hello.expect_code(7);
    assert!(hello.text().ends_with("-microvm\n0\n"), "{}", hello.text());
    assert_eq!(hello.stderr, "seen\n");
    run(&["--rm", IMAGE, "no-such-program"]).expect_code(127);
    run(&["--rm", IMAGE, "/etc"]).expect_code(126);
    let mut cat = podman(["run", "--rm", "-i", "--network", "none", IMAGE, "cat"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut cat.stdin.take().unwrap(), b"to and fro").unwrap();
    assert_eq!(cat.wait_with_output().unwrap().stdout, b"to and fro");
    expect_nothing_left();
}

fn podman_looks_after_a_container_in_the_background() {
    let script = "trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 0.2; done";
    run(&["-d", "--name", "web", IMAGE, "sh", "-c", script]).expect_code(0);
    let inspect = |what: &str| {
        let format = format!("{{{{.State.{what}}}}}");
        call(&["inspect", "web", "--format", &format]).expect_code(0).text().trim().to_owned()
    };
    assert_eq!(inspect("Status"), "running");
    let exec = call(&[
        "exec",
        "--user",
        "3",
        "--workdir",
        "/tmp",
        "web",
        "sh",
        "-c",
        "id -u; pwd; exit 5",
    ]);
    assert_eq!(exec.expect_code(5).text(), "3\n/tmp\n");
    let top = call(&["top", "web", "pid", "ppid", "user", "args"]).expect_code(0).text();
    let rows: Vec<Vec<_>> = top.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["PID", "PPID", "USER", "COMMAND"]);
    assert_eq!(rows[1][..5], ["1", "0", "root", "sh", "-c"], "{top}");
    assert!(call(&["top", "web"]).expect_code(0).text().contains("sh -c trap"));
    call(&["pause", "web"]).expect_code(0);
    assert_eq!(inspect("Status"), "paused");
    call(&["unpause", "web"]).expect_code(0);
    let stats = call(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "web"]).expect_code(0);
    assert!(stats.text().contains("MB"), "{}", stats.text());
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, "copied\n").unwrap();
    let source = file.path().to_str().unwrap();
    call(&["cp", source, "web:/tmp/copied"]).expect_code(0);
    assert_eq!(call(&["exec", "web", "cat", "/tmp/copied"]).expect_code(0).text(), "copied\n");
    assert!(!Path::new("/tmp/copied").exists(), "it was copied to the host");
    call(&["stop", "-t", "60", "web"]).expect_code(0);
    assert_eq!(call(&["logs", "web"]).expect_code(0).text(), "up\nbye\n");
    assert_eq!((inspect("Status"), inspect("ExitCode")), ("exited".into(), "4".into()));
    call(&["restart", "-t", "60", "web"]).expect_code(0);
    call(&["kill", "web"]).expect_code(0);
    assert_eq!(call(&["wait", "web"]).expect_code(0).text(), "137\n");
    call(&["rm", "web"]).expect_code(0);
    expect_nothing_left();
}

fn podman_gives_a_person_a_terminal() {
    load();
    let words = ["run", "--rm", "-it", "--network", "none", IMAGE, "sh"];
    let mut terminal = Terminal::start(podman(words), 29, 87);
    // As a person would: podman loses what is typed before it is attached.
    terminal.read_until("# ");
    terminal.write("stty size; echo d''one\n");
    let shown = terminal.read_until("done\r\n");
    assert!(shown.contains("29 87\r\n"), "{shown}");
    terminal.read_until("# ");
    // Said by the job itself: it is in the foreground then, and the shell no longer reads keys.
    terminal.write("sh -c 'echo re\"\"ady; exec sleep 1000'\n");
    terminal.read_until("ready\r\n");
    terminal.write("\x03");
    terminal.read_until("# ");
    terminal.write("exit 6\n");
    assert_eq!(terminal.finish().code, 6);
    expect_nothing_left();
}

fn podman_lends_directories_and_files() {
    let host = tempfile::Builder::new().prefix("volume-").tempdir().unwrap();
    fs::write(host.path().join("one"), "one\n").unwrap();
    fs::create_dir(host.path().join("data")).unwrap();
    let file = format!("{}/one:/etc/one:ro", host.path().display());
    let data = format!("{}/data:/data", host.path().display());
    let script = "cat /etc/one; echo no > /etc/one; echo two > /data/two; touch /scratch/x; \
                  stat -f -c %T /scratch; touch /root-file; echo $?";
    let said = run(&[
        "--rm",
        "--read-only",
        "--tmpfs",
        "/scratch",
        "-v",
        &file,
        "-v",
        &data,
        IMAGE,
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(said.expect_code(0).text(), "one\ntmpfs\n1\n");
    assert_eq!(fs::read_to_string(host.path().join("data/two")).unwrap(), "two\n");
    expect_nothing_left();
}

fn podman_limits_and_confines() {
    let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max; \
                  nproc; id -u; grep -E '^(CapEff|Seccomp):' /proc/self/status; chown 5 /tmp";
    let said = run(&[
        "--rm",
        "--memory",
        "96m",
        "--pids-limit",
        "50",
        "--cpus",
        "2",
        "--user",
        "0",
        "--cap-drop",
        "all",
        "--cap-add",
        "kill",
        IMAGE,
        "sh",
        "-c",
        script,
    ]);
    let said = said.expect_code(1);
    let wanted = "100663296\n50\n200000 100000\n2\n0\nCapEff:\t0000000000000020\nSeccomp:\t2\n";
    assert_eq!(said.text(), wanted);
    expect_nothing_left();
}

fn podman_s_apparmor_profile_is_the_vm_s() {
    run(&["-d", "--name", "web", IMAGE, "sleep", "1000"]).expect_code(0);
    let pid = call(&["inspect", "web", "--format", "{{.State.Pid}}"]).expect_code(0);
    let vmm = Outcome::of(Command::new("pgrep").args(["-P", pid.text().trim(), "-f", "vmm"]));
    let label = format!("/proc/{}/attr/apparmor/current", vmm.expect_code(0).text().trim());
    let label = fs::read_to_string(label).unwrap();
    assert!(label.starts_with("containers-default") && label.contains("(enforce)"), "{label}");
    call(&["exec", "web", "true"]).expect_code(0);
    call(&["rm", "-f", "-t", "0", "web"]).expect_code(0);
    expect_nothing_left();
}

fn podman_checks_health() {
    let check = ["--health-cmd", "test -e /tmp/well", "--health-interval", "disable"];
    let options = [&["-d", "--name", "web", "--health-retries", "1"], &check[..]].concat();
    run(&[&options[..], &[IMAGE, "sleep", "1000"]].concat()).expect_code(0);
    call(&["healthcheck", "run", "web"]).expect_code(1);
    call(&["exec", "web", "touch", "/tmp/well"]).expect_code(0);
    call(&["healthcheck", "run", "web"]).expect_code(0);
    let health = call(&["inspect", "web", "--format", "{{.State.Health.Status}}"]);
    assert_eq!(health.expect_code(0).text(), "healthy\n");
    call(&["rm", "-f", "-t", "0", "web"]).expect_code(0);
    expect_nothing_left();
}

fn podman_hears_what_a_vm_cannot_do() {
    load();
    let refused = call(&["run", "--rm", "--network", "host", IMAGE, "true"]).expect_code(126);
    assert!(
        refused.stderr.contains("a guest cannot be on the host's network"),
        "{}",
        refused.stderr
    );
    expect_nothing_left();
}

/// A containerd of our own.
/// A containerd of a story's own.
pub(crate) struct Containerd {
    directory: tempfile::TempDir,
    process: Child,
}

impl Containerd {
    pub(crate) fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("containerd-").tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\n  address = {:?}\n[ttrpc]\n  address = {:?}\n",
            at("root"),
            at("state"),
            at("socket"),
            at("ttrpc"),
        );
        fs::write(at("config.toml"), config).unwrap();
        let log = fs::File::create(at("log")).unwrap();
        let process = Command::new("containerd")
            .args(["--config", &at("config.toml")])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let containerd = Self { directory, process };
        while !containerd.ctr(&["version"]).code.eq(&0) {
            std::thread::yield_now();
        }
        containerd
    }

    /// The demo image, as it knows it.
    #[track_caller]
    pub(crate) fn demo(&self) -> String {
        self.ctr(&["images", "import", &std::env::var("MICROVM_DEMO").unwrap()]).expect_code(0);
        self.ctr(&["images", "ls", "-q"]).expect_code(0).text().trim().to_owned()
    }

    pub(crate) fn ctr(&self, args: &[&str]) -> Outcome {
        let socket = self.directory.path().join("socket");
        Outcome::of(Command::new("ctr").arg("-a").arg(socket).args(args).stdin(Stdio::null()))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.process.wait();
    }
}

fn podman_takes_what_we_saved_and_we_what_it_saved() {
    const NAME: &str = "localhost/traveller:1";
    let house = House::new();
    let place = tempfile::Builder::new().prefix("story-").tempdir().unwrap();
    let store = place.path().join("store");
    let ours = |args: &[&str]| {
        Outcome::of(&mut house.command_with_store(&store, args)).expect_code(0).text()
    };
    ours(&["load", &std::env::var("MICROVM_DEMO").unwrap()]);
    ours(&["tag", "demo", NAME]);
    for format in ["docker-archive", "oci-archive"] {
        let [there, back] =
            ["there", "back"].map(|way| place.path().join(format!("{way}-{format}")));
        let [there, back] = [&there, &back].map(|path| path.to_str().unwrap());
        ours(&["save", "--format", format, "-o", there, NAME]);
        ours(&["rmi", NAME]);
        call(&["load", "-q", "-i", there]).expect_code(0);
        assert_eq!(run(&["--rm", NAME, "echo", "there"]).expect_code(0).text(), "there\n");
        call(&["save", "-q", "--format", format, "-o", back, NAME]).expect_code(0);
        call(&["rmi", NAME]).expect_code(0);
        assert_eq!(ours(&["load", "-i", back]), format!("{NAME}\n"));
        assert_eq!(ours(&["run", "--rm", NAME, "echo", "back"]), "back\n");
    }
    house.expect_nothing_left();
}

fn containerd_runs_tasks() {
    let containerd = Containerd::start();
    let image = containerd.demo();
    let program = program();
    let runtime = ["--runtime", "io.containerd.runc.v2", "--runc-binary", &program, &image];
    let run = |options: &[&str], args: &[&str]| {
        containerd.ctr(&[&["run"], options, &runtime, args].concat())
    };
    let said = run(&["--rm"], &["one", "sh", "-c", "uname -r; exit 3"]).expect_code(3);
    assert!(said.text().ends_with("-microvm\n"), "{}", said.text());
    run(&["-d"], &["two", "sleep", "1000"]).expect_code(0);
    let task = |args: &[&str]| containerd.ctr(&[&["task"], args].concat());
    task(&["exec", "--exec-id", "e", "two", "sh", "-c", "exit 4"]).expect_code(4);
    task(&["pause", "two"]).expect_code(0);
    assert!(task(&["ls"]).expect_code(0).text().contains("PAUSED"));
    task(&["resume", "two"]).expect_code(0);
    assert!(task(&["metrics", "two"]).expect_code(0).text().contains("memory.usage"));
    task(&["kill", "-s", "9", "two"]).expect_code(0);
    let deleted = task(&["delete", "two"]).expect_code(0);
    assert!(deleted.stderr.contains("137"), "{}", deleted.stderr);
    containerd.ctr(&["container", "delete", "two"]).expect_code(0);
    assert_eq!(containerd.ctr(&["container", "ls", "-q"]).expect_code(0).text(), "");
}

fn buildah_builds_and_runs() {
    load();
    let context = tempfile::Builder::new().prefix("build-").tempdir().unwrap();
    let file = format!("FROM {IMAGE}\nRUN uname -r > /kernel\nRUN cat /kernel && touch /built\n");
    fs::write(context.path().join("Containerfile"), file).unwrap();
    let buildah = |args: &[&str], place: &Path| {
        let mut command = Command::new("buildah");
        Outcome::of(command.args(args).arg(place).stdin(Stdio::null()))
    };
    let runtime = ["bud", "--runtime", &program(), "--network", "none", "-t", "built"];
    let built = buildah(&runtime, context.path()).expect_code(0);
    assert!(built.text().contains("-microvm\n"), "{}{}", built.text(), built.stderr);
    let said = run(&["--rm", "localhost/built", "ls", "/built"]).expect_code(0);
    assert_eq!(said.text(), "/built\n");
    call(&["rmi", "localhost/built"]).expect_code(0);

    let from = ["from", "--pull-never", "--name", "workshop", IMAGE];
    Outcome::of(Command::new("buildah").args(from)).expect_code(0);
    let run = ["run", "--runtime", &program(), "--isolation", "oci", "--network", "none"];
    let mut inside = Command::new("buildah");
    inside.args(run).args(["workshop", "--", "uname", "-r"]).stdin(Stdio::null());
    let said = Outcome::of(&mut inside).expect_code(0);
    assert!(said.text().ends_with("-microvm\n"), "{}", said.text());
    Outcome::of(Command::new("buildah").args(["rm", "workshop"])).expect_code(0);
    expect_nothing_left();
}
