use clap::Args;
use image::Store;

use super::{ago, megabytes, table};
use crate::exit::Failure;
use crate::settings::Settings;

/// What is shown of a command.
const SHOWN_CHARS: usize = 60;

#[derive(Args, Debug)]
pub(super) struct History {
    /// A name or an id.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Whole commands.
    #[arg(long)]
    no_trunc: bool,
}

impl History {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let store = Store::open(&settings.store)?;
        let image = store.find(&self.image)?;
        let mut layers = store.layers(&image)?.into_iter();
        let mut rows = Vec::new();
        for past in &image.history {
            let size = match past.empty {
                true => "0".to_owned(),
                false => match layers.next() {
                    Some(layer) => megabytes(layer.bytes),
                    None => "-".to_owned(),
                },
            };
            let created = past.created.as_deref().map_or_else(|| "-".to_owned(), ago);
            rows.push(vec![created, self.shown(&past.created_by), size, self.shown(&past.comment)]);
        }
        // Some images have more layers than history.
        for layer in layers {
            let size = megabytes(layer.bytes);
            rows.push(vec!["-".to_owned(), "-".to_owned(), size, String::new()]);
        }
        rows.push(["CREATED", "CREATED BY", "LAYER", "COMMENT"].map(str::to_owned).to_vec());
        rows.reverse();
        print!("{}", table(&rows));
        Ok(0)
    }

    /// Words of others on a terminal: one line.
    fn shown(&self, words: &str) -> String {
        let calm: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        match self.no_trunc || calm.chars().count() <= SHOWN_CHARS {
            true => calm,
            false => calm.chars().take(SHOWN_CHARS - 1).chain(['…']).collect(),
        }
    }
}
