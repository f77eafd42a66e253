//! What of a container can be reached from outside: `[ADDRESS:]HOST:CONTAINER[/udp]`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A port that is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Port {
    /// Who asks for it: this address of the machine, or any if it is unspecified.
    pub(crate) address: IpAddr,
    /// The port there.
    pub(crate) host: u16,
    /// The port of the container.
    pub(crate) container: u16,
    /// What is spoken.
    pub(crate) protocol: Protocol,
}

/// What a port belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Protocol {
    /// Streams.
    Tcp,
    /// Packets.
    Udp,
}

/// A word that publishes nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("--publish {0:?} is not [ADDRESS:]HOST:CONTAINER[/udp] with ports from 1 to 65535")]
pub(crate) struct BadPort(String);

impl FromStr for Port {
    type Err = BadPort;

    fn from_str(word: &str) -> Result<Self, BadPort> {
        let bad = || BadPort(word.to_owned());
        let (rest, protocol) = match word.rsplit_once('/') {
            None | Some((_, "tcp")) => (word.trim_end_matches("/tcp"), Protocol::Tcp),
            Some((rest, "udp")) => (rest, Protocol::Udp),
            Some(_) => return Err(bad()),
        };
        let (rest, container) = rest.rsplit_once(':').ok_or_else(bad)?;
        let (address, host) = match rest.rsplit_once(':') {
            None => (Ipv4Addr::UNSPECIFIED.into(), rest),
            Some((address, host)) => {
                let bare = address.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
                (bare.unwrap_or(address).parse().map_err(|_| bad())?, host)
            }
        };
        let port = |word: &str| word.parse().ok().filter(|port| *port != 0).ok_or_else(bad);
        Ok(Self { address, host: port(host)?, container: port(container)?, protocol })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} of {}", self.host, self.protocol, self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_read_as_docker_reads_it() {
        let read = |word: &str| {
            word.parse::<Port>()
                .map(|port| (port.address.to_string(), port.host, port.container, port.protocol))
        };
        let any = || "0.0.0.0".to_owned();
        assert_eq!(read("8080:80"), Ok((any(), 8080, 80, Protocol::Tcp)));
        assert_eq!(read("53:5353/udp"), Ok((any(), 53, 5353, Protocol::Udp)));
        assert_eq!(read("127.0.0.1:1:2/tcp"), Ok(("127.0.0.1".into(), 1, 2, Protocol::Tcp)));
        assert_eq!(read("[::1]:1:2"), Ok(("::1".into(), 1, 2, Protocol::Tcp)));
        for word in ["", "80", ":80", "0:80", "80:0", "80:65536", "a:1:2", "1:2/sctp", "80:-1"] {
            assert_eq!(read(word), Err(BadPort(word.into())), "{word}");
        }
    }
}
