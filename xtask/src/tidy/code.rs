//! Rust as far as the rules need it: what is code, what is a comment, what is a test.

/// `text` with comments and the insides of string and character literals blanked out, line for line
/// and byte for byte where it was.
pub(super) fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' | b'b' | b'c' if !out.last().is_some_and(is_word) => prefixed_end(bytes, at),
            b'\'' => char_end(bytes, at),
            _ => at,
        };
        if end == at {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(bytes[at..end].iter().map(|&b| if b == b'\n' { b } else { b' ' }));
            at = end;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `code` up to its tests, which stand last in a file.
pub(super) fn before_tests(code: &str) -> &str {
    let is_start = |at: &usize| {
        code[*at..].lines().nth(1).is_some_and(|line| line.trim_start().starts_with("mod "))
    };
    let start = code.match_indices("#[cfg(test)]").map(|(at, _)| at).find(is_start);
    &code[..start.unwrap_or(code.len())]
}

/// Every identifier and keyword in `code`, with the number of its line.
pub(super) fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    super::numbered(code).flat_map(|(number, line)| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|word| !word.is_empty())
            .map(move |word| (number, word))
    })
}

fn is_word(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || *byte == b'_'
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|&b| b == b'\n').map_or(bytes.len(), |length| at + length)
}

/// Block comments nest.
fn comment_end(bytes: &[u8], at: usize) -> usize {
    let (mut depth, mut end) = (0, at);
    while end < bytes.len() {
        if bytes[end..].starts_with(b"/*") {
            (depth, end) = (depth + 1, end + 2);
        } else if bytes[end..].starts_with(b"*/") {
            (depth, end) = (depth - 1, end + 2);
            if depth == 0 {
                return end;
            }
        } else {
            end += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while end < bytes.len() {
        match bytes[end] {
            b'\\' => end += 2,
            b'"' => return end + 1,
            _ => end += 1,
        }
    }
    bytes.len()
}

/// `r"…"`, `br#"…"#`, `b"…"`, `c"…"`, `b'…'`; `at` itself if it is none of them.
fn prefixed_end(bytes: &[u8], at: usize) -> usize {
    let prefix = bytes[at..].iter().take(2).take_while(|b| b"rbc".contains(b)).count();
    let hashes = bytes[at + prefix..].iter().take_while(|&&b| b == b'#').count();
    let open = at + prefix + hashes;
    let raw = bytes[at..at + prefix].contains(&b'r');
    match bytes.get(open) {
        Some(b'"') if raw => {
            let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
            let inside = &bytes[open + 1..];
            inside
                .windows(close.len())
                .position(|window| window == close)
                .map_or(bytes.len(), |length| open + 1 + length + close.len())
        }
        Some(b'"') if hashes == 0 => string_end(bytes, open),
        Some(b'\'') if hashes == 0 && bytes[at] == b'b' => char_end(bytes, open),
        _ => at,
    }
}

/// A character literal's end; `at` itself if this is a lifetime.
fn char_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at + 1..];
    let length = match rest.first() {
        Some(b'\\') => rest.iter().skip(2).position(|&b| b == b'\'').map(|length| length + 2),
        // The longest character is four bytes.
        Some(_) => rest
            .iter()
            .take(5)
            .position(|&b| b == b'\'')
            .filter(|&length| length == 1 || (length > 1 && !rest[0].is_ascii())),
        None => None,
    };
    length.map_or(at, |length| at + 1 + length + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_not_code() {
        let blank = |text: &str| code(text).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(blank("a /* b /* c */ d */ e // f\ng"), "a e g");
        assert_eq!(blank(r#"say("todo!(\"x\")", y)"#), "say( , y)");
        assert_eq!(blank(r##"r#"a " b"# + br"\" + c"z" + b"q" + b'"' + x"##), "+ + + + + x");
        assert_eq!(blank(r"match c { '\'' | '\u{7f}' | 'x' | 'é' => f::<'a>(y) }"), {
            "match c { | | | => f::<'a>(y) }"
        });
        assert_eq!(blank("for bar in rbc { car(\"x\") }"), "for bar in rbc { car( ) }");
    }

    #[test]
    fn lines_keep_their_numbers() {
        let text = "a\n/* b\nc */ d\n\"e\nf\" g\n";
        assert_eq!(words(&code(text)).collect::<Vec<_>>(), [(1, "a"), (3, "d"), (5, "g")]);
    }

    #[test]
    fn tests_are_cut_off() {
        let text = "a\n#[cfg(test)]\nfn only_in_tests() {}\n#[cfg(test)]\nmod tests {\n b }";
        assert!(before_tests(text).ends_with("only_in_tests() {}\n"));
        assert_eq!(before_tests("a"), "a");
    }
}
