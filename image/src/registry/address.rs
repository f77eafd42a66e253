//! Addresses in the web: just enough to follow a redirect and to know what is on this machine.

use std::net::IpAddr;

use ureq::http::Uri;

/// Whether `host` (without a port) is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let address = bare.parse::<IpAddr>();
    bare.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// The host of `registry`, which is a host and a port if any.
pub(super) fn host(registry: &str) -> &str {
    match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => registry,
    }
}

/// Where a redirect from `from` to `location` leads; `None` if that is no address of a web server.
pub(super) fn join(from: &Uri, location: &str) -> Option<Uri> {
    if location.is_empty() {
        return None;
    }
    let origin = format!("{}://{}", from.scheme_str()?, from.authority()?);
    let whole = if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{}:{location}", from.scheme_str()?)
    } else if location.starts_with('/') {
        format!("{origin}{location}")
    } else {
        let directory = from.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{origin}{directory}/{location}")
    };
    let uri: Uri = whole.split('#').next()?.parse().ok()?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    // A name and password in an address would be sent to wherever the registry likes.
    let bare = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    (known && bare && uri.host().is_some_and(|host| !host.is_empty())).then_some(uri)
}

/// Whether what is meant for one may be shown to the other.
pub(super) fn same_origin(one: &Uri, other: &Uri) -> bool {
    (one.scheme_str(), one.authority()) == (other.scheme_str(), other.authority())
}

/// `word` as a value in a query (RFC 3986, section 2.1).
pub(super) fn escaped(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escape = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    word.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_by_all_its_names_and_no_other_is_taken_for_it() {
        for (registry, is) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.1.2.3:80", true),
            ("[::1]:5000", true),
            ("localhost.example:5000", false),
            ("127.0.0.1.example", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(host(registry)), is, "{registry}");
        }
    }

    #[test]
    fn redirects_lead_where_a_browser_would_go_and_nowhere_else() {
        let from: Uri = "https://a.example:1/v2/x/blobs/1?q=2".parse().unwrap();
        for (location, to) in [
            ("https://b.example/y?z#w", Some("https://b.example/y?z")),
            ("//b.example/y", Some("https://b.example/y")),
            ("/y", Some("https://a.example:1/y")),
            ("y?s=1", Some("https://a.example:1/v2/x/blobs/y?s=1")),
            ("file:///etc/passwd", None),
            ("https://me:secret@b.example/", None),
            ("http://", None),
            ("", None),
        ] {
            let joined = join(&from, location).map(|uri| uri.to_string());
            assert_eq!(joined.as_deref(), to, "{location}");
        }
        assert_eq!(escaped("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
    }
}
