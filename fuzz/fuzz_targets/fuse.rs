#![no_main]
//! A guest's requests to the file server: a stranger says everything but how long each is, and whatever it
//! asks for, what is beside the shared directory is not changed.

#[path = "../../runtime/src/shares/beliefs.rs"]
mod beliefs;
#[path = "../../runtime/src/shares/close_to_open.rs"]
mod close_to_open;
#[path = "../../runtime/src/shares/requests.rs"]
#[allow(dead_code)]
mod requests;
#[path = "../../runtime/src/shares/sys.rs"]
#[allow(dead_code)]
mod sys;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

/// One request. Numbers of operations and of files are small, as those are that mean something.
#[derive(Arbitrary, Debug)]
struct Request {
    operation: u8,
    node: u8,
    user: u8,
    body: Vec<u8>,
    names: Vec<Name>,
}

/// What stands behind the numbers of a request. No fuzzer guesses what is there.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Name {
    File,
    Directory,
    Link,
    Secret,
    Up,
    Here,
    Attribute,
    Other(u8),
}

impl Name {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::File => b"file".into(),
            Self::Directory => b"directory".into(),
            Self::Link => b"link".into(),
            Self::Secret => b"../secret".into(),
            Self::Up => b"..".into(),
            Self::Here => b".".into(),
            Self::Attribute => b"user.a".into(),
            Self::Other(letter) => vec![letter],
        }
    }
}

impl Request {
    /// `struct fuse_in_header` and what follows it.
    fn bytes(&self) -> Vec<u8> {
        let mut body = self.body.clone();
        self.names.iter().for_each(|name| body.extend([name.bytes(), vec![0]].concat()));
        body.truncate(requests::MAX_MESSAGE - 40);
        let length = (40 + body.len()) as u32;
        let mut bytes = Vec::new();
        bytes.extend(length.to_le_bytes());
        bytes.extend(u32::from(self.operation % 54).to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(u64::from(self.node).to_le_bytes());
        for number in [u32::from(self.user), u32::from(self.user), 1, 0] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(body);
        bytes
    }
}

/// A share, and a secret beside it.
struct Place {
    around: PathBuf,
}

impl Place {
    fn new() -> Self {
        let around = std::env::temp_dir().join(format!("fuzz-fuse-{}", std::process::id()));
        let _ = fs::remove_dir_all(&around);
        fs::create_dir_all(around.join("share/directory")).unwrap();
        fs::write(around.join("share/file"), "contents").unwrap();
        std::os::unix::fs::symlink("../secret", around.join("share/link")).unwrap();
        fs::write(around.join("secret"), "untouched").unwrap();
        Self { around }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        assert_eq!(fs::read_to_string(self.around.join("secret")).unwrap(), "untouched");
        let beside: Vec<_> = fs::read_dir(&self.around).unwrap().collect();
        assert_eq!(beside.len(), 2, "{beside:?}");
        let _ = fs::remove_dir_all(&self.around);
    }
}

fuzz_target!(|asked: Vec<Request>| {
    let place = Place::new();
    let files = requests::files(place.around.join("share").to_str().unwrap()).unwrap();
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    // Version 7.38 and every flag.
    let flags: Vec<u8> = [7u32, 38, 0, u32::MAX].iter().flat_map(|it| it.to_le_bytes()).collect();
    let body = [flags, vec![0; 48]].concat();
    let init = Request { operation: 26, node: 0, user: 0, body, names: vec![] };
    let mut reply = vec![0; requests::MAX_MESSAGE];
    for request in std::iter::once(&init).chain(&asked) {
        let mut bytes = request.bytes();
        requests::answer(&files, theirs.as_fd(), &mut bytes, &mut reply);
        // A request without an answer is a guest's process that waits for ever: three have none.
        let answered = ours.recv(&mut vec![0; requests::MAX_MESSAGE]).is_ok();
        let silent = matches!(request.operation % 54, 2 | 36 | 42);
        assert!(answered || silent, "{request:?}");
    }
});
