//! What a container's state is, for `state`, for `list` and for hooks.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::VERSION;
use crate::state::record::{Oci, Record, Status};
use crate::state::{Dir, Entry, StateError};

/// A state as the specification ("State") and runc have it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State {
    oci_version: &'static str,
    /// The container's name, which the specification calls its id.
    pub(crate) id: String,
    /// The supervisor; 0 when it has ended.
    pub(crate) pid: u32,
    /// How far it is.
    pub(crate) status: Status,
    /// The bundle's directory.
    pub(crate) bundle: PathBuf,
    rootfs: PathBuf,
    /// When it was made.
    pub(crate) created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    /// Who made it.
    pub(crate) owner: String,
}

impl State {
    /// The state of a container at `status`.
    pub(crate) fn new(record: &Record, oci: &Oci, status: Status) -> Self {
        Self {
            oci_version: VERSION,
            id: record.name.to_string(),
            pid: if status == Status::Stopped { 0 } else { record.supervisor },
            status,
            bundle: oci.bundle.clone(),
            rootfs: oci.rootfs.clone(),
            created: record.created.clone(),
            annotations: oci.annotations.clone(),
            owner: "root".to_owned(),
        }
    }
}

/// What a container of a bundle is known as.
#[derive(Debug)]
pub(crate) struct Known {
    /// Its directory.
    pub(crate) dir: Dir,
    /// What is written about it.
    pub(crate) record: Record,
    /// What is written about its bundle.
    pub(crate) oci: Oci,
    /// How far it is in truth: one whose supervisor is gone is stopped.
    pub(crate) status: Status,
}

impl Known {
    /// A container by its entry. One that `run` made of an image has a state, too.
    pub(crate) fn new(entry: Entry) -> Result<Self, StateError> {
        let record = entry.record?;
        let oci = record.oci.clone().unwrap_or_else(|| Oci::of_image(entry.dir.path()));
        let status = if entry.alive { oci.status } else { Status::Stopped };
        Ok(Self { dir: entry.dir, record, oci, status })
    }

    /// Its state.
    pub(crate) fn state(&self) -> State {
        State::new(&self.record, &self.oci, self.status)
    }
}
