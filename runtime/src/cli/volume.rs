use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Format, ago, megabytes, table};
use crate::exit::Failure;
use crate::host;
use crate::settings::Settings;
use crate::state::Root;
use crate::state::record::Id;
use crate::volumes::{Name, Volume, VolumeError, Volumes, in_use};

#[derive(Args, Debug)]
pub(super) struct VolumeVerbs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Make a volume.
    Create {
        /// Words about it; may be given several times.
        #[arg(short, long = "label", value_name = "NAME[=VALUE]")]
        labels: Vec<String>,
        /// Its name. [default: one that nobody has]
        name: Option<String>,
    },
    /// List volumes.
    Ls {
        /// Names only.
        #[arg(short, long)]
        quiet: bool,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Remove volumes that no container uses.
    Rm {
        /// What is not there is removed already.
        #[arg(short, long)]
        force: bool,
        /// The volumes' names.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Show what is known of volumes, as JSON.
    Inspect {
        /// The volumes' names.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Remove all volumes that no container uses and nobody has named.
    Prune {
        /// Those with names too.
        #[arg(short, long)]
        all: bool,
        /// For other runtimes: nothing is asked.
        #[arg(short, long, hide = true)]
        force: bool,
    },
}

impl VolumeVerbs {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let volumes = Volumes::open(&settings.store)?;
        match self.verb {
            Verb::Create { labels, name } => create(&volumes, &labels, name.as_deref())?,
            Verb::Ls { quiet, format } => list(&volumes, settings, quiet, format)?,
            Verb::Rm { force, names } => remove(&volumes, settings, force, &names)?,
            Verb::Inspect { names } => {
                let found = names.iter().map(|word| volumes.find(&named(word)?));
                let found = found.collect::<Result<Vec<_>, _>>()?;
                let used = in_use(&Root::open(&settings.root)?)?;
                let shown = found.iter().map(|volume| described(&volumes, volume, &used));
                println!("{:#}", Value::from(shown.collect::<Vec<_>>()));
            }
            Verb::Prune { all, .. } => {
                let turn = volumes.turn()?;
                let (removed, freed) = volumes.prune(all, &Root::open(&settings.root)?, &turn)?;
                removed.iter().for_each(|name| println!("{name}"));
                eprintln!("{} are free again", megabytes(freed));
            }
        }
        Ok(0)
    }
}

/// A word that is no name is the name of no volume.
fn named(word: &str) -> Result<Name, VolumeError> {
    word.parse().map_err(|_| VolumeError::NotFound { word: word.to_owned() })
}

fn create(volumes: &Volumes, labels: &[String], name: Option<&str>) -> Result<(), Failure> {
    let (name, anonymous) = match name {
        Some(name) => (name.parse()?, false),
        None => (Id::from_bits(host::random()?).as_ref().parse()?, true),
    };
    let pair = |word: &String| {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        (name.to_owned(), value.to_owned())
    };
    let labels: BTreeMap<_, _> = labels.iter().map(pair).collect();
    let turn = volumes.turn()?;
    let volume = volumes.create(name, labels, anonymous, &turn)?;
    println!("{}", volume.name);
    Ok(())
}

fn list(
    volumes: &Volumes,
    settings: &Settings,
    quiet: bool,
    format: Format,
) -> Result<(), Failure> {
    let all = volumes.all()?;
    if quiet {
        all.iter().for_each(|volume| println!("{}", volume.name));
        return Ok(());
    }
    let used = in_use(&Root::open(&settings.root)?)?;
    if format == Format::Json {
        let shown = all.iter().map(|volume| described(volumes, volume, &used));
        println!("{:#}", Value::from(shown.collect::<Vec<_>>()));
        return Ok(());
    }
    let mut rows = vec![["VOLUME", "CREATED", "USED BY"].map(str::to_owned).to_vec()];
    rows.extend(all.iter().map(|volume| {
        let user = used.get(&volume.name).map_or("-", String::as_str);
        vec![volume.name.to_string(), ago(&volume.created), user.to_owned()]
    }));
    print!("{}", table(&rows));
    Ok(())
}

fn remove(
    volumes: &Volumes,
    settings: &Settings,
    force: bool,
    names: &[String],
) -> Result<(), Failure> {
    let root = Root::open(&settings.root)?;
    for word in names {
        let turn = volumes.turn()?;
        match named(word).and_then(|name| volumes.remove(&name, &root, &turn)) {
            Err(VolumeError::NotFound { .. }) if force => {}
            removed => removed?,
        }
        println!("{word}");
    }
    Ok(())
}

/// In docker's words where it has some.
fn described(volumes: &Volumes, volume: &Volume, used: &BTreeMap<Name, String>) -> Value {
    json!({
        "Name": volume.name,
        "CreatedAt": volume.created,
        "Driver": "local",
        "Mountpoint": volumes.data(&volume.name),
        "Labels": volume.labels,
        "Anonymous": volume.anonymous,
        "UsedBy": used.get(&volume.name),
    })
}
