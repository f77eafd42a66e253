//! What every VM on this machine is made from.

use std::fs::File;
use std::io;

use crate::attend::AttendError;
use crate::kvm::{self, KvmError};
use crate::settings::{BootFile, BootFileError, Settings};
use crate::state::Root;

/// A KVM that was seen to work, a kernel and an initramfs, opened.
#[derive(Debug)]
pub(crate) struct Platform {
    /// `/dev/kvm`.
    pub(crate) kvm: File,
    /// The guest's kernel.
    pub(crate) kernel: File,
    /// The guest's initramfs.
    pub(crate) initramfs: File,
}

/// Why this machine makes no VM.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlatformError {
    /// The kernel or the initramfs.
    #[error(transparent)]
    BootFile(#[from] BootFileError),
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

impl Platform {
    /// Opens all of it. That KVM works is written down in `root`.
    pub(crate) fn open(settings: &Settings, root: &Root) -> Result<Self, PlatformError> {
        let (kernel, _) = BootFile::Kernel.open(settings)?;
        let (initramfs, _) = BootFile::Initramfs.open(settings)?;
        let kvm = kvm::open()?;
        kvm::ensure_usable(&kvm, root)?;
        Ok(Self { kvm, kernel, initramfs })
    }

    /// The same once more, for another VM. Not for one at the same time: the files have one place each.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            kvm: self.kvm.try_clone()?,
            kernel: self.kernel.try_clone()?,
            initramfs: self.initramfs.try_clone()?,
        })
    }
}

/// Whether a VM that ended by KVM's doing says something about this machine.
pub(crate) fn doubt(error: &AttendError, root: &Root) -> Result<(), KvmError> {
    match error {
        AttendError::Vm(ended) if ended.is_kvms_doing() => kvm::prove_again(root),
        _ => Ok(()),
    }
}
