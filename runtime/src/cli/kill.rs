use clap::Args;

use super::each;
use super::oci::FAILED;
use crate::exit::Failure;
use crate::oci::state::Known;
use crate::orders::{Order, order};
use crate::plan::signal_number;
use crate::settings::Settings;
use crate::state::Root;
use crate::state::record::Status;
use crate::visit::Visited;

const SIGKILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;

#[derive(Args, Debug)]
pub(super) struct Kill {
    /// The signal, by name or number. [default: KILL; TERM for a container of a bundle]
    #[arg(short, long, allow_hyphen_values = true)]
    signal: Option<String>,
    /// To every process, not only to the first.
    #[arg(short, long)]
    all: bool,
    /// The containers' names, or the beginnings of their ids. A signal may stand behind a single one.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// There is nobody who could hear it.
#[derive(Debug, thiserror::Error)]
enum DeafError {
    #[error("container not running")]
    Stopped,
    #[error("container {0} is paused: only KILL ends it")]
    Paused(String),
}

impl Kill {
    pub(super) fn call(mut self, settings: &Settings) -> Result<u8, Failure> {
        if let (None, [_, word]) = (&self.signal, &self.names[..])
            && signal_number(word).is_ok()
        {
            self.signal = self.names.pop();
        }
        let root = Root::open(&settings.root)?;
        if let [name] = &self.names[..]
            && let Ok(known) = root.find(name).and_then(Known::new)
            && known.record.oci.is_some()
        {
            let signal = signal_number(self.signal.as_deref().unwrap_or("TERM"))?;
            let end = kill_bundled(&root, name, signal, self.all, known.status);
            return end.map_err(|failure| Failure { code: FAILED, ..failure });
        }
        let signal = signal_number(self.signal.as_deref().unwrap_or("KILL"))?;
        each(settings, &self.names, |_, container| Ok(container.signal(signal, self.all)?))
    }
}

/// As runc does it: silently, and to a container that was not started, too.
fn kill_bundled(
    root: &Root,
    name: &str,
    signal: i32,
    all: bool,
    status: Status,
) -> Result<u8, Failure> {
    let entry = root.find(name)?;
    match status {
        Status::Stopped if all => return Ok(0),
        Status::Stopped => return Err(DeafError::Stopped.into()),
        Status::Paused if signal == SIGKILL => order(&entry.dir, Order::Resume)?,
        Status::Paused => return Err(DeafError::Paused(name.to_owned()).into()),
        Status::Creating | Status::Created | Status::Running => {}
    }
    let container = Visited::new(root.find(name)?)?;
    match container.signal(signal, all) {
        // Engines delete it next, and find it stopped.
        Ok(()) if signal == SIGKILL => Ok(container.is_gone_soon().map(|_| 0)?),
        Ok(()) => Ok(0),
        // Its guest hears nobody any more.
        Err(_) if status != Status::Creating && container.is_gone_soon()? => {
            if all {
                Ok(0)
            } else {
                Err(DeafError::Stopped.into())
            }
        }
        Err(error) => Err(error.into()),
    }
}
