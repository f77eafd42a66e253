//! The line a client of the listener begins with: `CONNECT <port>\n`.

/// The longest line there is: the word, a space, ten digits, the end.
pub(super) const MAX_BYTES: usize = 19;

/// What a client has said so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// Not the whole line yet.
    Unfinished,
    /// It wants this port, and said so in so many bytes.
    Connect { port: u32, bytes: usize },
    /// Something else.
    Nonsense,
}

/// Reads the beginning of what a client said.
pub(super) fn read(said: &[u8]) -> Greeting {
    let Some(end) = said.iter().take(MAX_BYTES).position(|&byte| byte == b'\n') else {
        let hopeful = said.len() < MAX_BYTES;
        return if hopeful { Greeting::Unfinished } else { Greeting::Nonsense };
    };
    let port = std::str::from_utf8(&said[..end]).ok().and_then(|line| {
        let digits = line.strip_prefix("CONNECT ")?;
        // `parse` would take a sign.
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    });
    port.map_or(Greeting::Nonsense, |port| Greeting::Connect { port, bytes: end + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_understood_only_by_the_whole_line() {
        for (said, want) in [
            ("", Greeting::Unfinished),
            ("CONNECT 4294967295", Greeting::Unfinished),
            ("CONNECT 4294967295\n", Greeting::Connect { port: u32::MAX, bytes: 19 }),
            ("CONNECT 52\nhello", Greeting::Connect { port: 52, bytes: 11 }),
            ("CONNECT 4294967296\n", Greeting::Nonsense),
            ("CONNECT +5\n", Greeting::Nonsense),
            ("CONNECT \n", Greeting::Nonsense),
            ("connect 5\n", Greeting::Nonsense),
            ("CONNECT 00000000000005\n", Greeting::Nonsense),
            ("GET / HTTP/1.1\r\n", Greeting::Nonsense),
        ] {
            assert_eq!(read(said.as_bytes()), want, "{said:?}");
        }
    }
}
