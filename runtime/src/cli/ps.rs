use clap::Args;
use serde::Serialize;

use super::oci::{FAILED, processes, threads};
use super::{Format, ago, table};
use crate::exit::Failure;
use crate::settings::Settings;
use crate::state::record::{SHORT_ID_LEN, Status};
use crate::state::{Entry, Root};

#[derive(Args, Debug)]
pub(super) struct Ps {
    /// Ended containers too.
    #[arg(short, long)]
    all: bool,
    /// Ids only.
    #[arg(short, long)]
    quiet: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Not the guest's processes: the host's threads that work for the container.
    #[arg(long, requires = "name")]
    threads: bool,
    /// The container whose processes to list.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// For other runtimes: options of ps, which is not run.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _options: Vec<String>,
}

/// A container as programs are told of it.
#[derive(Serialize)]
struct Row {
    id: String,
    name: String,
    image: String,
    command: Vec<String>,
    created: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    supervisor: Option<u32>,
}

impl Ps {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        if let (Some(name), true) = (&self.name, self.threads) {
            return threads(settings, name, self.format == Format::Json);
        }
        if let Some(name) = &self.name {
            let end = processes(settings, name, self.format == Format::Json);
            return end.map_err(|failure| Failure { code: FAILED, ..failure });
        }
        let mut rows = Vec::new();
        for entry in Root::open(&settings.root)?.entries()? {
            if !entry.alive && !self.all {
                continue;
            }
            match row(entry) {
                Ok(row) => rows.push(row),
                // One bad record does not hide the others.
                Err(failure) => eprintln!("microvm: {}", failure.message),
            }
        }
        match self.format {
            _ if self.quiet => rows.iter().for_each(|row| println!("{}", short(row))),
            Format::Json => println!("{}", serde_json::to_string_pretty(&rows)?),
            Format::Table => print!("{}", table(&lines(&rows))),
        }
        Ok(0)
    }
}

fn row(entry: Entry) -> Result<Row, Failure> {
    let record = entry.record?;
    let held = record.oci.as_ref().map(|oci| oci.status);
    Ok(Row {
        id: record.id.to_string(),
        name: record.name.to_string(),
        image: record.image,
        command: record.process.args,
        created: record.created,
        status: match (entry.alive, &record.outcome) {
            (true, _) => match held {
                Some(Status::Creating) => "creating",
                Some(Status::Created) => "created",
                Some(Status::Paused) => "paused",
                Some(Status::Running | Status::Stopped) | None => "running",
            },
            (false, Some(_)) => "exited",
            // Its supervisor was killed before it could say how the container ended.
            (false, None) => "dead",
        },
        exit_code: record.outcome.map(|outcome| outcome.exit_code),
        supervisor: entry.alive.then_some(record.supervisor),
    })
}

fn lines(rows: &[Row]) -> Vec<Vec<String>> {
    let head = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAME"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|row| {
        let status = match row.exit_code {
            Some(code) if row.status == "exited" => format!("exited ({code})"),
            _ => row.status.to_owned(),
        };
        vec![
            short(row).to_owned(),
            row.image.clone(),
            abridged(&row.command.join(" ")),
            ago(&row.created),
            status,
            row.name.clone(),
        ]
    }));
    lines
}

fn short(row: &Row) -> &str {
    &row.id[..SHORT_ID_LEN]
}

/// A command that fits in a column, without what would move the cursor.
fn abridged(command: &str) -> String {
    const MOST: usize = 30;
    let clean: String =
        command.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    if clean.chars().count() <= MOST {
        return clean;
    }
    let begin: String = clean.chars().take(MOST - 1).collect();
    format!("{begin}…")
}
