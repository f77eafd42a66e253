use clap::Args;
use image::Store;

use super::{ago, table};
use crate::exit::Failure;
use crate::settings::Settings;
use crate::state::record::SHORT_ID_LEN;

/// List images.
#[derive(Args, Debug)]
pub(super) struct Images {
    /// Ids only.
    #[arg(short, long)]
    quiet: bool,
}

impl Images {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let mut rows = vec![["IMAGE", "ID", "CREATED", "SIZE"].map(str::to_owned).to_vec()];
        for image in Store::open(&settings.store)?.images()? {
            let id = image.id.to_string();
            if self.quiet {
                println!("{id}");
                continue;
            }
            let short: String =
                id.trim_start_matches("sha256:").chars().take(SHORT_ID_LEN).collect();
            let created = image.created.as_deref().map_or_else(|| "-".to_owned(), ago);
            let size = format!("{:.1} MB", image.disk_bytes as f64 / 1e6);
            let unnamed = ["-".to_owned()];
            let names = if image.names.is_empty() { &unnamed[..] } else { &image.names };
            rows.extend(
                names
                    .iter()
                    .map(|name| vec![name.clone(), short.clone(), created.clone(), size.clone()]),
            );
        }
        if !self.quiet {
            print!("{}", table(&rows));
        }
        Ok(0)
    }
}
