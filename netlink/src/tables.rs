//! Tables of nftables: they are taken away. What is in them is nft(8)'s to write.
//!
//! Messages are those of `linux/netfilter/nfnetlink.h` and `nf_tables.h`: what stands between the two ends of a batch
//! is done whole or not at all.

use rustix::io::Errno;

use crate::Socket;
use crate::socket::CREATE;
use crate::wire::Message;

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;

/// `NFNL_SUBSYS_NFTABLES`.
const NFTABLES: u16 = 10;
/// `NFT_MSG_NEWTABLE` and `NFT_MSG_DELTABLE`.
const NEW_TABLE: u16 = NFTABLES << 8;
const DEL_TABLE: u16 = NFTABLES << 8 | 2;

/// `NFTA_TABLE_NAME`.
const NAME: u16 = 1;

/// What goes through a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Packets of IPv4 and IPv6 (`NFPROTO_INET`).
    Inet = 1,
    /// Frames of bridges (`NFPROTO_BRIDGE`).
    Bridge = 7,
}

/// `struct nfgenmsg`: a family, version 0, and a number that only the ends of a batch have.
fn header(family: u8, number: u16) -> Vec<u8> {
    [&[family, 0], &number.to_be_bytes()[..]].concat()
}

/// Takes these tables away with all that is in them. It is as well if they are not there.
pub fn remove(tables: &[(Family, &str)]) -> Result<(), Errno> {
    let table = |kind, flags, (family, name): (Family, &str)| {
        Message::new(kind, flags, &header(family as u8, 0)).with_name(NAME, name)
    };
    let mut batch = vec![Message::new(BEGIN, 0, &header(0, NFTABLES))];
    for &it in tables {
        // One that is there can be taken away, and one that is not is there now.
        batch.push(table(NEW_TABLE, CREATE, it));
        batch.push(table(DEL_TABLE, 0, it));
    }
    batch.push(Message::new(END, 0, &header(0, NFTABLES)));
    Socket::of_netfilter()?.order_all(batch)
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
}
