use clap::Args;
use image::Store;

use crate::exit::Failure;
use crate::settings::Settings;

#[derive(Args, Debug)]
pub(super) struct Tag {
    /// A name or an id.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The new names, taken from the images that have them.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Tag {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let store = Store::open(&settings.store)?;
        for name in &self.names {
            store.tag(&self.image, name)?;
        }
        Ok(0)
    }
}
