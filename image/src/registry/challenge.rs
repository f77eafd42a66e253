//! How a registry says what proof it wants: the `WWW-Authenticate` header (RFC 9110, section 11.6.1,
//! and the distribution project's token specification).

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password with every request.
    Basic,
    /// A token, to be had at `realm`.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// The one among all `headers` that we prefer; `None` if none is of a kind we know.
    pub(super) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for header in headers {
            match Self::parse(header) {
                Some(bearer @ Self::Bearer { .. }) => return Some(bearer),
                Some(Self::Basic) => basic = Some(Self::Basic),
                None => {}
            }
        }
        basic
    }

    fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        for (key, value) in parameters(rest)? {
            match key.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                "scope" => scope = Some(value),
                _ => {}
            }
        }
        Some(Self::Bearer { realm: realm?, service, scope })
    }
}

/// `key=value` or `key="value"`, with commas between.
fn parameters(mut rest: &str) -> Option<Vec<(&str, String)>> {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(found);
        }
        let (key, behind) = rest.split_once('=')?;
        let behind = behind.trim_start();
        let value = match behind.strip_prefix('"') {
            Some(quoted) => {
                let (value, behind) = quoted_value(quoted)?;
                rest = behind;
                value
            }
            None => {
                let end = behind.find(',').unwrap_or(behind.len());
                rest = &behind[end..];
                behind[..end].trim().to_owned()
            }
        };
        found.push((key.trim(), value));
    }
}

/// Up to the closing quote, and what stands behind it.
fn quoted_value(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn choose(headers: &[&str]) -> Option<Challenge> {
        Challenge::choose(headers.iter().copied())
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let bearer = r#"Bearer realm="https://a.example/token",service="r",scope="repository:a/b:pull,push""#;
        let wanted = Challenge::Bearer {
            realm: "https://a.example/token".to_owned(),
            service: Some("r".to_owned()),
            scope: Some("repository:a/b:pull,push".to_owned()),
        };
        assert_eq!(choose(&["Basic realm=\"x\"", bearer]), Some(wanted));
        assert_eq!(choose(&["Negotiate", "basic realm=x"]), Some(Challenge::Basic));
    }

    #[test]
    fn quotes_and_missing_parts_are_read_as_they_stand() {
        let odd = choose(&[r#"bearer  error="a \"b\", c" , realm=http://h/t"#]);
        let wanted =
            Challenge::Bearer { realm: "http://h/t".to_owned(), service: None, scope: None };
        assert_eq!(odd, Some(wanted));
        for bad in ["Bearer", "Bearer service=\"x\"", "Bearer realm=\"x", "Digest realm=\"x\"", ""]
        {
            assert_eq!(choose(&[bad]), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(header in "(Bearer |Basic )?\\PC{0,60}") {
            let _ = choose(&[&header]);
        }
    }
}
