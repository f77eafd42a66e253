//! `--network`: which network a container is on, and how fast.

use vmm::spec::Limits;

use super::PlanError;
use super::storage::{once, rate};
use super::values::size;
use crate::network::Names;
use crate::network::own::{NONE, Newcomer};
use crate::state::record::{Id, Name};
use crate::wishes::Wishes;

/// Decides it; nothing is said where a container is on none.
pub(super) fn newcomer(
    wishes: &Wishes,
    id: &Id,
    name: &Name,
    hostname: &str,
) -> Result<Option<Newcomer>, PlanError> {
    let ports = wishes.publish.iter().map(|word| word.parse()).collect::<Result<Vec<_>, _>>()?;
    let word = wishes.network.as_deref().unwrap_or(NONE);
    let refused = |why: &str| PlanError::Network { word: word.to_owned(), why: why.to_owned() };
    let mut words = word.split(',');
    let network = words.next().unwrap_or_default();
    let mut said = Said::default();
    for pair in words {
        said.hear(pair).map_err(|why| refused(&why))?;
    }
    let names = names(wishes)?;
    let [to_guest, from_guest] = said.judge().map_err(|why| refused(&why))?;
    match network {
        NONE | "" if !ports.is_empty() => {
            Err(refused("no port can be published where there is no network"))
        }
        NONE | "" if names != Names::default() => {
            Err(refused("nobody can be asked for names where there is no network"))
        }
        NONE | "" if word.contains(',') => Err(refused("there is nothing to be limited")),
        NONE | "" => Ok(None),
        "host" => {
            Err(refused("a guest has a kernel of its own, which is not on the host's network"))
        }
        network if network.starts_with("container:") => {
            Err(refused("each container is in a VM of its own, and no two have one network stack"))
        }
        network => Ok(Some(Newcomer {
            network: network.to_owned(),
            id: id.to_string(),
            name: name.to_string(),
            hostname: hostname.to_owned(),
            ports,
            names,
            to_guest,
            from_guest,
        })),
    }
}

/// What is said about names.
fn names(wishes: &Wishes) -> Result<Names, PlanError> {
    let bad = |option, word: &str, why| PlanError::Names { option, word: word.to_owned(), why };
    let server =
        |word: &String| word.parse().map_err(|_| bad("dns", word, "that is no IP address"));
    // What is a word of its own in a file's line.
    let is_word = |word: &str| !word.is_empty() && !word.contains(|it: char| it.is_whitespace());
    let whole = |option, words: &[String]| match words.iter().find(|word| !is_word(word)) {
        Some(word) => Err(bad(option, word, "that is not one word")),
        None => Ok(words.to_vec()),
    };
    let host = |word: &String| {
        let why = "that is not NAME:ADDRESS, with an IP address or host-gateway";
        let (name, address) = word.split_once(':').filter(|(name, _)| is_word(name)).ok_or(why)?;
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let address = match address {
            "host-gateway" => None,
            address => Some(address.parse().map_err(|_| why)?),
        };
        Ok((name.to_owned(), address))
    };
    let host = |word: &String| host(word).map_err(|why| bad("add-host", word, why));
    Ok(Names {
        servers: wishes.dns.iter().map(server).collect::<Result<_, _>>()?,
        search: whole("dns-search", &wishes.dns_search)?,
        options: whole("dns-option", &wishes.dns_option)?,
        hosts: wishes.add_host.iter().map(host).collect::<Result<_, _>>()?,
    })
}

/// The words behind a network's name: of what the guest receives, and of what it transmits.
#[derive(Default)]
struct Said {
    rx: Direction,
    tx: Direction,
}

/// Bytes in a second and at once, packets in a second and at once.
#[derive(Default)]
struct Direction {
    bps: Option<u64>,
    bps_burst: Option<u64>,
    pps: Option<u64>,
    pps_burst: Option<u64>,
}

impl Said {
    fn hear(&mut self, pair: &str) -> Result<(), String> {
        let unknown = || {
            format!("{pair:?} is none of bps=, bps-burst=, pps= and pps-burst= behind rx- or tx-")
        };
        let (key, word) = pair.split_once('=').ok_or_else(unknown)?;
        let (direction, rest) = match key.split_once('-').ok_or_else(unknown)? {
            ("rx", rest) => (&mut self.rx, rest),
            ("tx", rest) => (&mut self.tx, rest),
            _ => return Err(unknown()),
        };
        let (place, value, kind) = match rest {
            "bps" => (&mut direction.bps, size(word), "size like 512k or 10m"),
            "bps-burst" => (&mut direction.bps_burst, size(word), "size like 512k or 10m"),
            "pps" => (&mut direction.pps, word.parse().ok(), "number"),
            "pps-burst" => (&mut direction.pps_burst, word.parse().ok(), "number"),
            _ => return Err(unknown()),
        };
        match value {
            None => Err(format!("{key} {word:?} is not a {kind}")),
            Some(0) => Err(format!("{key} is 0")),
            Some(value) => once(place, value, pair),
        }
    }

    fn judge(self) -> Result<[Limits; 2], String> {
        let of = |direction: Direction, way: &str| -> Result<Limits, String> {
            let Direction { bps, bps_burst, pps, pps_burst } = direction;
            Ok(Limits {
                bytes: rate(bps, bps_burst, &format!("{way}-bps"))?,
                requests: rate(pps, pps_burst, &format!("{way}-pps"))?,
            })
        };
        Ok([of(self.rx, "rx")?, of(self.tx, "tx")?])
    }
}

#[cfg(test)]
mod tests {
    use vmm::spec::Rate;

    use super::*;

    fn judged(word: &str) -> Result<Option<Newcomer>, String> {
        judged_with(|_| (), word)
    }

    fn judged_with(change: fn(&mut Wishes), word: &str) -> Result<Option<Newcomer>, String> {
        let mut wishes = Wishes { network: Some(word.to_owned()), ..Wishes::default() };
        change(&mut wishes);
        let id = Id::from_bits([0xab; 32]);
        newcomer(&wishes, &id, &id.as_name(), "box").map_err(|error| error.to_string())
    }

    #[test]
    fn each_direction_is_limited_by_bytes_and_packets() {
        let rate = |per_second, burst| Some(Rate { per_second, burst });
        let word = "town,rx-bps=1m,tx-pps=100,tx-pps-burst=500,tx-bps=2k,tx-bps-burst=9k";
        let newcomer = judged(word).unwrap().unwrap();
        assert_eq!(newcomer.network, "town");
        assert_eq!(newcomer.to_guest, Limits { bytes: rate(1 << 20, 1 << 20), requests: None });
        let from_guest = Limits { bytes: rate(2 << 10, 9 << 10), requests: rate(100, 500) };
        assert_eq!(newcomer.from_guest, from_guest);
        assert_eq!(judged("town").unwrap().unwrap().to_guest, Limits::default());
        assert_eq!(judged("none"), Ok(None));
    }

    #[test]
    fn names_are_words_and_addresses() {
        let of = |option: fn(&mut Wishes) -> &mut Vec<String>, word: &str| {
            let mut wishes = Wishes { network: Some("town".to_owned()), ..Wishes::default() };
            option(&mut wishes).push(word.to_owned());
            names(&wishes).map_err(|error| error.to_string())
        };
        let names = of(|wishes| &mut wishes.add_host, "db:[fd00::1]").unwrap();
        assert_eq!(names.hosts, [("db".to_owned(), "fd00::1".parse().ok())]);
        let names = of(|wishes| &mut wishes.add_host, "here:host-gateway").unwrap();
        assert_eq!(names.hosts, [("here".to_owned(), None)]);
        for word in ["db", ":10.0.0.1", "a b:10.0.0.1", "db:nowhere", "db:", "x\ny:10.0.0.1"] {
            let said = of(|wishes| &mut wishes.add_host, word).unwrap_err();
            assert!(said.starts_with(&format!("--add-host {word}: ")), "{said}");
        }
        let said = of(|wishes| &mut wishes.dns, "box.test").unwrap_err();
        assert_eq!(said, "--dns box.test: that is no IP address");
        let said = of(|wishes| &mut wishes.dns_search, "lan\nnameserver 10.0.0.1").unwrap_err();
        assert!(said.ends_with("that is not one word"), "{said}");
        let said = judged_with(|wishes| wishes.dns.push("10.0.0.1".to_owned()), "none");
        assert!(said.unwrap_err().contains("nobody can be asked for names"));
    }

    #[test]
    fn what_cannot_be_is_said_by_its_word() {
        for (word, want) in [
            ("host", "a guest has a kernel of its own"),
            ("container:web", "each container is in a VM"),
            ("none,rx-bps=1m", "there is nothing to be limited"),
            ("town,", "\"\" is none of"),
            ("town,bps=1m", "\"bps=1m\" is none of"),
            ("town,up-bps=1m", "\"up-bps=1m\" is none of"),
            ("town,rx-bps=fast", "rx-bps \"fast\" is not a size"),
            ("town,rx-pps=1k", "rx-pps \"1k\" is not a number"),
            ("town,tx-pps=0", "tx-pps is 0"),
            ("town,tx-pps=1,tx-pps=2", "\"tx-pps=2\" says again"),
            ("town,tx-bps-burst=1m", "tx-bps-burst is of no use"),
        ] {
            let message = judged(word).unwrap_err();
            let want = format!("--network {word}: {want}");
            assert!(message.starts_with(&want), "{message}, not {want}");
        }
    }
}
