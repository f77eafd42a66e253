//! What others order, where a container is held until they do.

use std::os::unix::net::UnixStream;

use proto::message::Request;
use proto::stream::Stream;

use super::{Course, Phase};
use crate::attend::{AttendError, Reached};
use crate::dial::DialError;
use crate::exit::Failure;
use crate::orders::{Order, Ordered};
use crate::state::record::Status;

impl<C, S> Course<'_, C, S>
where
    C: FnOnce(&[Stream]) -> Result<Vec<(Stream, UnixStream)>, DialError>,
    S: FnOnce(),
{
    /// Does what somebody orders, or tells them why not now.
    pub(super) fn take_order(&mut self, phase: Phase) -> Result<Phase, AttendError> {
        let Some(held) = &self.attendance.held else { return Ok(phase) };
        let Some(ordered) = held.orders.next().map_err(AttendError::Watch)? else {
            return Ok(phase);
        };
        let name = self.attendance.process.container.clone();
        let cannot = |what: &str| Failure { message: format!("container {name} {what}"), code: 1 };
        match (ordered.order, phase) {
            (Order::Start, Phase::Held { wait }) => {
                // What its engine has done to the network by now was done for this.
                match self.bring_network() {
                    Err(error @ (AttendError::Network(_) | AttendError::Plug(_))) => {
                        ordered.answer(Err(Failure::of(&error)));
                        return Ok(Phase::Held { wait });
                    }
                    done => done?,
                }
                let start = self.call(Request::Start { container: name })?;
                self.starter = Some(ordered);
                Ok(Phase::Starting { start, wait })
            }
            (Order::Pause, phase @ Phase::Running { .. }) if !self.paused => {
                self.stop_vm(ordered, true)?;
                Ok(phase)
            }
            (Order::Resume, phase @ Phase::Running { .. }) if self.paused => {
                self.stop_vm(ordered, false)?;
                Ok(phase)
            }
            (order, phase) => {
                ordered.answer(Err(cannot(match order {
                    Order::Start => "was started already",
                    Order::Pause if self.paused => "is paused already",
                    Order::Pause => "is not running",
                    Order::Resume => "is not paused",
                })));
                Ok(phase)
            }
        }
    }

    /// Stops the VM's process, and with it every virtual CPU, or lets it go on.
    fn stop_vm(&mut self, ordered: Ordered, stop: bool) -> Result<(), AttendError> {
        let Some(vm) = &self.attendance.vm else { return Ok(()) };
        match if stop { vm.pause() } else { vm.resume() } {
            Ok(()) => {
                self.paused = stop;
                let status = if stop { Status::Paused } else { Status::Running };
                self.reach(Reached::Status(status))?;
                ordered.answer(Ok(()));
            }
            Err(error) => ordered.answer(Err(Failure::of(&error))),
        }
        Ok(())
    }

    pub(super) fn reach(&mut self, reached: Reached) -> Result<(), AttendError> {
        match &mut self.attendance.held {
            Some(held) => {
                // Created or further, it has a name by which others find it.
                held.caller = None;
                (held.reached)(reached)
            }
            None => Ok(()),
        }
    }
}
