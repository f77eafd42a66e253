use clap::Args;
use image::{Image, Store};
use serde_json::{Value, json};

use crate::exit::Failure;
use crate::settings::Settings;

#[derive(Args, Debug)]
pub(super) struct Inspect {
    /// Names or ids.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Inspect {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let store = Store::open(&settings.store)?;
        let mut shown = Vec::new();
        for image in &self.images {
            shown.push(describe(&store, &store.find(image)?)?);
        }
        println!("{:#}", Value::from(shown));
        Ok(0)
    }
}

/// In docker's words where it has some.
fn describe(store: &Store, image: &Image) -> Result<Value, Failure> {
    let layers = store.layers(image)?;
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| {
            let (digest, diff_id) = (layer.digest.to_string(), layer.diff_id.to_string());
            json!({ "Digest": digest, "Size": layer.bytes, "DiffId": diff_id })
        })
        .collect();
    let platform = image.platform.to_string();
    let mut parts = platform.split('/');
    let config = &image.config;
    Ok(json!({
        "Id": image.id.to_string(),
        "RepoTags": image.names,
        "Digest": store.manifest_digest(image)?.map(|digest| digest.to_string()),
        "Created": image.created,
        "Os": parts.next(),
        "Architecture": parts.next(),
        "Variant": parts.next(),
        "Disk": { "Path": image.disk, "Size": image.disk_bytes },
        "Layers": layers,
        "RootFS": {
            "Type": "layers",
            "Layers": image.diff_ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
        "Config": {
            "Entrypoint": config.entrypoint,
            "Cmd": config.command,
            "Env": config.env,
            "User": config.user,
            "WorkingDir": config.working_dir,
            "StopSignal": config.stop_signal,
            "Volumes": config.volumes,
            "Labels": config.labels,
        },
    }))
}
