//! Proxies, as the environment names them: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, large or
//! small. What is on this machine is never asked through one.

use std::net::IpAddr;

use ureq::Proxy;

use super::error::RegistryError;

#[derive(Debug)]
pub(super) struct Proxies {
    https: Option<Proxy>,
    http: Option<Proxy>,
    never: Vec<String>,
}

impl Proxies {
    pub(super) fn from_environment() -> Result<Self, RegistryError> {
        Self::from(|name| std::env::var(name).ok())
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Result<Self, RegistryError> {
        let set = |name: &str| {
            let small = name.to_ascii_lowercase();
            let value = variable(name).or_else(|| variable(&small));
            value.filter(|value| !value.is_empty())
        };
        let proxy = |names: [&str; 2]| {
            let Some((name, value)) = names.iter().find_map(|name| Some((name, set(name)?))) else {
                return Ok(None);
            };
            let made = Proxy::new(&value).map_err(|error| RegistryError::Proxy {
                // The value may hold a password.
                variable: (*name).to_owned(),
                why: error.to_string(),
            });
            made.map(Some)
        };
        let never = set("NO_PROXY").unwrap_or_default();
        let never = never.split(',').map(|entry| entry.trim().to_ascii_lowercase());
        Ok(Self {
            https: proxy(["HTTPS_PROXY", "ALL_PROXY"])?,
            http: proxy(["HTTP_PROXY", "ALL_PROXY"])?,
            never: never.filter(|entry| !entry.is_empty()).collect(),
        })
    }

    /// The one to ask for `host`, if any.
    pub(super) fn of(&self, encrypted: bool, host: &str) -> Option<&Proxy> {
        let proxy = if encrypted { &self.https } else { &self.http };
        let host = host.to_ascii_lowercase();
        let direct = super::address::is_loopback(&host)
            || self.never.iter().any(|entry| {
                let entry = entry.strip_prefix('*').unwrap_or(entry);
                let suffix = entry.strip_prefix('.').unwrap_or(entry);
                let inside = host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'));
                entry.is_empty() || host == suffix || inside || is_in(&host, entry)
            });
        proxy.as_ref().filter(|_| !direct)
    }
}

/// Whether `host` is an address in `network`, which may be one like `10.0.0.0/8` or `fd00::/8` (RFC 4632, RFC 4291).
fn is_in(host: &str, network: &str) -> bool {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => (32, u128::from(address.to_bits())),
        IpAddr::V6(address) => (128, address.to_bits()),
    };
    let address = |text: &str| text.trim_matches(['[', ']']).parse().ok().map(number);
    let Some((base, length)) = network.split_once('/') else { return false };
    let (Some(host), Some(base)) = (address(host), address(base)) else { return false };
    let same = |length: u32| (host.1 ^ base.1).checked_shr(base.0 - length).unwrap_or(0) == 0;
    host.0 == base.0 && length.parse().is_ok_and(|length| length <= base.0 && same(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        let find = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Proxies::from(find).unwrap()
    }

    #[test]
    fn the_proxy_is_the_one_of_the_scheme_and_this_machine_is_reached_directly() {
        let proxies = proxies(&[
            ("https_proxy", "http://secure:1"),
            ("ALL_PROXY", "http://any:2"),
            ("NO_PROXY", "inside.example, .corp,10.0.0.1,10.1.0.0/16,fd00::/8,192.0.2.0/33"),
        ]);
        let host =
            |encrypted, host| proxies.of(encrypted, host).map(|proxy| proxy.host().to_owned());
        assert_eq!(host(true, "registry.example").as_deref(), Some("secure"));
        assert_eq!(host(false, "registry.example").as_deref(), Some("any"));
        for direct in [
            "inside.example",
            "a.inside.example",
            "x.corp",
            "10.0.0.1",
            "10.1.255.7",
            "[fdab::1]",
            "localhost",
            "127.0.0.2",
            "[::1]",
        ] {
            assert_eq!(host(true, direct), None, "{direct}");
        }
        for asked in ["notinside.example", "10.2.0.1", "[fe80::1]", "192.0.2.1", "::10.1.0.1"] {
            assert!(host(true, asked).is_some(), "{asked}");
        }
        assert!(is_in("203.0.113.9", "0.0.0.0/0") && !is_in("203.0.113.9", "::/0"));
    }

    #[test]
    fn a_proxy_that_is_none_is_named_by_its_variable_without_its_password() {
        let find = |name: &str| (name == "HTTPS_PROXY").then(|| "http://me:secret@".to_owned());
        let refused = Proxies::from(find).unwrap_err().to_string();
        assert!(refused.starts_with("proxy in HTTPS_PROXY: "), "{refused}");
        assert!(!refused.contains("secret"), "{refused}");
    }
}
