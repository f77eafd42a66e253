//! Whether this machine can run a VM.
//!
//! That `/dev/kvm` opens proves nothing: there are machines where it has no hardware behind it. The
//! proof runs a few instructions in a throw-away VM. It is made once per boot of the machine, and a
//! good verdict is kept beside the containers' state; a bad one is never believed a second time.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use vmm::probe::{ProbeError, Verdict, probe};

use crate::state::Root;

/// The device.
pub(crate) const DEVICE: &str = "/dev/kvm";

/// Why there is no VM to be had here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KvmError {
    /// The device is not there.
    #[error(
        "{DEVICE} does not exist: load the kvm_intel or kvm_amd module, with virtualization enabled in the firmware"
    )]
    Absent,
    /// The device is not ours to use.
    #[error("{DEVICE} may not be opened by this user: join the group that owns it, usually kvm")]
    Forbidden,
    /// The device is something else, or broken.
    #[error("{DEVICE}")]
    Io(#[source] io::Error),
    /// The device is there and of no use.
    #[error("{DEVICE} cannot run a Linux guest: {verdict}")]
    Unusable {
        /// What the proof found.
        verdict: Verdict,
    },
    /// The device is there and makes no VM.
    #[error("{DEVICE} cannot make a VM")]
    Probe(#[from] ProbeError),
}

/// Opens the device.
pub(crate) fn open() -> Result<File, KvmError> {
    File::options().read(true).write(true).open(DEVICE).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => KvmError::Absent,
        io::ErrorKind::PermissionDenied => KvmError::Forbidden,
        _ => match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::NODEV | rustix::io::Errno::NXIO) => KvmError::Absent,
            _ => KvmError::Io(error),
        },
    })
}

/// Makes sure that `kvm` runs guests, by proof or by a proof since the machine was booted.
pub(crate) fn ensure_usable(kvm: &File, root: &Root) -> Result<(), KvmError> {
    let boot = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let verdict = verdict(root);
    if !boot.is_empty() && fs::read(&verdict).is_ok_and(|proved| proved == boot) {
        return Ok(());
    }
    prove(kvm)?;
    // Without the note the proof is made again: slower, not wrong.
    let _ = fs::write(&verdict, boot);
    Ok(())
}

/// Forgets the proof and makes it anew, after a VM of ours ended strangely.
pub(crate) fn prove_again(root: &Root) -> Result<(), KvmError> {
    let _ = fs::remove_file(verdict(root));
    prove(&open()?)
}

/// Runs the proof: some milliseconds where KVM is real, a tenth of a second where it is not.
pub(crate) fn prove(kvm: &File) -> Result<(), KvmError> {
    let device = kvm.try_clone().map_err(KvmError::Io)?;
    match probe(device.into())?.verdict() {
        Verdict::Real => Ok(()),
        verdict => Err(KvmError::Unusable { verdict }),
    }
}

fn verdict(root: &Root) -> PathBuf {
    root.path().join(".kvm-proved")
}
