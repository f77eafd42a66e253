use std::time::Duration;

use clap::Args;

use super::oci;
use crate::exit::Failure;
use crate::settings::Settings;
use crate::state::Root;
use crate::visit::Visited;

#[derive(Args, Debug)]
pub(super) struct Restart {
    /// How many seconds they have to end.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    time: u32,
    /// The containers' names, or the beginnings of their ids.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// It is an engine's.
#[derive(Debug, thiserror::Error)]
#[error("container {name} is of a bundle: whoever created it starts it")]
struct Bundled {
    name: String,
}

impl Restart {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let root = Root::open(&settings.root)?;
        for name in &self.names {
            let entry = root.find(name)?;
            if entry.record.as_ref().is_ok_and(|record| record.oci.is_some()) {
                return Err(Bundled { name: name.clone() }.into());
            }
            if entry.alive {
                let grace = Duration::from_secs(self.time.into());
                Visited::new(entry)?.end(Some(grace))?;
            }
            oci::start_again(settings, root.find(name)?)?;
            println!("{name}");
        }
        Ok(0)
    }
}
