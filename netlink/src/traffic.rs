//! What becomes of frames when they come in (tc(8)): all of them go out again elsewhere.
//!
//! An *ingress* is the place at an interface where that is said. Taking it away takes along what was said there.

use rustix::io::Errno;

use crate::Socket;
use crate::socket::NEW;
use crate::wire::{Message, attributes, name, number};

const NEW_PLACE: u16 = 36;
const DEL_PLACE: u16 = 37;
const GET_PLACE: u16 = 38;
const NEW_FILTER: u16 = 44;

/// `struct tcmsg`.
const HEADER: usize = 20;

const KIND: u16 = 1;
const OPTIONS: u16 = 2;

/// `TC_H_INGRESS`, and the handle that its place always has.
const INGRESS: u32 = 0xffff_fff1;
const HANDLE: u32 = 0xffff_0000;

/// `TCA_MATCHALL_ACT`, and in it the kind and options of the first action.
const ACTIONS: u16 = 2;
const ACTION_KIND: u16 = 1;
const ACTION_OPTIONS: u16 = 2;
/// `TCA_MIRRED_PARMS`.
const PARAMETERS: u16 = 2;
/// `TC_ACT_STOLEN`: nobody else gets it.
const STOLEN: u32 = 4;
/// `TCA_EGRESS_REDIR`.
const REDIRECT: u32 = 1;

/// Of every protocol (`ETH_P_ALL`, as the network writes it), before every other filter.
fn first_of_all() -> u32 {
    1 << 16 | u32::from(3u16.to_be())
}

fn header(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    [0, index, handle, parent, info].map(u32::to_ne_bytes).concat()
}

impl Socket {
    /// Makes the place where is said what becomes of what comes in by interface `index`.
    pub fn add_ingress(&mut self, index: u32) -> Result<(), Errno> {
        let message = Message::new(NEW_PLACE, NEW, &header(index, HANDLE, INGRESS, 0));
        self.order(message.with_name(KIND, "ingress"))
    }

    /// Takes it away, with all that was said there.
    pub fn remove_ingress(&mut self, index: u32) -> Result<(), Errno> {
        self.order(Message::new(DEL_PLACE, 0, &header(index, HANDLE, INGRESS, 0)))
    }

    /// The interfaces that have such a place.
    pub fn ingresses(&mut self) -> Result<Vec<u32>, Errno> {
        let read = |body: &[u8]| {
            let mut kinds = attributes(body, HEADER).filter(|(kind, _)| *kind == KIND);
            let is_one = kinds.next().is_some_and(|(_, value)| name(value) == "ingress");
            number(body, 4).filter(|_| is_one)
        };
        self.list(|| Message::new(GET_PLACE, 0, &header(0, 0, 0, 0)), NEW_PLACE, read)
    }

    /// From now on all that comes in by interface `from` goes out by interface `to`, and nobody else in this
    /// namespace sees it.
    pub fn redirect(&mut self, from: u32, to: u32) -> Result<(), Errno> {
        // `struct tc_mirred`: index, capabilities, action, references, binds, what to do, interface.
        let parameters = [0, 0, STOLEN, 0, 0, REDIRECT, to].map(u32::to_ne_bytes).concat();
        let message = Message::new(NEW_FILTER, NEW, &header(from, 0, HANDLE, first_of_all()));
        let message = message.with_name(KIND, "matchall").with_nested(OPTIONS, |options| {
            options.with_nested(ACTIONS, |actions| {
                // They are numbered from 1.
                actions.with_nested(1, |action| {
                    action.with_name(ACTION_KIND, "mirred").with_nested(ACTION_OPTIONS, |options| {
                        options.with(PARAMETERS, &parameters)
                    })
                })
            })
        });
        self.order(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Change;
    use crate::{Group, elsewhere};

    #[test]
    fn what_was_said_of_an_interface_goes_with_its_place() {
        elsewhere(|| {
            let mut socket = Socket::open(Group::Nobody).unwrap();
            let named = |name| Change { name: Some(name), ..Change::default() };
            socket.add_cable(&named("one"), &named("two")).unwrap();
            let [one, two] = ["one", "two"].map(|name| socket.link(name).unwrap().index);
            socket.add_ingress(one).unwrap();
            if socket.redirect(one, two) == Err(Errno::NOENT) {
                use std::io::Write;
                let _ =
                    writeln!(std::io::stderr(), "skipped: no matchall or mirred in this kernel");
                return;
            }
            assert_eq!(socket.ingresses().unwrap(), [one]);
            assert_eq!(socket.add_ingress(one), Err(Errno::EXIST));
            socket.remove_ingress(one).unwrap();
            assert_eq!(socket.ingresses().unwrap(), []);
            assert!(socket.redirect(one, two).is_err(), "nowhere to say that");
        });
    }
}
