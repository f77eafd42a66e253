use std::time::Duration;

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::visited;
use crate::exit::Failure;
use crate::oci::stats::{self, Stats};
use crate::settings::Settings;
use crate::visit::Visited;

#[derive(Args, Debug)]
pub(in crate::cli) struct Events {
    /// Print what it uses now, and end.
    #[arg(long)]
    stats: bool,
    /// Print every so often: 5s, 500ms.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// The container.
    id: String,
}

impl Events {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let container = visited(settings, &self.id)?;
        let mut killed = None;
        loop {
            let Some(stats) = self.ask(&container)? else { return Ok(0) };
            let out_of_memory =
                killed.replace(stats.oom_kills).is_some_and(|k| k < stats.oom_kills);
            if out_of_memory {
                println!("{}", serde_json::json!({ "type": "oom", "id": self.id }));
            }
            let id = &self.id;
            println!("{}", serde_json::json!({ "type": "stats", "id": id, "data": stats.data }));
            if self.stats {
                return Ok(0);
            }
            let Some(supervisor) = container.dir().supervisor() else { return Ok(0) };
            let time = Timespec::try_from(self.interval).ok();
            if poll(&mut [PollFd::new(&supervisor, PollFlags::IN)], time.as_ref())? > 0 {
                return Ok(0);
            }
        }
    }

    /// `None` when it has ended meanwhile.
    fn ask(&self, container: &Visited) -> Result<Option<Stats>, Failure> {
        match stats::stats(container) {
            Ok(stats) => Ok(Some(stats)),
            Err(_) if container.dir().supervisor().is_none() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
