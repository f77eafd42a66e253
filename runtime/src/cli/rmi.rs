use clap::Args;
use image::Store;

use crate::exit::Failure;
use crate::settings::Settings;

#[derive(Args, Debug)]
pub(super) struct Rmi {
    /// Names or ids.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Rmi {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let store = Store::open(&settings.store)?;
        for image in &self.images {
            let removed = store.remove(image)?;
            removed.names.iter().for_each(|name| println!("{name}"));
            if let Some(id) = removed.image {
                println!("{id}");
            }
        }
        Ok(0)
    }
}
