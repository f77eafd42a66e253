//! The file by which a container knows others, and what becomes of it while they come and go.
//!
//! It was made for the container, but what stands in it is the container's to change. So it is taken as it is, without
//! looking for it by any path of the container's, and nothing is done to lines that are not the host's.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use proto::message::{Fault, FaultKind, ProcessId, Reply};

use crate::agent::Agent;
use crate::faults::{fault, named};

/// The longest such file that is read. A container can make its own as long as it likes.
const MAX_BYTES: u64 = 1 << 20;

impl Agent {
    /// Takes lines out of a container's file, and adds others.
    pub(crate) fn introduce(
        &mut self,
        container: String,
        gone: &[String],
        come: &[String],
    ) -> Result<Reply, Fault> {
        let id = ProcessId { container, exec: None };
        let Some(file) = &self.known_alive_mut(&id)?.acquaintances else {
            return Ok(Reply::Done);
        };
        let done = file.try_clone().and_then(|file| change(file, gone, come));
        done.map(|()| Reply::Done).map_err(|error| {
            fault(FaultKind::System, format!("names of others for {}: {error}", named(&id)))
        })
    }
}

fn change(file: OwnedFd, gone: &[String], come: &[String]) -> io::Result<()> {
    let file = File::from(file);
    let bytes = file.metadata()?.len();
    if bytes > MAX_BYTES {
        return Err(io::Error::other(format!("its file has {bytes} bytes")));
    }
    let mut text = vec![0; usize::try_from(bytes).unwrap_or_default()];
    file.read_exact_at(&mut text, 0)?;
    let text = changed(&text, gone, come);
    // Whoever reads meanwhile finds the old file or the new one, or a line that is cut off at worst: it is the file
    // that is mounted, so none can be put in its place.
    file.write_all_at(&text, 0)?;
    file.set_len(text.len() as u64)
}

/// A text without the lines that are `gone`, each once, and with those that have `come`.
fn changed(text: &[u8], gone: &[String], come: &[String]) -> Vec<u8> {
    let mut gone: Vec<_> = gone.iter().map(String::as_bytes).collect();
    let mut changed = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let said = line.strip_suffix(b"\n").unwrap_or(line);
        match gone.iter().position(|gone| *gone == said) {
            Some(at) => drop(gone.swap_remove(at)),
            None => changed.extend(line),
        }
    }
    for line in come {
        if !changed.is_empty() && !changed.ends_with(b"\n") {
            changed.push(b'\n');
        }
        changed.extend(line.bytes());
        changed.push(b'\n');
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> File {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        File::from(rustix::fs::memfd_create("acquaintances", flags).unwrap())
    }

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().copied().map(str::to_owned).collect()
    }

    #[test]
    fn others_come_and_go_and_what_somebody_wrote_stays() {
        let file = file();
        file.write_all_at(b"127.0.0.1\tlocalhost\n10.0.0.2\tone\n# mine\xff", 0).unwrap();
        let change = |gone: &[&str], come: &[&str]| {
            change(file.try_clone().unwrap().into(), &lines(gone), &lines(come)).unwrap();
            let mut text = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
            file.read_exact_at(&mut text, 0).unwrap();
            text
        };
        let (one, two) = ("10.0.0.2\tone", "10.0.0.3\ttwo");
        assert_eq!(change(&[one], &[two]), b"127.0.0.1\tlocalhost\n# mine\xff\n10.0.0.3\ttwo\n");
        assert_eq!(change(&[two, one], &[]), b"127.0.0.1\tlocalhost\n# mine\xff\n");
        assert_eq!(change(&["# mine"], &[one, one]).len(), 20 + 8 + 2 * 13, "that is another line");
        assert_eq!(changed(b"", &[], &lines(&[one])), b"10.0.0.2\tone\n");
    }

    #[test]
    fn a_file_that_was_made_endless_is_left_alone() {
        let file = file();
        file.set_len(MAX_BYTES + 1).unwrap();
        let error = change(file.try_clone().unwrap().into(), &[], &lines(&["a"])).unwrap_err();
        assert_eq!(error.to_string(), "its file has 1048577 bytes");
    }
}
