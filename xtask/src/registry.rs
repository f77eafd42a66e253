//! A registry on loopback: Debian's `docker-registry`, and `skopeo`, which pushes to it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result};

use crate::{packages, step};

/// Installs both.
pub(crate) fn install() -> Result<()> {
    packages::install(&["docker-registry", "skopeo"])
}

/// One that lives as long as this.
pub(crate) struct Registry {
    process: Child,
    host: String,
}

impl Registry {
    /// With its files below `place`, in `registry`.
    pub(crate) fn serve(place: &Path) -> Result<Self> {
        let config = place.join("registry.yml");
        let rootdirectory = place.join("registry");
        let said = format!(
            "version: 0.1\nlog: {{ level: info, formatter: text }}\n\
             storage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: 127.0.0.1:0 }}\n",
            rootdirectory.display()
        );
        fs::write(&config, said).with_context(|| config.display().to_string())?;
        let mut serve = Command::new("setpriv");
        serve.args(["--pdeathsig", "KILL", "docker-registry", "serve"]).arg(&config);
        serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = serve.spawn().context("docker-registry")?;
        let log = process.stderr.take().context("docker-registry says nothing")?;
        let mut registry = Self { process, host: String::new() };
        let mut lines = BufReader::new(log).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("listening on "));
        let host = line.as_ref().and_then(|line| {
            line.split_once("listening on ")?.1.split(['"', ',']).next().map(str::to_owned)
        });
        registry.host = host.context("docker-registry ended")?;
        // Nobody else reads what it says, and it must not stop for that.
        thread::spawn(move || lines.for_each(drop));
        Ok(registry)
    }

    /// Pushes an image that skopeo calls `from` (containers-transports(5)). Gives back what it is called to be
    /// pulled.
    pub(crate) fn push(&self, from: &str, name: &str) -> Result<String> {
        let image = format!("{}/{name}", self.host);
        let mut push = Command::new("skopeo");
        push.args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"]);
        push.arg(from).arg(format!("docker://{image}"));
        step::quiet(&format!("{name}: pushing"), &mut push)?;
        Ok(image)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself, which is as well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
