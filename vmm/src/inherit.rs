//! Taking over inherited descriptors, each once.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::spec::{Inherited, VmSpec};

/// The longest spec: one with every slot full and the longest command line is under 8 KiB.
const SPEC_BYTES: u64 = 64 << 10;

/// Why a spec or a descriptor in it is no use.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// No such descriptor was inherited.
    #[error("descriptor {fd} of {what} is not open")]
    NotOpen {
        /// Its number.
        fd: RawFd,
        /// What it was said to be.
        what: &'static str,
    },
    /// The same descriptor was named for two purposes.
    #[error("descriptor {fd} of {what} is named twice")]
    Twice {
        /// Its number.
        fd: RawFd,
        /// What it was said to be the second time.
        what: &'static str,
    },
    /// The spec could not be read.
    #[error("reading the spec: {0}")]
    Read(#[from] io::Error),
    /// The spec is not one.
    #[error("the spec is not one: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// The descriptors this process was started with, to be taken one by one.
#[derive(Debug, Default)]
pub struct Inheritance {
    taken: BTreeSet<RawFd>,
}

impl Inheritance {
    /// Takes the descriptor of `what`.
    pub fn take(
        &mut self,
        Inherited(fd): Inherited,
        what: &'static str,
    ) -> Result<OwnedFd, InheritError> {
        // SAFETY: no memory is passed; a number that is no descriptor gives an error.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            return Err(InheritError::NotOpen { fd, what });
        }
        if !self.taken.insert(fd) {
            return Err(InheritError::Twice { fd, what });
        }
        // SAFETY: it is open, and nobody else in this process owns it: it was inherited, and it has
        // not been taken before.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Takes the spec's own descriptor, reads it, and closes it.
    pub fn read_spec(&mut self, fd: RawFd) -> Result<VmSpec, InheritError> {
        let mut file = File::from(self.take(Inherited(fd), "the spec")?);
        // A file handed over by its writer stands at its end; a pipe stands where it is.
        let _ = file.rewind();
        let mut json = Vec::new();
        file.take(SPEC_BYTES).read_to_end(&mut json)?;
        self.taken.remove(&fd);
        Ok(serde_json::from_slice(&json)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn a_descriptor_is_owned_once() {
        let fd = Inherited(File::open("/dev/null").unwrap().into_raw_fd());
        let mut inheritance = Inheritance::default();
        let taken = inheritance.take(fd, "kernel").unwrap();
        assert_eq!(taken.as_raw_fd(), fd.0);
        let error = inheritance.take(fd, "initramfs").unwrap_err();
        assert_eq!(error.to_string(), format!("descriptor {} of initramfs is named twice", fd.0));
        let error = inheritance.take(Inherited(-1), "kernel").unwrap_err();
        assert_eq!(error.to_string(), "descriptor -1 of kernel is not open");
    }
}
