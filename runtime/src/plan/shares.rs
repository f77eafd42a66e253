//! What of the host a container sees, and where.

use std::path::PathBuf;

use proto::spec::Mount;

use super::PlanError;

/// What a directory that is the root is called in the VM's file share.
pub(crate) const ROOT: &str = "root";

/// A directory or file of the host that the guest sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shared {
    /// Its name in the VM's file share.
    pub(crate) name: String,
    /// Where it is on the host.
    pub(crate) path: PathBuf,
    /// The guest cannot write to it.
    pub(crate) read_only: bool,
    /// With what is mounted below it.
    pub(crate) recursive: bool,
}

/// What `--volume` asks for: `SRC:DST`, or `SRC:DST:ro`.
pub(super) fn volumes(words: &[String]) -> Result<Vec<(Shared, Mount)>, PlanError> {
    words.iter().enumerate().map(|(number, word)| volume(number, word)).collect()
}

fn volume(number: usize, word: &str) -> Result<(Shared, Mount), PlanError> {
    let parts: Vec<_> = word.split(':').collect();
    let (path, destination, read_only) = match parts[..] {
        [path, destination] | [path, destination, "rw"] => (path, destination, false),
        [path, destination, "ro"] => (path, destination, true),
        _ => return Err(PlanError::Volume { word: word.to_owned() }),
    };
    if !path.starts_with('/') || !destination.starts_with('/') {
        return Err(PlanError::Volume { word: word.to_owned() });
    }
    let name = format!("volume{number}");
    let mount = Mount {
        destination: PathBuf::from(destination),
        share: Some(name.clone()),
        options: read_only.then(|| "ro".to_owned()).into_iter().collect(),
        ..Mount::default()
    };
    Ok((Shared { name, path: PathBuf::from(path), read_only, recursive: true }, mount))
}
