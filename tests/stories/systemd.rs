//! Machines where systemd makes the cgroups, as most of podman's and all of Kubernetes' are.

use std::fs;
use std::process::Stdio;

use serde_json::json;
use tests::{Bundle, Outcome, Systemd};

crate::stories![a_container_is_a_scope_of_systemd, podman_leaves_cgroups_to_systemd];

fn program() -> String {
    tests::program().unwrap().to_str().unwrap().to_owned()
}

fn a_container_is_a_scope_of_systemd() {
    let machine = Systemd::start();
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.edit(|spec| {
        spec["linux"]["cgroupsPath"] = "story-a.slice:pre:one".into();
        spec["linux"]["resources"] = json!({
            "memory": { "limit": 64 << 20 },
            "cpu": { "quota": 150_000, "period": 100_000, "shares": 512, "cpus": "0" },
        });
    });
    let call = |args: &[&str]| {
        Outcome::of(&mut machine.command(program(), &[&["--systemd-cgroup"], args].concat()))
    };
    let show = |property: &str| {
        let args = ["show", "--value", "--property", property, "pre-one.scope"];
        let shown = Outcome::of(&mut machine.command("systemctl", &args)).expect_code(0);
        shown.text().trim().to_owned()
    };
    let path = bundle.path().to_str().unwrap();
    let create = ["--systemd-cgroup", "create", "--bundle", path, "one"];
    // A container keeps what it was given to write to.
    let made = || {
        let status = machine.command(program(), &create).stdout(Stdio::null()).status();
        assert!(status.unwrap().success());
    };
    made();
    assert_eq!(show("ActiveState"), "active");
    assert_eq!(show("ControlGroup"), "/story.slice/story-a.slice/pre-one.scope");
    assert_eq!(show("CPUQuotaPerSecUSec"), "1.500000s");
    assert_eq!(show("AllowedCPUs"), "0");
    assert_ne!(show("MemoryMax"), "infinity");
    let group = machine.cgroup("story.slice/story-a.slice/pre-one.scope");
    let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap();
    assert_eq!(processes.lines().count(), 3, "supervisor, VMM, file server: {processes}");
    call(&["start", "one"]).expect_code(0);
    call(&["update", "--cpu-quota", "50000", "one"]).expect_code(0);
    assert_eq!(show("CPUQuotaPerSecUSec"), "500ms");
    Outcome::of(&mut machine.command("systemctl", &["daemon-reload"])).expect_code(0);
    assert_eq!(fs::read_to_string(group.join("cpu.max")).unwrap(), "50000 100000\n");
    call(&["delete", "--force", "one"]).expect_code(0);
    assert_eq!((show("ActiveState").as_str(), group.exists()), ("inactive", false));

    bundle.edit(|spec| spec["linux"]["cgroupsPath"] = "/not/systemds".into());
    let refused = Outcome::of(&mut machine.command(program(), &create)).expect_code(1);
    assert!(refused.stderr.contains("linux.cgroupsPath /not/systemds"), "{}", refused.stderr);
    bundle.edit(|spec| spec["linux"]["cgroupsPath"] = "".into());
    made();
    assert!(machine.cgroup("system.slice/microvm-one.scope").exists());
    call(&["kill", "one", "KILL"]).expect_code(0);
    call(&["delete", "--force", "one"]).expect_code(0);
    assert!(!machine.cgroup("system.slice/microvm-one.scope").exists());
}

fn podman_leaves_cgroups_to_systemd() {
    const IMAGE: &str = "localhost/demo:latest";
    let machine = Systemd::start();
    let call = |args: &[&str]| {
        let program = program();
        let all = [&["--runtime", &program], args].concat();
        Outcome::of(&mut machine.command("podman", &all))
    };
    let manager = call(&["info", "--format", "{{.Host.CgroupManager}}"]).expect_code(0);
    assert_eq!(manager.text(), "systemd\n");
    let demo = std::env::var("MICROVM_DEMO").unwrap();
    call(&["load", "-q", "-i", &demo]).expect_code(0);
    let hello = call(&["run", "--rm", "--network", "none", IMAGE, "uname", "-r"]).expect_code(0);
    assert!(hello.text().ends_with("-microvm\n"), "{}", hello.text());
    let limits = ["--memory", "64m", "--cpus", "0.5"];
    let run = ["run", "-d", "--name", "web", "--network", "none"];
    call(&[&run[..], &limits, &[IMAGE, "sleep", "1000"]].concat()).expect_code(0);
    let id = call(&["inspect", "web", "--format", "{{.Id}}"]).expect_code(0);
    let group = machine.cgroup(&format!("machine.slice/libpod-{}.scope", id.text().trim()));
    assert_eq!(fs::read_to_string(group.join("cpu.max")).unwrap(), "50000 100000\n");
    call(&["exec", "web", "true"]).expect_code(0);
    let stats = call(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "web"]).expect_code(0);
    assert!(stats.text().contains("MB"), "{}", stats.text());
    call(&["rm", "-f", "-t", "0", "web"]).expect_code(0);
    assert!(!group.exists());

    // A unit that podman generates: systemd starts the container, and starts it again.
    let shared = tempfile::Builder::new().prefix("starts-").tempdir().unwrap();
    let volume = format!("{}:/starts", shared.path().display());
    let program = "echo up >> /starts/log; exec sleep 1000";
    let create = ["create", "--name", "unit", "--network", "none", "-v", &volume];
    call(&[&create[..], &[IMAGE, "sh", "-c", program]].concat()).expect_code(0);
    let unit = call(&["generate", "systemd", "--restart-policy", "always", "unit"]).expect_code(0);
    let file = shared.path().join("container-unit.service");
    fs::write(&file, unit.stdout).unwrap();
    let systemctl = |args: &[&str]| {
        Outcome::of(&mut machine.command("systemctl", args)).expect_code(0);
    };
    systemctl(&["link", file.to_str().unwrap()]);
    systemctl(&["start", "container-unit"]);
    let log = shared.path().join("log");
    let starts = || fs::read_to_string(&log).map_or(0, |text| text.lines().count());
    wait_until(|| starts() == 1);
    call(&["kill", "unit"]).expect_code(0);
    wait_until(|| starts() == 2);
    systemctl(&["stop", "container-unit"]);
    let status = call(&["inspect", "unit", "--format", "{{.State.Status}}"]).expect_code(0);
    assert_eq!(status.text(), "exited\n");
    call(&["rm", "unit"]).expect_code(0);
}

/// The story's watchdog ends what never happens.
fn wait_until(so: impl Fn() -> bool) {
    while !so() {
        std::thread::yield_now();
    }
}
