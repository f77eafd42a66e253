//! The distribution project's own registry, as Debian packages it, and images that `skopeo` pushed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use image::{ArchiveKind, Credentials, Digest};

use crate::place::Place;
use crate::shelf::{HERE, Made, layer};
use crate::{Test, child};

pub(crate) const TESTS: &[Test] = &[
    ("what_skopeo_pushed_is_pulled_whole", pushed_and_pulled),
    ("a_registry_with_passwords_gives_to_who_has_one", with_password),
    ("what_was_pulled_and_saved_is_read_by_skopeo", saved),
    ("a_certificate_is_checked_against_this_machines_authorities", encrypted),
    ("a_registry_elsewhere_is_asked_through_the_proxy", through_a_proxy),
];

/// A registry of Debian's on loopback, as long as it lives.
struct Registry {
    process: Child,
    host: String,
}

impl Registry {
    /// In `directory`, with `more` in its configuration.
    fn new(directory: &Path, more: &str) -> Self {
        let config = directory.join("config.yml");
        let contents = format!(
            "version: 0.1\nlog: {{ level: info, formatter: text }}\n\
             storage: {{ filesystem: {{ rootdirectory: {} }} }}\n\
             http:\n  addr: 127.0.0.1:0\n{more}",
            directory.join("data").display()
        );
        fs::write(&config, contents).unwrap();
        let mut process = Command::new("docker-registry")
            .args(["serve"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        let mut lines = log.lines();
        let mut said = String::new();
        let host = loop {
            let line = lines.next().unwrap_or_else(|| panic!("it ended: {said}")).unwrap();
            if let Some((_, rest)) = line.split_once("listening on ") {
                let address = rest.split(['"', ',']).next().unwrap();
                break address.to_owned();
            }
            said.push_str(&line);
        };
        // Nobody else reads what it says, and it must not stop for that.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { process, host }
    }

    /// Pushes `made` with skopeo.
    fn push(&self, made: &Made, directory: &Path, words: &[&str]) -> String {
        let layout = directory.join("layout");
        fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        for blob in made.blobs().chain([&made.manifest]) {
            fs::write(layout.join("blobs/sha256").join(Digest::of(blob).hex()), blob).unwrap();
        }
        let entry = crate::shelf::descriptor(made.kind, &made.manifest);
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [entry] });
        fs::write(layout.join("index.json"), index.to_string()).unwrap();
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let image = format!("{}/demo:1", self.host);
        let pushed = Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
            .args(words)
            .arg(format!("oci:{}", layout.display()))
            .arg(format!("docker://{image}"))
            .output()
            .unwrap();
        assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
        image
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn made() -> Made {
    Made::of(vec![layer("large", 3 << 20), layer("b", 100)], HERE)
}

fn pushed_and_pulled() {
    let (place, made) = (Place::new(), made());
    let registry = Registry::new(place.directory.path(), "");
    let image = registry.push(&made, place.directory.path(), &[]);
    let pulled = place.pull(&image).unwrap();
    assert_eq!(pulled.id, Digest::of(&made.config));
    // The same disk as by way of an archive.
    let other = Place::new();
    let layout = place.directory.path().join("layout");
    let loaded = other.store.load(&layout, Some("demo")).unwrap().remove(0);
    assert_eq!(fs::read(&pulled.disk).unwrap(), fs::read(&loaded.disk).unwrap());
    let said = Place::new().refusal(&format!("{}/other:1", registry.host));
    assert!(said.contains("/v2/other/manifests/1: 404: manifest unknown"), "{said}");
}

fn with_password() {
    let (mut place, made) = (Place::new(), made());
    let passwords = place.directory.path().join("passwords");
    // The word is "word".
    let line = "me:$2b$04$H0mnfjx.lSOG2UWn54GWBOoemK4aXUZiboid4AIC8UvWQ4KWfs5pW\n";
    fs::write(&passwords, line).unwrap();
    let more = format!("auth: {{ htpasswd: {{ realm: x, path: {} }} }}\n", passwords.display());
    let registry = Registry::new(place.directory.path(), &more);
    let image = registry.push(&made, place.directory.path(), &["--dest-creds", "me:word"]);
    let said = place.refusal(&image);
    assert!(said.contains("it wants a name and a password"), "{said}");
    let file = place.directory.path().join("auth.json");
    for (auth, good) in [("bWU6d3Jvbmc=", false), ("bWU6d29yZA==", true)] {
        let contents = serde_json::json!({ "auths": { &registry.host: { "auth": auth } } });
        fs::write(&file, contents.to_string()).unwrap();
        place.access.credentials = Credentials::in_files([file.clone()]);
        match good {
            true => drop(place.pull(&image).unwrap()),
            false => assert!(place.refusal(&image).contains("manifests/1: 401, ")),
        }
    }
}

fn saved() {
    let (place, made) = (Place::new(), made());
    let registry = Registry::new(place.directory.path(), "");
    let image = registry.push(&made, place.directory.path(), &[]);
    let pulled = place.pull(&image).unwrap();
    let archive = place.directory.path().join("archive.tar");
    let layers = |kind, word: &str| {
        let mut out = File::create(&archive).unwrap();
        place.store.save(std::slice::from_ref(&image), kind, &mut out).unwrap();
        let copy = place.directory.path().join(word);
        let copied = Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy"])
            .arg(format!("{word}:{}:{image}", archive.display()))
            .arg(format!("dir:{}", copy.display()))
            .output()
            .unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let manifest = fs::read(copy.join("manifest.json")).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        assert_eq!(json["config"]["digest"], Digest::of(&made.config).to_string());
        let layers = json["layers"].as_array().unwrap().clone();
        let digests = layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned());
        (digests.collect::<Vec<_>>(), Digest::of(&manifest))
    };
    // What skopeo packed on its way to the registry.
    let kept = place.store.layers(&pulled).unwrap();
    let packed: Vec<_> = kept.iter().map(|layer| layer.digest.to_string()).collect();
    let manifest = place.store.manifest_digest(&pulled).unwrap();
    assert_eq!(layers(ArchiveKind::Oci, "oci-archive"), (packed.clone(), manifest.unwrap()));
    let plain: Vec<_> = made.layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    assert_ne!(packed, plain);
    assert_eq!(layers(ArchiveKind::Docker, "docker-archive").0, plain);
}

/// A registry that encrypts, as `localhost` and as `registry.example`; its certificate is `cert.pem`.
fn encrypting(directory: &Path) -> Registry {
    let path = |name: &str| directory.join(name);
    let openssl = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=localhost", "-addext"])
        .arg("subjectAltName=DNS:localhost,DNS:registry.example,IP:127.0.0.1")
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(path("key.pem"))
        .arg("-out")
        .arg(path("cert.pem"))
        .output()
        .unwrap();
    assert!(openssl.status.success(), "{}", String::from_utf8_lossy(&openssl.stderr));
    let more = format!(
        "  tls: {{ certificate: {}, key: {} }}\n",
        path("cert.pem").display(),
        path("key.pem").display()
    );
    Registry::new(directory, &more)
}

fn encrypted() {
    let (mut place, made) = (Place::new(), made());
    let directory = place.directory.path().to_owned();
    let path = |name: &str| directory.join(name);
    let registry = encrypting(&directory);
    let image = registry.push(&made, &directory, &[]);
    let pull = |authorities: &Path| {
        let output =
            child(&place.root(), &image).env("SSL_CERT_FILE", authorities).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    File::create(path("empty.pem")).unwrap();
    let (good, said) = pull(&path("empty.pem"));
    assert!(!good && said.starts_with("no certificates of authorities"), "{said}");
    let (good, said) = pull(&path("cert.pem"));
    assert!(good, "{said}");
    assert_eq!(place.store.images().unwrap().len(), 1);

    // Unknown to this machine's authorities, it is good enough only for who says so.
    place.access.tls_verify = false;
    place.pull(&image).unwrap();
}

/// The registry's name means nothing here, and only the proxy knows the way; its own password comes from the
/// variable that names it.
fn through_a_proxy() {
    let (place, made) = (Place::new(), made());
    let directory = place.directory.path();
    let registry = encrypting(directory);
    registry.push(&made, directory, &[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let behind = registry.host.clone();
    std::thread::spawn(move || listener.incoming().for_each(|one| relay(one.unwrap(), &behind)));
    let pull = |proxy: &str| {
        let mut pull = child(&place.root(), "registry.example/demo:1");
        pull.env("SSL_CERT_FILE", directory.join("cert.pem"));
        let output = pull.env("HTTPS_PROXY", proxy).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (good, said) = pull(&format!("http://me:wrong@{address}"));
    assert!(!good && said.starts_with("https://registry.example/"), "{said}");
    let (good, said) = pull(&format!("http://me:word@{address}"));
    assert!(good, "{said}");
    assert_eq!(place.store.images().unwrap()[0].id, Digest::of(&made.config));
}

/// A proxy's part of one connection to `registry.example` (RFC 9110, 9.3.6): it asks for `me:word`, and carries
/// bytes to `behind`.
fn relay(client: TcpStream, behind: &str) {
    let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
    let asked = lines.next().and_then(Result::ok).unwrap_or_default();
    let head: Vec<String> =
        lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let has_password = head.iter().any(|line| {
        line.to_ascii_lowercase().starts_with("proxy-authorization: ")
            && line.ends_with("bWU6d29yZA==")
    });
    let mut answer = &client;
    if asked != "CONNECT registry.example:443 HTTP/1.1" || !has_password {
        let _ = answer.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
        return;
    }
    let server = TcpStream::connect(behind).unwrap();
    answer.write_all(b"HTTP/1.1 200 Connection Established\r\n\r\n").unwrap();
    let ends = (client.try_clone().unwrap(), server.try_clone().unwrap());
    for (mut from, mut to) in [ends, (server, client)] {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}
