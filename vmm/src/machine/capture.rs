//! A machine that stands still, written down.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::working_set::{RecordError, WorkingSet};
use crate::arch::state::ChipsState;
use crate::devices::serial::SerialLine;
use crate::kvm::{KvmError, Vm};
use crate::memory::{self, FileId, Memory, MemoryError, Watch};
use crate::section::{SectionError, State};
use crate::snapshot;
use crate::sync::lock;
use crate::vcpu::{Running, StopError};
use crate::virtio::mmio::{Busy, Mmio};

/// What two machines have to share for the one to go on where the other was saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Bytes of memory.
    pub ram_bytes: u64,
    /// Disk slots.
    pub disks: u8,
    /// There is a file system device.
    pub has_fs: bool,
    /// Network slots.
    pub nets: u8,
    /// What the processor is, in short.
    pub processor: u32,
    /// Ticks of its time-stamp counter in a millisecond.
    pub tsc_khz: u32,
}

impl Shape {
    /// Finds what is not as `saved` has it, by name.
    pub(super) fn check(&self, saved: &Self) -> Result<(), SectionError> {
        let differs = [
            ("vcpus", u64::from(saved.vcpus), u64::from(self.vcpus)),
            ("ram_bytes", saved.ram_bytes, self.ram_bytes),
            ("disks", u64::from(saved.disks), u64::from(self.disks)),
            ("fs", u64::from(saved.has_fs), u64::from(self.has_fs)),
            ("nets", u64::from(saved.nets), u64::from(self.nets)),
            ("processor", u64::from(saved.processor), u64::from(self.processor)),
            ("tsc_khz", u64::from(saved.tsc_khz), u64::from(self.tsc_khz)),
        ];
        match differs.iter().find(|(_, saved, here)| saved != here) {
            Some((field, saved, here)) => Err(SectionError::Impossible {
                kind: MachineState::KIND,
                what: format!("{field} was {saved} and is {here}"),
            }),
            None => Ok(()),
        }
    }
}

/// The first section: what the rest is the state of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MachineState {
    pub(super) shape: Shape,
    /// Its memory file.
    pub(super) memory: FileId,
}

impl State for MachineState {
    const KIND: &'static str = "machine";
    const VERSION: u16 = 2;
}

/// Empty files that a machine is saved to.
#[derive(Debug)]
pub struct SaveTo {
    /// For its state.
    pub state: File,
    /// For its memory.
    pub memory: File,
}

/// Why a machine was not saved.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A vCPU.
    #[error(transparent)]
    Vcpu(#[from] StopError),
    /// The chips.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A device has work that would be lost.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The state.
    #[error("state file: {0}")]
    State(#[source] io::Error),
    /// There is no number that names the memory file.
    #[error("random number: {0}")]
    Random(#[source] io::Error),
}

/// Everything of a machine but its vCPUs and buses.
pub struct Body {
    /// The VM in the kernel, which lives as long as this.
    pub vm: Vm,
    /// Its memory, which the VM looks at.
    pub memory: Memory,
    pub(super) devices: Vec<Arc<Mutex<Mmio>>>,
    pub(super) serial: Arc<Mutex<SerialLine>>,
    pub(super) shape: Shape,
    /// The name of the memory file that it went on from.
    pub(super) snapshot: Option<FileId>,
    /// What of its memory the guest has touched since.
    pub(super) watch: Option<Watch>,
}

impl Body {
    /// Writes down what the guest has touched since it went on from its snapshot.
    pub fn record(&self, to: File) -> Result<(), RecordError> {
        let (Some(snapshot), Some(watch)) = (self.snapshot, &self.watch) else {
            return Err(RecordError::NoSnapshot);
        };
        WorkingSet::record(watch.touched(&self.memory)?, snapshot, to)
    }

    /// Stops `vcpus` and saves everything. To be called by the thread that serves the devices.
    pub fn capture(&self, vcpus: Running, mut to: SaveTo) -> Result<(), CaptureError> {
        let vcpus = vcpus.stop()?;
        let id = file_id().map_err(CaptureError::Random)?;
        let machine = MachineState { shape: self.shape.clone(), memory: id };
        let mut sections = vec![machine.to_section()];
        sections.extend(vcpus.iter().map(State::to_section));
        sections.push(ChipsState::save(&self.vm)?.to_section());
        for device in &self.devices {
            sections.extend(lock(device).save()?);
        }
        sections.push(lock(&self.serial).save().to_section());
        memory::write(&self.memory, &to.memory, &id)?;
        // Last: a state without its memory would be believed.
        to.state.write_all(&snapshot::write(&sections)).map_err(CaptureError::State)
    }
}

fn file_id() -> io::Result<FileId> {
    let mut id = FileId::default();
    // SAFETY: `id` is writable for its length.
    let got = unsafe { libc::getrandom(id.as_mut_ptr().cast(), id.len(), 0) };
    if usize::try_from(got) == Ok(id.len()) { Ok(id) } else { Err(io::Error::last_os_error()) }
}
