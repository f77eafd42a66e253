//! The one question that only QEMU can answer.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// The port on loopback that the machine's own chose for its forwarding to the guest's sshd.
pub(super) fn forwarded_port(socket: &Path) -> Result<u16> {
    let stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
    let mut qemu = BufReader::new(stream);
    // It greets first.
    qemu.read_line(&mut String::new())?;
    ask(&mut qemu, &json!({ "execute": "qmp_capabilities" }))?;
    let table = ask(
        &mut qemu,
        &json!({
            "execute": "human-monitor-command",
            "arguments": { "command-line": "info usernet" },
        }),
    )?;
    let table = table.as_str().unwrap_or_default();
    port_in(table).with_context(|| format!("QEMU forwards no port: {table:?}"))
}

fn ask(qemu: &mut BufReader<UnixStream>, question: &Value) -> Result<Value> {
    writeln!(qemu.get_mut(), "{question}")?;
    loop {
        let mut line = String::new();
        if qemu.read_line(&mut line)? == 0 {
            bail!("QEMU went away over {question}");
        }
        // Events come in between.
        let mut answer: Value = serde_json::from_str(&line)?;
        if let Some(error) = answer.get("error") {
            bail!("QEMU, over {question}: {error}");
        }
        if let Some(answer) = answer.get_mut("return") {
            return Ok(answer.take());
        }
    }
}

/// Lines are `TCP[HOST_FORWARD]  9  127.0.0.1 44859  10.0.2.15  22  0  0`.
fn port_in(table: &str) -> Option<u16> {
    let line = table.lines().find(|line| line.contains("HOST_FORWARD"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forwarded_port_is_found_among_connections() {
        let table = "Hub -1 (net):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  TCP[ESTABLISHED]  12       127.0.0.1 50000       10.0.2.15    22     0     0\r\n  TCP[HOST_FORWARD]   9       127.0.0.1 44859       10.0.2.15    22     0     0\r\n";
        assert_eq!(port_in(table), Some(44859));
        assert_eq!(port_in("Hub -1 (net):\r\n"), None);
    }
}
