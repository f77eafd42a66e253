//! A store to pull into, and what people are told when that does not work.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use image::{
    Access, Credentials, Digest, Image, News, Patience, Platform, PullError, Store, Watcher,
};

/// A store of its own, and an access without anybody's passwords and with little patience.
pub(crate) struct Place {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) access: Access,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let window = Duration::from_millis(600);
        let patience = Patience { idle: Duration::from_secs(2), window, window_bytes: 10_000 };
        let access = Access {
            tls_verify: true,
            mirrors: Vec::new(),
            at_once: 4,
            credentials: Credentials::in_files([]),
            patience,
        };
        Self { directory, store, access }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    pub(crate) fn pull(&self, image: &str) -> Result<Image, PullError> {
        self.pull_heard(image, &())
    }

    pub(crate) fn pull_heard(&self, image: &str, by: &dyn Watcher) -> Result<Image, PullError> {
        self.store.pull(&image.parse().unwrap(), &Platform::here(), &self.access, by)
    }

    /// The one line about a pull that does not work. No image comes of it, and nothing that is not whole
    /// looks as if it were.
    pub(crate) fn refusal(&self, image: &str) -> String {
        let said = chain(&self.pull(image).expect_err("it was pulled"));
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(self.store.images().unwrap(), []);
        assert_eq!(fs::read_dir(self.root().join("tmp")).unwrap().count(), 0);
        for blob in fs::read_dir(self.root().join("blobs/sha256")).unwrap() {
            let blob = blob.unwrap();
            let digest = Digest::of(&fs::read(blob.path()).unwrap());
            assert_eq!(blob.file_name().to_str(), Some(&*digest.hex()));
        }
        said
    }

    /// The names of what is in a directory of the store.
    pub(crate) fn names_in(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root().join(directory)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

pub(crate) fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// Writes down what it hears.
#[derive(Default)]
pub(crate) struct Ear(Mutex<Vec<String>>);

impl Ear {
    pub(crate) fn heard(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Watcher for Ear {
    fn hear(&self, news: News<'_>) {
        let said = match news {
            News::PassedOver { mirror, why } => format!("not {mirror}: {}", chain(why)),
            News::Layers(layers) => format!("{} layers", layers.len()),
            News::Arrived { .. } => return,
            News::Whole { already, .. } => format!("whole, already {already}"),
            News::Unpacking => "unpacking".to_owned(),
        };
        self.0.lock().unwrap().push(said);
    }
}
