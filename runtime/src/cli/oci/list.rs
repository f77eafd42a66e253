use clap::Args;

use crate::cli::{Format, table};
use crate::exit::Failure;
use crate::oci::state::Known;
use crate::settings::Settings;
use crate::state::Root;

#[derive(Args, Debug)]
pub(in crate::cli) struct List {
    /// How.
    #[arg(short, long, value_enum, default_value = "table")]
    format: Format,
    /// Ids only.
    #[arg(short, long)]
    quiet: bool,
}

impl List {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let mut states = Vec::new();
        for entry in Root::open(&settings.root)?.entries()? {
            match Known::new(entry) {
                Ok(known) => states.push(known.state()),
                // One bad record does not hide the others.
                Err(error) => eprintln!("microvm: {}", Failure::of(&error).message),
            }
        }
        if self.quiet {
            states.iter().for_each(|state| println!("{}", state.id));
            return Ok(0);
        }
        match self.format {
            // As runc says that there are none.
            Format::Json if states.is_empty() => println!("null"),
            Format::Json => println!("{}", serde_json::to_string(&states)?),
            Format::Table => {
                let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"];
                let mut rows = vec![head.map(str::to_owned).to_vec()];
                rows.extend(states.into_iter().map(|state| {
                    let bundle = state.bundle.display().to_string();
                    let (pid, status) = (state.pid.to_string(), state.status.to_string());
                    vec![state.id, pid, status, bundle, state.created, state.owner]
                }));
                print!("{}", table(&rows));
            }
        }
        Ok(0)
    }
}
