use clap::Args;
use image::Store;

use super::oci::{self, Bundled};
use super::pull::{Registries, When};
use crate::exit::Failure;
use crate::network::{self, own};
use crate::settings::{self, Settings};
use crate::timeline::Timeline;
use crate::wishes::Wishes;
use crate::{detach, plan, run};

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
        let network = self.wishes.network.take().or_else(settings::network_of_environment);
        // Decided here: what is written down about it, and made of it again, is that.
        self.wishes.network = Some(network.unwrap_or_else(usual_network));
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

/// The network of a container of which nobody says anything. Where there is none, whoever started it hears why.
fn usual_network() -> String {
    match network::usual() {
        Ok(name) => name.to_owned(),
        Err(missing) => {
            eprintln!("microvm: no network: {missing}; with --network none this is not said");
            own::NONE.to_owned()
        }
    }
}
