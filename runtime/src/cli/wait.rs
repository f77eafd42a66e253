use clap::Args;

use crate::exit::Failure;
use crate::settings::Settings;
use crate::state::Root;

#[derive(Args, Debug)]
pub(super) struct Wait {
    /// The containers' names, or the beginnings of their ids.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("container {name} ended with its supervisor: its exit code is not known")]
struct NotKnown {
    name: String,
}

impl Wait {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let root = Root::open(&settings.root)?;
        for name in self.names {
            match root.find(&name)?.dir.wait()? {
                Some(code) => println!("{code}"),
                None => return Err(NotKnown { name }.into()),
            }
        }
        Ok(0)
    }
}
