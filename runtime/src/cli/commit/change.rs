//! Lines of a Dockerfile that say how an image wants to be run.

use std::collections::BTreeMap;

use image::Config;
use serde_json::{Value, json};

/// A line that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("--change {line:?}: {why}")]
pub(super) struct BadChange {
    line: String,
    why: &'static str,
}

/// The fields of an image's configuration that `lines` change, by their names.
pub(super) fn fields(before: &Config, lines: &[String]) -> Result<Vec<(String, Value)>, BadChange> {
    let mut env = before.env.clone();
    let mut labels = before.labels.clone();
    let mut volumes = before.volumes.clone();
    let mut ports = Vec::new();
    let mut fields = BTreeMap::new();
    for line in lines {
        let wrong = |why| BadChange { line: line.clone(), why };
        let (word, rest) = line.trim().split_once([' ', '\t']).unwrap_or((line.trim(), ""));
        let rest = rest.trim();
        if rest.is_empty() {
            return Err(wrong("nothing stands behind its first word"));
        }
        let mut set = |field: &str, value: Value| drop(fields.insert(field.to_owned(), value));
        match word.to_ascii_uppercase().as_str() {
            "CMD" => set("Cmd", json!(command(rest))),
            "ENTRYPOINT" => set("Entrypoint", json!(command(rest))),
            "USER" => set("User", json!(rest)),
            "WORKDIR" => set("WorkingDir", json!(rest)),
            "STOPSIGNAL" => set("StopSignal", json!(rest)),
            "ENV" => {
                let (name, value) = pair(rest).ok_or_else(|| wrong("it is not NAME=VALUE"))?;
                let prefix = format!("{name}=");
                env.retain(|variable| !variable.starts_with(&prefix));
                env.push(prefix + value);
                set("Env", json!(env));
            }
            "LABEL" => {
                let (name, value) = pair(rest).ok_or_else(|| wrong("it is not NAME=VALUE"))?;
                labels.insert(name.to_owned(), value.to_owned());
                set("Labels", json!(labels));
            }
            "VOLUME" => {
                volumes.extend(listed(rest).unwrap_or_else(|| words(rest)));
                set("Volumes", keys(&volumes));
            }
            "EXPOSE" => {
                let protocol = |port: String| if port.contains('/') { port } else { port + "/tcp" };
                ports.extend(words(rest).into_iter().map(protocol));
                set("ExposedPorts", keys(&ports));
            }
            _ => {
                return Err(wrong(
                    "its first word is none of CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR",
                ));
            }
        }
    }
    Ok(fields.into_iter().collect())
}

/// A JSON list as it is, anything else for a shell.
fn command(rest: &str) -> Vec<String> {
    listed(rest).unwrap_or_else(|| ["/bin/sh", "-c", rest].map(str::to_owned).to_vec())
}

fn listed(rest: &str) -> Option<Vec<String>> {
    serde_json::from_str(rest).ok()
}

fn words(rest: &str) -> Vec<String> {
    rest.split_whitespace().map(str::to_owned).collect()
}

/// `NAME=VALUE`, the value perhaps in quotes, or as it once was, `NAME VALUE`.
fn pair(rest: &str) -> Option<(&str, &str)> {
    let first = rest.split_whitespace().next()?;
    let separator = if first.contains('=') { '=' } else { ' ' };
    let (name, value) = rest.split_once(separator)?;
    let value = value.trim_start();
    let bare = |quote| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
    let value = bare('"').or_else(|| bare('\'')).unwrap_or(value);
    let is_name = !name.is_empty() && !name.contains(char::is_whitespace);
    is_name.then_some((name, value))
}

/// A list as Go writes down a set.
fn keys(words: &[String]) -> Value {
    let pairs = words.iter().map(|word| (word.clone(), json!({})));
    Value::Object(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(lines: &[&str]) -> Result<Vec<(String, Value)>, BadChange> {
        let before = Config { env: vec!["A=b".into(), "AB=c".into()], ..Config::default() };
        let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        fields(&before, &lines)
    }

    #[test]
    fn lines_say_what_they_say_in_a_dockerfile() {
        for (line, field, value) in [
            ("CMD [\"ls\", \"-l\"]", "Cmd", json!(["ls", "-l"])),
            ("cmd ls -l", "Cmd", json!(["/bin/sh", "-c", "ls -l"])),
            ("ENTRYPOINT [\"/init\"]", "Entrypoint", json!(["/init"])),
            ("ENV A=\"x y\"", "Env", json!(["AB=c", "A=x y"])),
            ("ENV C d", "Env", json!(["A=b", "AB=c", "C=d"])),
            ("LABEL a=b", "Labels", json!({ "a": "b" })),
            ("LABEL a b=c", "Labels", json!({ "a": "b=c" })),
            ("VOLUME [\"/a b\"]", "Volumes", json!({ "/a b": {} })),
            ("EXPOSE 80 53/udp", "ExposedPorts", json!({ "80/tcp": {}, "53/udp": {} })),
            ("USER 1000:100", "User", json!("1000:100")),
            ("WORKDIR /srv", "WorkingDir", json!("/srv")),
            ("STOPSIGNAL SIGINT", "StopSignal", json!("SIGINT")),
        ] {
            assert_eq!(changed(&[line]), Ok(vec![(field.to_owned(), value)]), "{line}");
        }
        let twice = changed(&["ENV C=1", "ENV D=2"]).unwrap();
        assert_eq!(twice, [("Env".to_owned(), json!(["A=b", "AB=c", "C=1", "D=2"]))]);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        for line in ["", "CMD", "RUN make", "ENV A", "ENV =b"] {
            let said = changed(&[line]).unwrap_err().to_string();
            assert!(said.starts_with(&format!("--change {line:?}: ")), "{said}");
        }
    }
}
