use clap::Args;

use crate::exit::Failure;

#[derive(Args, Debug)]
pub(super) struct Version {}

impl Version {
    pub(super) fn call(self) -> Result<u8, Failure> {
        println!("microvm {}", env!("CARGO_PKG_VERSION"));
        println!("protocol {}", proto::VERSION);
        Ok(0)
    }
}
