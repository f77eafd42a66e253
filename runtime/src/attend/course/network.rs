//! What becomes of the network while there is a guest.

use std::os::unix::net::UnixStream;

use proto::message::{Fault, Reply, Request};
use proto::stream::Stream;

use super::{Course, Phase};
use crate::attend::{AttendError, Reached};
use crate::dial::DialError;
use crate::exit::warn;
use crate::network::{Changes, Followed, Introductions};
use crate::session::SessionError;

impl<C, S> Course<'_, C, S>
where
    C: FnOnce(&[Stream]) -> Result<Vec<(Stream, UnixStream)>, DialError>,
    S: FnOnce(),
{
    /// Brings the guest what has changed. What cannot be brought is told to whoever reads the container's errors, and
    /// the container goes on without.
    pub(super) fn follow_network(&mut self, phase: Phase) -> Result<Phase, AttendError> {
        match self.bring_network() {
            Err(error @ (AttendError::Network(_) | AttendError::Plug(_))) => warn(&error),
            done => done?,
        }
        Ok(phase)
    }

    /// The same for whoever has to know whether all is well.
    pub(super) fn bring_network(&mut self) -> Result<(), AttendError> {
        match &mut self.attendance.network {
            None => Ok(()),
            Some(Followed::Carried(carried)) => match carried.changes()? {
                Some(changes) => self.bring_interfaces(changes),
                None => Ok(()),
            },
            Some(Followed::Peers(peers)) => {
                let Some(Introductions { gone, come }) = peers.changes()? else { return Ok(()) };
                let container = self.attendance.process.container.clone();
                self.connection = Some(self.call(Request::Introduce { container, gone, come })?);
                Ok(())
            }
        }
    }

    fn bring_interfaces(&mut self, changes: Changes) -> Result<(), AttendError> {
        let Some(vm) = &self.attendance.vm else { return Ok(()) };
        for (slot, tap) in changes.wires {
            vm.plug(slot, tap.and_then(|queues| queues.into_iter().next()))
                .map_err(AttendError::Plug)?;
        }
        let network = changes.network;
        let names = network.interfaces.iter().map(|interface| interface.name.clone()).collect();
        self.connection = Some(self.call(Request::Connect { network })?);
        self.reach(Reached::Interfaces(names))
    }

    /// Hears what the guest has made of that. A process that has not begun does not begin without its network.
    pub(super) fn network_is_followed(
        &self,
        result: Result<Reply, Fault>,
        phase: Phase,
    ) -> Result<Phase, AttendError> {
        match (result.map_err(SessionError::Refused), &phase) {
            (Ok(Reply::Done), _) => Ok(phase),
            (Ok(reply), _) => Err(SessionError::WrongReply { reply }.into()),
            (Err(error), Phase::Starting { .. }) => Err(error.into()),
            (Err(error), _) => {
                warn(&error);
                Ok(phase)
            }
        }
    }
}
