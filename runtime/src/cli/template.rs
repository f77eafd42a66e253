use clap::{Args, Subcommand};

use super::{ago, megabytes, table};
use crate::exit::Failure;
use crate::host;
use crate::plan;
use crate::platform::Platform;
use crate::settings::Settings;
use crate::state::Root;
use crate::template::Shelf;
use crate::template::key::Key;

#[derive(Args, Debug)]
pub(super) struct Templates {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List templates.
    Ls {
        /// Names only.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove templates. VMs that were started from one go on.
    Rm {
        /// Remove all of them.
        #[arg(long, conflicts_with = "names")]
        all: bool,
        /// Their names.
        #[arg(required_unless_present = "all", value_name = "TEMPLATE")]
        names: Vec<String>,
    },
    /// Make the template for a size of VM, if there is none yet, and print its name.
    Build {
        /// Memory, as for run.
        #[arg(short, long, value_name = "SIZE", allow_hyphen_values = true)]
        memory: Option<String>,
        /// Virtual CPUs, as for run.
        #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
        cpus: Option<String>,
    },
    /// Print what templates were made from, as JSON.
    Inspect {
        /// Their names.
        #[arg(required = true, value_name = "TEMPLATE")]
        names: Vec<String>,
    },
}

impl Templates {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let root = Root::open(&settings.root)?;
        let shelf = Shelf::open(&root)?;
        match self.verb {
            Verb::Ls { quiet } => list(&shelf, quiet)?,
            Verb::Rm { all, mut names } => {
                if all {
                    names = shelf.list()?.into_iter().map(|(name, ..)| name).collect();
                }
                for name in names {
                    shelf.remove(&name)?;
                    println!("{name}");
                }
            }
            Verb::Build { memory, cpus } => {
                let host = host::facts(&[])?;
                let (vcpus, ram_bytes) = plan::size(memory.as_deref(), cpus.as_deref(), &host)?;
                let platform = Platform::open(settings, &root)?;
                let key = Key::new(&platform, vcpus, ram_bytes)?;
                shelf.build(&key, &platform)?;
                println!("{}", key.name());
            }
            Verb::Inspect { names } => {
                let about = names.iter().map(|name| shelf.about(name));
                let about = about.collect::<Result<Vec<_>, _>>()?;
                println!("{}", serde_json::to_string_pretty(&about)?);
            }
        }
        Ok(0)
    }
}

fn list(shelf: &Shelf, quiet: bool) -> Result<(), Failure> {
    let header = ["TEMPLATE", "VCPUS", "MEMORY", "ON DISK", "CREATED"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for (name, about, bytes) in shelf.list()? {
        if quiet {
            println!("{name}");
            continue;
        }
        rows.push(vec![
            name,
            about.key.vcpus.to_string(),
            format!("{} MiB", about.key.ram_bytes >> 20),
            megabytes(bytes),
            ago(&about.created),
        ]);
    }
    if !quiet {
        print!("{}", table(&rows));
    }
    Ok(())
}
