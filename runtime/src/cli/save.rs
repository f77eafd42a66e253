use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use image::{ArchiveKind, SaveError, Store};

use crate::exit::Failure;
use crate::settings::Settings;

#[derive(Args, Debug)]
pub(super) struct Save {
    /// Where to. [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Which kind of archive.
    #[arg(long, value_enum, default_value_t = Format::DockerArchive)]
    format: Format,
    /// Names or ids.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// What `docker save` writes, with unpacked layers.
    DockerArchive,
    /// An OCI layout in a tar file: everything as it came, with its digests.
    OciArchive,
}

/// Why an archive is not where it should be.
#[derive(Debug, thiserror::Error)]
enum OutputError {
    #[error("an archive is not for a terminal, name a file with --output")]
    Terminal,
    #[error("archive {path}")]
    Io { path: PathBuf, source: io::Error },
}

impl Save {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let store = Store::open(&settings.store)?;
        let kind = match self.format {
            Format::DockerArchive => ArchiveKind::Docker,
            Format::OciArchive => ArchiveKind::Oci,
        };
        let save = |out: &mut dyn Write| -> Result<(), SaveError> {
            let mut out = BufWriter::with_capacity(1 << 17, out);
            store.save(&self.images, kind, &mut out)?;
            out.flush().map_err(SaveError::Write)
        };
        match &self.output {
            None if io::stdout().is_terminal() => return Err(OutputError::Terminal.into()),
            None => save(&mut io::stdout())?,
            Some(path) if is_special(path) => {
                let opened = File::options().write(true).open(path);
                let io = |source| OutputError::Io { path: path.clone(), source };
                save(&mut opened.map_err(io)?)?;
            }
            Some(path) => whole(path, save)?,
        }
        Ok(0)
    }
}

/// A fifo or a device: nothing can be renamed into its place.
fn is_special(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| !metadata.is_file())
}

/// The file at `path` is there whole or as it was.
fn whole(
    path: &Path,
    save: impl FnOnce(&mut dyn Write) -> Result<(), SaveError>,
) -> Result<(), Failure> {
    let io = |source| OutputError::Io { path: path.to_owned(), source };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".microvm-save-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(directory)
        .map_err(io)?;
    save(file.as_file_mut())?;
    file.persist(path).map_err(|error| io(error.error))?;
    Ok(())
}
