//! A veth from the host into a network namespace, as an engine makes it.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A network namespace with an end of a veth. Dropping it takes both away.
pub(super) struct Wire {
    namespace: String,
    /// The host's end.
    pub(super) host: String,
}

impl Wire {
    /// The host's address on it.
    pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);

    /// The namespace of that name.
    pub(super) fn new(name: &str) -> Result<Self> {
        ip(&format!("netns add {name}"))?;
        let wire = Self { namespace: name.to_owned(), host: format!("{name}0") };
        let (host, address) = (&wire.host, Self::HOST);
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("link add {host} type veth peer name eth0 netns {name}"))?;
        ip(&format!("address add {address}/24 dev {host}"))?;
        ip(&format!("link set {host} up"))?;
        ip(&format!("-n {name} address add 10.79.0.2/24 dev eth0"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        Ok(wire)
    }

    /// Where the namespace is.
    pub(super) fn path(&self) -> String {
        format!("/run/netns/{}", self.namespace)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The veth goes with the namespace. Nobody hears what does not: the machine is thrown away.
        let _ = ip(&format!("netns delete {}", self.namespace));
    }
}

/// `ip WORDS`.
fn ip(words: &str) -> Result<()> {
    let output = Command::new("ip").args(words.split(' ')).output().context("ip")?;
    if !output.status.success() {
        bail!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
