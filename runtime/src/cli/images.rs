use clap::Args;
use image::Store;

use super::{ago, megabytes, table};
use crate::exit::Failure;
use crate::settings::Settings;
use crate::state::record::SHORT_ID_LEN;

#[derive(Args, Debug)]
pub(super) struct Images {
    /// Ids only.
    #[arg(short, long)]
    quiet: bool,
}

impl Images {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let mut rows =
            vec![["IMAGE", "ID", "CREATED", "DISK", "LAYERS"].map(str::to_owned).to_vec()];
        let store = Store::open(&settings.store)?;
        for image in store.images()? {
            let id = image.id.to_string();
            if self.quiet {
                println!("{id}");
                continue;
            }
            let short: String =
                id.trim_start_matches("sha256:").chars().take(SHORT_ID_LEN).collect();
            let created = image.created.as_deref().map_or_else(|| "-".to_owned(), ago);
            let disk = megabytes(image.disk_bytes);
            let layers = store.layers(&image)?.iter().map(|layer| layer.bytes).sum();
            let layers = megabytes(layers);
            let unnamed = ["-".to_owned()];
            let names = if image.names.is_empty() { &unnamed[..] } else { &image.names };
            rows.extend(
                names.iter().map(|name| {
                    [name, &short, &created, &disk, &layers].map(String::clone).to_vec()
                }),
            );
        }
        if !self.quiet {
            print!("{}", table(&rows));
        }
        Ok(0)
    }
}
