use std::io;

use clap::Args;
use rustix::termios::isatty;

use crate::exit::Failure;
use crate::files::{self, End, Manner};
use crate::run;
use crate::settings::Settings;

#[derive(Args, Debug)]
pub(super) struct Cp {
    /// With owners and groups as they are there, by number. Else files in the container become root's, and
    /// those on this machine the caller's.
    #[arg(short, long)]
    archive: bool,
    /// Where SRC is a link, copy what it leads to.
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// For other runtimes: nothing is said in any case.
    #[arg(short, long, hide = true)]
    quiet: bool,
    /// CONTAINER:PATH, a path of this machine, or - for a tar archive on standard input.
    #[arg(value_name = "SRC", allow_hyphen_values = true)]
    from: String,
    /// The same; - for a tar archive on standard output.
    #[arg(value_name = "DST", allow_hyphen_values = true)]
    to: String,
}

/// What cannot be copied.
#[derive(Debug, thiserror::Error)]
enum CpError {
    #[error("copying between containers is not supported: copy to - and from there")]
    Containers,
    #[error("neither {from:?} nor {to:?} is CONTAINER:PATH")]
    NoContainer { from: String, to: String },
    #[error("an archive is not written to a terminal: lead standard output elsewhere")]
    Terminal,
}

impl Cp {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let manner = Manner { archive: self.archive, follow: self.follow_link };
        match (End::from(self.from.as_str()), End::from(self.to.as_str())) {
            (End::Container { .. }, End::Container { .. }) => Err(CpError::Containers)?,
            (End::Container { name, path }, End::Host(to)) => {
                run::visit(settings, &name, |container| {
                    Ok(files::from_container(container, &path, &to, manner)?)
                })?;
            }
            (End::Container { name, path }, End::Stream) => {
                let stdout = unless_terminal()?;
                run::visit(settings, &name, |container| {
                    Ok(files::to_tar(container, &path, stdout, manner)?)
                })?;
            }
            (End::Host(from), End::Container { name, path }) => {
                run::visit(settings, &name, |container| {
                    Ok(files::into_container(container, &from, &path, manner)?)
                })?;
            }
            (End::Stream, End::Container { name, path }) => {
                run::visit(settings, &name, |container| {
                    Ok(files::from_tar(container, io::stdin().lock(), &path)?)
                })?;
            }
            (End::Host(_) | End::Stream, End::Host(_) | End::Stream) => {
                Err(CpError::NoContainer { from: self.from, to: self.to })?;
            }
        }
        Ok(0)
    }
}

/// Standard output for an archive.
pub(super) fn unless_terminal() -> Result<io::BufWriter<io::StdoutLock<'static>>, Failure> {
    match isatty(io::stdout()) {
        true => Err(CpError::Terminal)?,
        false => Ok(io::BufWriter::with_capacity(64 << 10, io::stdout().lock())),
    }
}
