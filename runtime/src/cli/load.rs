use std::path::PathBuf;

use clap::Args;
use image::Store;

use crate::exit::Failure;
use crate::settings::Settings;

#[derive(Args, Debug)]
pub(super) struct Load {
    /// The archive, or the layout's directory.
    #[arg(value_name = "FILE", required_unless_present = "input", conflicts_with = "input")]
    file: Option<PathBuf>,
    /// The same, as docker has it.
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Give the image this name instead of the archive's.
    #[arg(long, value_name = "REFERENCE")]
    name: Option<String>,
}

impl Load {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let archive = self.file.or(self.input).unwrap_or_default();
        for image in Store::open(&settings.store)?.load(&archive, self.name.as_deref())? {
            match image.names.as_slice() {
                [] => println!("{}", image.id),
                names => names.iter().for_each(|name| println!("{name}")),
            }
        }
        Ok(0)
    }
}
