//! A rule of nftables: what it asks of a packet, one after the other, and what becomes of one of which all is true.
//!
//! Each question loads something into a register and compares it. What a question takes for granted is to be asked
//! before, as nft(8) does by itself: an address of IPv4, for one, is at its place in packets of IPv4 alone.

use std::net::IpAddr;

use crate::octets;
use crate::wire::Message;

/// `NFTA_LIST_ELEM`, `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`.
const ELEMENT: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;
/// `NFTA_DATA_VALUE`, `NFTA_DATA_VERDICT`.
const VALUE: u16 = 1;
const VERDICT: u16 = 2;

/// `NFT_REG_VERDICT`, and two of those that hold 16 bytes each.
const OUTCOME: u32 = 0;
const FIRST: u32 = 1;
const SECOND: u32 = 2;

/// `IFNAMSIZ`.
const NAME_BYTES: usize = 16;

/// What is known of a packet beside what is in it (`NFT_META_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// What is in the frame, as Ethernet says it: two bytes.
    Protocol = 1,
    /// The name of the interface that it has come by.
    InName = 6,
    /// The name of the interface that it goes by.
    OutName = 7,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`: a byte.
    Family = 15,
    /// What is in the packet, as IP says it: a byte.
    Transport = 16,
}

/// From where a place in a packet is counted (`NFT_PAYLOAD_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Ethernet's header.
    Link = 0,
    /// That of IP, or of ARP.
    Network = 1,
    /// That of TCP, UDP or ICMPv6.
    Transport = 2,
}

/// What the kernel remembers of a connection (`NFT_CT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// How far it is: [`ESTABLISHED`], [`RELATED`].
    State = 0,
    /// What was done to it: [`TRANSLATED`].
    Status = 2,
}

/// Both sides have spoken.
pub const ESTABLISHED: u32 = 1 << 1;
/// Another connection has led to it.
pub const RELATED: u32 = 1 << 2;
/// Where it goes was changed (`IPS_DST_NAT`).
pub const TRANSLATED: u32 = 1 << 5;

/// How something compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// It is that.
    Equal = 0,
    /// It is anything else.
    Other = 1,
}

/// What is asked, and what follows. Says nothing of any packet while it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule(Vec<Expression>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Expression {
    name: &'static str,
    attributes: Vec<(u16, Attribute)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Attribute {
    Number(u32),
    Value(Vec<u8>),
    Verdict(i32, Option<String>),
}

impl Rule {
    fn with<const N: usize>(
        mut self,
        name: &'static str,
        attributes: [(u16, Attribute); N],
    ) -> Self {
        self.0.push(Expression { name, attributes: attributes.into() });
        self
    }

    /// What was loaded is compared.
    fn compare(self, is: Is, value: &[u8]) -> Self {
        let value = Attribute::Value(value.to_vec());
        let operation = Attribute::Number(is as u32);
        self.with("cmp", [(1, Attribute::Number(FIRST)), (2, operation), (3, value)])
    }

    /// Of what was loaded, only what is in the mask counts.
    fn mask(self, mask: &[u8]) -> Self {
        let register = || Attribute::Number(FIRST);
        let length = Attribute::Number(mask.len() as u32);
        let nothing = Attribute::Value(vec![0; mask.len()]);
        let mask = Attribute::Value(mask.to_vec());
        let attributes = [(1, register()), (2, register()), (3, length), (4, mask), (5, nothing)];
        self.with("bitwise", attributes)
    }

    fn load(self, base: Base, offset: u32, bytes: usize) -> Self {
        let numbers = [FIRST, base as u32, offset, bytes as u32].map(Attribute::Number);
        let [register, base, offset, bytes] = numbers;
        self.with("payload", [(1, register), (2, base), (3, offset), (4, bytes)])
    }

    /// Asks for bytes of the packet's.
    pub fn bytes(self, base: Base, offset: u32, is: Is, value: &[u8]) -> Self {
        self.load(base, offset, value.len()).compare(is, value)
    }

    /// Asks whether an address of the packet's, of the same kind, is in a network.
    pub fn within(self, base: Base, offset: u32, is: Is, (first, prefix): (IpAddr, u8)) -> Self {
        let first = octets(&first);
        let mask: Vec<u8> = (0..first.len())
            .map(|at| {
                let bits = usize::from(prefix).saturating_sub(8 * at).min(8);
                !(0xff_u8.checked_shr(bits as u32).unwrap_or(0))
            })
            .collect();
        let network: Vec<u8> = first.iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
        self.load(base, offset, network.len()).mask(&mask).compare(is, &network)
    }

    /// Asks for what is known of the packet. A name is compared whole.
    pub fn meta(self, what: Meta, is: Is, value: &[u8]) -> Self {
        let mut value = value.to_vec();
        if let Meta::InName | Meta::OutName = what {
            value.resize(NAME_BYTES, 0);
        }
        let key = Attribute::Number(what as u32);
        self.with("meta", [(1, Attribute::Number(FIRST)), (2, key)]).compare(is, &value)
    }

    /// Asks whether the packet is for this machine itself.
    pub fn for_this_machine(self) -> Self {
        /// `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_DADDR`, `RTN_LOCAL`.
        const TYPE: u32 = 3;
        const DESTINATION: u32 = 2;
        const LOCAL: u32 = 2;
        let [register, result, flags] = [FIRST, TYPE, DESTINATION].map(Attribute::Number);
        self.with("fib", [(1, register), (2, result), (3, flags)])
            .compare(Is::Equal, &LOCAL.to_ne_bytes())
    }

    /// Asks whether any of these bits are said of the packet's connection.
    pub fn connection(self, what: Connection, bits: u32) -> Self {
        let key = Attribute::Number(what as u32);
        self.with("ct", [(1, Attribute::Number(FIRST)), (2, key)])
            .mask(&bits.to_ne_bytes())
            .compare(Is::Other, &[0; 4])
    }

    fn verdict(self, code: i32, chain: Option<&str>) -> Self {
        let verdict = Attribute::Verdict(code, chain.map(str::to_owned));
        self.with("immediate", [(1, Attribute::Number(OUTCOME)), (2, verdict)])
    }

    /// It goes no further.
    pub fn drop(self) -> Self {
        self.verdict(0, None)
    }

    /// It goes on.
    pub fn accept(self) -> Self {
        self.verdict(1, None)
    }

    /// Another chain is asked, and then the next rule.
    pub fn jump(self, chain: &str) -> Self {
        /// `NFT_JUMP`.
        const JUMP: i32 = -3;
        self.verdict(JUMP, Some(chain))
    }

    /// From now on it is from this machine, and its answers find back.
    pub fn masquerade(self) -> Self {
        self.with("masq", [])
    }

    /// From now on it is for this address and port.
    pub fn redirect_to(self, address: IpAddr, port: u16) -> Self {
        /// `NFT_NAT_DNAT`, `NFPROTO_IPV4`, `NFPROTO_IPV6`.
        const DESTINATION: u32 = 1;
        let family = if address.is_ipv4() { 2 } else { 10 };
        let put = |rule: Self, register, value: &[u8]| {
            let value = Attribute::Value(value.to_vec());
            rule.with("immediate", [(1, Attribute::Number(register)), (2, value)])
        };
        let rule = put(self, FIRST, &octets(&address));
        let rule = put(rule, SECOND, &port.to_be_bytes());
        let [kind, family, address, port] =
            [DESTINATION, family, FIRST, SECOND].map(Attribute::Number);
        rule.with("nat", [(1, kind), (2, family), (3, address), (5, port)])
    }

    /// Writes what it says into a list.
    pub(crate) fn write(&self, list: Message) -> Message {
        self.0.iter().fold(list, |list, Expression { name, attributes }| {
            list.with_nested(ELEMENT, |element| {
                element.with_name(NAME, name).with_nested(DATA, |data| {
                    attributes.iter().fold(data, |data, (kind, attribute)| match attribute {
                        Attribute::Number(number) => data.with(*kind, &number.to_be_bytes()),
                        Attribute::Value(bytes) => {
                            data.with_nested(*kind, |value| value.with(VALUE, bytes))
                        }
                        Attribute::Verdict(code, chain) => data.with_nested(*kind, |value| {
                            value.with_nested(VERDICT, |verdict| {
                                verdict
                                    .with(1, &code.to_be_bytes())
                                    .with_some(chain.as_ref(), |it, chain| it.with_name(2, chain))
                            })
                        }),
                    })
                })
            })
        })
    }
}
