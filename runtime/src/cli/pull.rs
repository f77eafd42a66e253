use std::path::PathBuf;

use clap::{ArgAction, Args};
use image::{Access, Credentials, FindError, Image, Platform, PullError, Reference, Store};

use super::progress::Progress;
use crate::exit::Failure;
use crate::settings::Settings;

#[derive(Args, Debug)]
pub(super) struct Pull {
    #[command(flatten)]
    registries: Registries,
    /// Show no progress, only ids.
    #[arg(short, long)]
    quiet: bool,
    /// Names: `demo`, `ghcr.io/me/demo:1`, `localhost:5000/demo@sha256:…`.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

// How registries are asked.
#[derive(Args, Clone, Debug)]
pub(super) struct Registries {
    /// The image for this platform. [default: this machine's]
    #[arg(long, value_name = "OS/ARCHITECTURE[/VARIANT]")]
    platform: Option<Platform>,
    /// Without, certificates are not checked, and registries need not encrypt.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set,
          num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    tls_verify: bool,
    /// The same as --tls-verify=false.
    #[arg(long)]
    insecure: bool,
    /// Ask this one first for images of REGISTRY (docker.io if left out); several are asked in their order.
    #[arg(long = "mirror", value_name = "[REGISTRY=]HOST[:PORT][/PATH]")]
    mirrors: Vec<String>,
    /// Look for passwords in this file only. [default: where podman and docker keep them]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// So many layers at the same time.
    #[arg(long, value_name = "NUMBER", default_value_t = 4)]
    layers: u8,
}

/// When an image is pulled that is to run.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum When {
    /// Whenever it runs.
    Always,
    /// If it is not there, or is for another platform.
    #[default]
    Missing,
    /// What is not there does not run.
    Never,
}

impl Pull {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let store = Store::open(&settings.store)?;
        for image in &self.images {
            let pulled = self.registries.pull(&store, image, self.quiet)?;
            println!("{}", pulled.id);
        }
        Ok(0)
    }
}

impl Registries {
    /// Sees that `image` is in the store, for the platform that is wanted.
    pub(super) fn provide(
        &self,
        store: &Store,
        image: &str,
        when: When,
        quiet: bool,
    ) -> Result<(), Failure> {
        let found = match when {
            When::Always => false,
            When::Never => true,
            When::Missing => match store.find(image) {
                Ok(found) => self.platform().takes(&found.platform),
                Err(FindError::Unknown { .. }) => false,
                Err(error) => return Err(error.into()),
            },
        };
        if !found {
            self.pull(store, image, quiet)?;
        }
        Ok(())
    }

    fn pull(&self, store: &Store, image: &str, quiet: bool) -> Result<Image, Failure> {
        let reference: Reference = image.parse()?;
        let progress = Progress::new(&reference, quiet);
        let pulled: Result<Image, PullError> =
            store.pull(&reference, &self.platform(), &self.access(), &progress);
        progress.end();
        Ok(pulled?)
    }

    fn platform(&self) -> Platform {
        self.platform.clone().unwrap_or_else(Platform::here)
    }

    fn access(&self) -> Access {
        let usual = Access::default();
        let credentials = match &self.authfile {
            Some(file) => Credentials::in_files([file.clone()]),
            None => usual.credentials,
        };
        Access {
            tls_verify: self.tls_verify && !self.insecure,
            mirrors: self.mirrors.clone(),
            at_once: usize::from(self.layers),
            credentials,
            patience: usual.patience,
        }
    }
}
