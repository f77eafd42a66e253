//! Makes a disk of an image archive or of a directory, for trials:
//!
//! ```text
//! cargo run -p image --example disk -- demo.tar disk.erofs
//! cargo run -p image --example disk -- /some/root disk.erofs
//! ```

use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use image::{Limits, Store, pack_directory};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(source), Some(disk)) = (arguments.next(), arguments.next()) else {
        eprintln!("give an archive or a directory, and the disk to write");
        return ExitCode::FAILURE;
    };
    match make(&source, &disk) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// The whole story of an error in one line.
fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

fn make(source: &Path, disk: &Path) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let scratch =
        tempfile::tempdir_in(disk.parent().filter(|path| path.is_dir()).unwrap_or(Path::new(".")))?;
    let bytes = if source.is_dir() && !source.join("index.json").exists() {
        pack_directory(source, &File::create(disk)?, scratch.path(), &Limits::default())?
    } else {
        let store = Store::open(scratch.path())?;
        let images = store.load(source, None)?;
        for image in &images {
            println!("{} {:?} {:#?}", image.id, image.names, image.config);
        }
        std::fs::rename(&images[0].disk, disk)?;
        images[0].disk_bytes
    };
    println!("{bytes} bytes in {:?}", start.elapsed());
    Ok(())
}
