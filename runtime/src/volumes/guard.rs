//! What becomes of volumes that nobody named.

use super::{Name, Volumes};
use crate::state::Root;

/// Volumes of one container, made for it alone. When this is dropped those go whose container is gone too:
/// it could not be started, or was not to be kept.
pub(crate) struct Anonymous {
    pub(crate) volumes: Volumes,
    pub(crate) root: Root,
    pub(crate) names: Vec<Name>,
}

impl Drop for Anonymous {
    fn drop(&mut self) {
        if self.names.is_empty() {
            return;
        }
        // Nobody is there to hear of an error: what stays is found by `volume prune`.
        let Ok(turn) = self.volumes.turn() else { return };
        for name in &self.names {
            let _ = self.volumes.remove(name, &self.root, &turn);
        }
    }
}
