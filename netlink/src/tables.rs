//! Tables of nftables, with all that is in them.
//!
//! Messages are those of `linux/netfilter/nfnetlink.h` and `nf_tables.h`: what stands between the two ends of a batch
//! is done whole or not at all. Numbers in them are big-endian.

use rustix::io::Errno;

use crate::Socket;
use crate::rule::Rule;
use crate::socket::{APPEND, CREATE};
use crate::wire::Message;

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;

/// `NFNL_SUBSYS_NFTABLES`.
const NFTABLES: u16 = 10;
/// `NFT_MSG_NEWTABLE`, `NFT_MSG_DELTABLE`, `NFT_MSG_NEWCHAIN`, `NFT_MSG_NEWRULE`, `NFT_MSG_GETGEN`.
const NEW_TABLE: u16 = NFTABLES << 8;
const DEL_TABLE: u16 = NFTABLES << 8 | 2;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFTABLES << 8 | 6;
const GET_GENERATION: u16 = NFTABLES << 8 | 16;

/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`.
const TABLE: u16 = 1;
/// `NFTA_CHAIN_*`.
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
/// `NFTA_HOOK_*`.
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
/// `NFTA_RULE_*`.
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;

/// What goes through a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Packets of IPv4 and IPv6 (`NFPROTO_INET`).
    Inet = 1,
    /// Frames of bridges (`NFPROTO_BRIDGE`).
    Bridge = 7,
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    /// What goes through it.
    pub family: Family,
    /// Its name.
    pub name: &'static str,
    /// Its chains: one that is jumped to before those that do.
    pub chains: Vec<Chain>,
}

/// A chain of rules.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where it hangs, unless it is only jumped to.
    pub hook: Option<Hook>,
    /// Its rules, in their order.
    pub rules: Vec<Rule>,
}

/// Where a chain hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// What it does: `filter`, or `nat`.
    pub kind: &'static str,
    /// When what goes through it does.
    pub place: Place,
    /// The lower, the sooner, at one place.
    pub priority: i32,
}

/// A place on a packet's way (`NF_INET_*`, `NF_BR_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It has come in.
    Prerouting = 0,
    /// It goes on to somebody else.
    Forward = 2,
    /// It is this machine's own.
    Output = 3,
    /// It goes out.
    Postrouting = 4,
}

/// `struct nfgenmsg`: a family, version 0, and a number that only the ends of a batch have.
fn header(family: u8, number: u16) -> Vec<u8> {
    [&[family, 0], &number.to_be_bytes()[..]].concat()
}

/// Whether this kernel has tables, and takes our word for them.
pub fn can_be_used() -> Result<(), Errno> {
    Socket::of_netfilter()?.order(Message::new(GET_GENERATION, 0, &header(0, 0)))
}

/// Takes these tables away with all that is in them. It is as well if they are not there.
pub fn remove(tables: &[(Family, &str)]) -> Result<(), Errno> {
    order(tables.iter().flat_map(|&(family, name)| no(family, name)).collect())
}

/// Has these tables be what they are here, whatever was in them.
pub fn replace(tables: &[Table]) -> Result<(), Errno> {
    let mut messages = Vec::new();
    for Table { family, name, chains } in tables {
        let family = *family;
        let new = |kind, flags| {
            Message::new(kind, CREATE | flags, &header(family as u8, 0)).with_name(TABLE, name)
        };
        messages.extend(no(family, name));
        messages.push(new(NEW_TABLE, 0));
        messages.extend(chains.iter().map(|chain| {
            new(NEW_CHAIN, 0).with_name(CHAIN_NAME, &chain.name).with_some(
                chain.hook,
                |message, Hook { kind, place, priority }| {
                    let place = |hook: Message| {
                        hook.with(HOOK_NUMBER, &(place as u32).to_be_bytes())
                            .with(HOOK_PRIORITY, &priority.to_be_bytes())
                    };
                    message.with_nested(CHAIN_HOOK, place).with_name(CHAIN_TYPE, kind)
                },
            )
        }));
        for chain in chains {
            messages.extend(chain.rules.iter().map(|rule| {
                new(NEW_RULE, APPEND)
                    .with_name(RULE_CHAIN, &chain.name)
                    .with_nested(RULE_EXPRESSIONS, |list| rule.write(list))
            }));
        }
    }
    order(messages)
}

/// Takes a table away, which is there by then: one that is there can be, and one that is not is made before.
fn no(family: Family, name: &str) -> [Message; 2] {
    [(NEW_TABLE, CREATE), (DEL_TABLE, 0)].map(|(kind, flags)| {
        Message::new(kind, flags, &header(family as u8, 0)).with_name(TABLE, name)
    })
}

fn order(messages: Vec<Message>) -> Result<(), Errno> {
    let ends = [BEGIN, END].map(|kind| Message::new(kind, 0, &header(0, NFTABLES)));
    Socket::of_netfilter()?.order_all(ends, messages)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::elsewhere;

    #[test]
    fn tables_that_are_there_go_and_others_are_no_fault() {
        elsewhere(|| match remove(&[(Family::Inet, "one"), (Family::Bridge, "two")]) {
            Ok(()) => assert_eq!(remove(&[(Family::Inet, "one")]), Ok(())),
            Err(errno) => {
                let _ = writeln!(std::io::stderr(), "skipped: no nftables in this kernel: {errno}");
            }
        });
    }

    #[test]
    fn a_batch_is_done_whole_or_not_at_all() {
        elsewhere(|| {
            let jump = |to: &str| Rule::default().jump(to);
            let hook = Hook { kind: "filter", place: Place::Forward, priority: 0 };
            let table = |to: &str, count: usize| Table {
                family: Family::Inet,
                name: "one",
                chains: vec![
                    Chain { name: "there".into(), hook: None, rules: vec![] },
                    Chain { name: "c".into(), hook: Some(hook), rules: vec![jump(to); count] },
                ],
            };
            if can_be_used().is_err() {
                let _ = writeln!(std::io::stderr(), "skipped: no nftables in this kernel");
                return;
            }
            // As many as hundreds of guests have.
            assert_eq!(replace(&[table("there", 5000)]), Ok(()));
            assert_eq!(replace(&[table("there", 1)]), Ok(()), "what is there is no fault");
            assert_eq!(replace(&[table("nowhere", 1)]), Err(Errno::NOENT));
        });
    }
}
