//! What an image says about running it.

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;

use crate::Platform;

/// An image's defaults, for whoever runs it to honour or replace. Strings are the image's own and
/// unchecked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The program and its first arguments; may be empty.
    pub entrypoint: Vec<String>,
    /// The arguments behind `entrypoint`, or the whole command if that is empty.
    pub command: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`, by the image's own files.
    pub user: Option<String>,
    /// The directory to start in.
    pub working_dir: Option<String>,
    /// The signal that asks it to end, `SIGTERM` or a number.
    pub stop_signal: Option<String>,
    /// Places for data that outlives what is written elsewhere.
    pub volumes: Vec<String>,
    /// Words about the image.
    pub labels: BTreeMap<String, String>,
}

/// One step in the making of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// When, in the words (RFC 3339) of the image.
    pub created: Option<String>,
    /// What made it.
    pub created_by: String,
    /// Words about it.
    pub comment: String,
    /// It left no layer.
    pub empty: bool,
}

fn past(history: &oci_spec::image::History) -> Past {
    Past {
        created: history.created().clone(),
        created_by: history.created_by().clone().unwrap_or_default(),
        comment: history.comment().clone().unwrap_or_default(),
        empty: history.empty_layer().unwrap_or(false),
    }
}

/// The longest configuration, index or manifest that is read.
pub(crate) const MAX_JSON_BYTES: u64 = 4 << 20;

/// Everything we want out of an image's configuration file.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) created: Option<String>,
    pub(crate) config: Config,
    /// The digests of the unpacked layers, lowest first, as they are written there.
    pub(crate) diff_ids: Vec<String>,
    pub(crate) platform: Platform,
    pub(crate) history: Vec<Past>,
}

impl Description {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        let whole: ImageConfiguration = serde_json::from_slice(json)?;
        let defaults = oci_spec::image::Config::default();
        let says = whole.config().as_ref().unwrap_or(&defaults);
        // An empty word means what none does.
        let word = |word: &Option<String>| word.clone().filter(|word| !word.is_empty());
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let config = Config {
            entrypoint: list(says.entrypoint()),
            command: list(says.cmd()),
            env: list(says.env()),
            user: word(says.user()),
            working_dir: word(says.working_dir()),
            stop_signal: word(says.stop_signal()),
            volumes: list(says.volumes()),
            labels: says.labels().clone().unwrap_or_default().into_iter().collect(),
        };
        Ok(Self {
            created: word(whole.created()),
            config,
            diff_ids: whole.rootfs().diff_ids().clone(),
            platform: Platform::of(whole.os(), whole.architecture(), whole.variant().as_deref()),
            history: whole.history().iter().flatten().map(past).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_writes_as_null_or_empty_is_absent() {
        let description = Description::parse(
            br#"{"architecture":"amd64","os":"linux","created":"2024-01-02T03:04:05Z",
                 "rootfs":{"type":"layers","diff_ids":[]},
                 "config":{"User":"","Env":["A=b"],"Cmd":["sh"],"Entrypoint":null,"Labels":null,
                           "Volumes":{"/v":{}},"ExposedPorts":null,"OnBuild":null,"Tty":false}}"#,
        )
        .unwrap();
        let wanted = Config {
            command: vec!["sh".to_owned()],
            env: vec!["A=b".to_owned()],
            volumes: vec!["/v".to_owned()],
            ..Config::default()
        };
        assert_eq!(description.config, wanted);
        assert_eq!(description.created.as_deref(), Some("2024-01-02T03:04:05Z"));
    }
}
