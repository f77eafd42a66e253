use clap::Args;
use image::Store;

use super::oci::{self, Bundled};
use super::pull::{Registries, When};
use crate::exit::Failure;
use crate::settings::Settings;
use crate::timeline::Timeline;
use crate::wishes::Wishes;
use crate::{detach, plan, run};

/// Run a container from an image, a directory or a bundle.
#[derive(Args, Debug)]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) wishes: Wishes,
    /// When to pull the image.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pull: When,
    /// Show no progress of a pull.
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    registries: Registries,
    #[command(flatten)]
    bundled: Bundled,
    /// Do not delete a bundle's container when it has ended.
    #[arg(long)]
    keep: bool,
}

impl Run {
    pub(super) fn call(mut self, settings: Settings) -> Result<u8, Failure> {
        if let Some((id, [])) = self.wishes.image_and_command.split_first()
            && self.bundled.is_meant(&self.wishes.image_and_command)
        {
            let end = oci::run(settings, &self.bundled, id, self.wishes.detach, self.keep);
            return end.map_err(|failure| Failure { code: oci::FAILED, ..failure });
        }
        if let Some(directory) = &mut self.wishes.rootfs {
            *directory = std::path::absolute(&*directory)?;
        }
        let (image, _) = plan::source_and_command(&self.wishes)?;
        if self.wishes.rootfs.is_none() {
            // Here and not in the background, where nobody sees how far it is.
            let store = Store::open(&settings.store)?;
            self.registries.provide(&store, image, self.pull, self.quiet)?;
        }
        if self.wishes.detach {
            println!("{}", detach::start(settings, self.wishes, None)?);
            return Ok(0);
        }
        let timeline = Timeline::new(settings.timeline.is_some());
        timeline.mark("main");
        let end = run::run(&settings, &self.wishes, None, &timeline, |_| ());
        timeline.mark("end");
        if let Some(path) = &settings.timeline {
            timeline.write(path)?;
        }
        Ok(end?)
    }
}
