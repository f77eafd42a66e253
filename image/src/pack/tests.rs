use std::fs;
use std::os::unix::fs::FileExt;

use super::*;
use crate::testing::line;

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("root")).unwrap();
        Self { directory }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn pack(&self, limits: &Limits) -> Result<Vec<u8>, PackError> {
        let disk = tempfile::tempfile().unwrap();
        let bytes = pack_directory(&self.root(), &disk, self.directory.path(), limits)?;
        let mut content = vec![0; bytes as usize];
        disk.read_exact_at(&mut content, 0).unwrap();
        Ok(content)
    }

    fn refusal(&self, limits: &Limits) -> String {
        line(&self.pack(limits).unwrap_err())
    }
}

/// Whether `bytes` stand somewhere on the disk.
fn holds(disk: &[u8], bytes: &[u8]) -> bool {
    disk.windows(bytes.len()).any(|window| window == bytes)
}

#[test]
fn a_file_that_is_called_like_a_whiteout_is_a_file() {
    let place = Place::new();
    fs::write(place.root().join("kept"), "content of kept").unwrap();
    fs::write(place.root().join(".wh.kept"), "content of whiteout").unwrap();
    let disk = place.pack(&Limits::default()).unwrap();
    assert!(holds(&disk, b"content of kept"));
    assert!(holds(&disk, b"content of whiteout"));
}

#[test]
fn a_link_out_of_the_directory_is_kept_as_a_link_and_not_followed() {
    let place = Place::new();
    fs::write(place.directory.path().join("secret"), "do not pack this").unwrap();
    std::os::unix::fs::symlink("../secret", place.root().join("link")).unwrap();
    std::os::unix::fs::symlink("..", place.root().join("up")).unwrap();
    let disk = place.pack(&Limits::default()).unwrap();
    assert!(holds(&disk, b"../secret"));
    assert!(!holds(&disk, b"do not pack this"));
}

#[test]
fn a_socket_is_left_out() {
    let place = Place::new();
    let _socket = std::os::unix::net::UnixListener::bind(place.root().join("socket-name")).unwrap();
    fs::write(place.root().join("file-name"), "").unwrap();
    let disk = place.pack(&Limits::default()).unwrap();
    assert!(holds(&disk, b"file-name"));
    assert!(!holds(&disk, b"socket-name"));
}

#[test]
fn a_directory_that_is_missing_or_none_or_too_large_is_named() {
    let place = Place::new();
    let root = place.root();
    fs::write(root.join("file"), vec![1; 2000]).unwrap();
    let root_name = root.display();
    let small = Limits { unpacked_bytes: 1000, ..Limits::default() };
    let refused = place.refusal(&small);
    assert_eq!(
        refused,
        format!("directory {root_name}: unpacked, it is over the limit of 1000 bytes")
    );
    let few = Limits { entries: 1, ..Limits::default() };
    let refused = place.refusal(&few);
    let wanted = "entry \"file\" is one more than the 1 that an image may have";
    assert_eq!(refused, format!("directory {root_name}: {wanted}"));

    fs::remove_dir_all(&root).unwrap();
    let refused = place.refusal(&Limits::default());
    assert_eq!(refused, format!("{root_name}: No such file or directory (os error 2)"));
    fs::write(&root, "").unwrap();
    let refused = place.refusal(&Limits::default());
    assert_eq!(refused, format!("{root_name}: Not a directory (os error 20)"));
}
