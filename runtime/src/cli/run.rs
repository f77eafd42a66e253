use clap::Args;

use crate::exit::Failure;
use crate::settings::Settings;
use crate::timeline::Timeline;
use crate::wishes::Wishes;
use crate::{detach, run};

/// Run a container from an image or a directory.
#[derive(Args, Debug)]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) wishes: Wishes,
}

impl Run {
    pub(super) fn call(mut self, settings: Settings) -> Result<u8, Failure> {
        if let Some(directory) = &mut self.wishes.rootfs {
            *directory = std::path::absolute(&*directory)?;
        }
        if self.wishes.detach {
            println!("{}", detach::start(settings, self.wishes)?);
            return Ok(0);
        }
        let timeline = Timeline::new(settings.timeline.is_some());
        timeline.mark("main");
        let end = run::run(&settings, &self.wishes, &timeline, |_| ());
        timeline.mark("end");
        if let Some(path) = &settings.timeline {
            timeline.write(path)?;
        }
        Ok(end?)
    }
}
