//! Taking away a directory whose depth is of a stranger's choosing.
//!
//! A container can nest directories deeper than a path can say and than a process may have files open. So
//! what is in a directory is first brought up to where its parent stands, and nothing here walks down.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Removes `top`, which is a directory, perhaps only in part, or not there. The names in `top` itself are
/// ours; below them is a stranger's.
pub(super) fn remove(top: &Path) -> io::Result<()> {
    let mut next = 0_u64;
    loop {
        let entries = match fs::read_dir(top) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let mut is_empty = true;
        for entry in entries {
            is_empty = false;
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                empty(&entry.path(), top, &mut next)?;
                fs::remove_dir(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        if is_empty {
            return fs::remove_dir(top);
        }
    }
}

/// Takes away the files in `directory`, and brings the directories in it up to `top`.
fn empty(directory: &Path, top: &Path, next: &mut u64) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::rename(entry.path(), free(top, next))?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A name in `top` that nothing has; one who was killed at the same work may have left some.
fn free(top: &Path, next: &mut u64) -> PathBuf {
    loop {
        let path = top.join(next.to_string());
        *next += 1;
        if path.symlink_metadata().is_err() {
            return path;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_deeper_than_paths_and_descriptors_reach_is_removed() {
        let around = tempfile::tempdir().unwrap();
        let kept = around.path().join("kept");
        fs::write(&kept, "kept").unwrap();
        let top = around.path().join("top");
        // Put together from below, which needs no long path either.
        for depth in 0..3000 {
            let (inner, outer) = (around.path().join("inner"), around.path().join("outer"));
            fs::create_dir(&outer).unwrap();
            if depth > 0 {
                fs::rename(&inner, outer.join("0")).unwrap();
            }
            fs::write(outer.join("file"), "x").unwrap();
            symlink(&kept, outer.join("link")).unwrap();
            fs::rename(&outer, &inner).unwrap();
        }
        fs::create_dir(&top).unwrap();
        fs::rename(around.path().join("inner"), top.join("data")).unwrap();
        remove(&top).unwrap();
        assert!(!top.exists());
        assert_eq!(fs::read_to_string(kept).unwrap(), "kept");
        remove(&top).unwrap();
    }
}
