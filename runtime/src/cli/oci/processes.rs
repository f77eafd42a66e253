use proto::message::{ProcessInfo, Reply, Request};

use super::visited;
use crate::cli::table;
use crate::exit::Failure;
use crate::session::{SessionError, printable};
use crate::settings::Settings;

/// `ps ID`: the processes of a container, with the numbers they have in the guest.
pub(in crate::cli) fn processes(settings: &Settings, id: &str, json: bool) -> Result<u8, Failure> {
    let container = visited(settings, id)?;
    let name = container.record.name.to_string();
    let processes = match container.ask(Request::Processes { container: name })? {
        Reply::Processes { processes } => processes,
        reply => return Err(SessionError::WrongReply { reply }.into()),
    };
    if json {
        let pids: Vec<u32> = processes.iter().map(|process| process.pid).collect();
        println!("{}", serde_json::to_string(&pids)?);
        return Ok(0);
    }
    let head = ["UID", "PID", "PPID", "TIME", "AGE", "CMD"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(processes.iter().map(row));
    print!("{}", table(&rows));
    Ok(0)
}

fn row(process: &ProcessInfo) -> Vec<String> {
    let clock = |milliseconds: u64| {
        let seconds = milliseconds / 1000;
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    };
    vec![
        process.uid.to_string(),
        process.pid.to_string(),
        process.ppid.to_string(),
        clock(process.cpu_ms),
        clock(process.age_ms),
        printable(&process.command),
    ]
}
