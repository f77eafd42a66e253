use clap::Args;

use crate::exit::Failure;

#[derive(Args, Debug)]
pub(in crate::cli) struct Checkpoint {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _words: Vec<String>,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Restore {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _words: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0} is not supported yet")]
struct NotYet(&'static str);

impl Checkpoint {
    pub(super) fn call(self) -> Result<u8, Failure> {
        Err(NotYet("checkpoint").into())
    }
}

impl Restore {
    pub(super) fn call(self) -> Result<u8, Failure> {
        Err(NotYet("restore").into())
    }
}
