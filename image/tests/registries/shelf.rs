//! Images to be pulled, and a registry on loopback that gives them out, well or badly.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use image::Digest;
use serde_json::{Value, json};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const HERE: &str = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };

/// An image: its documents and its layers.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) kind: &'static str,
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Vec<u8>>,
}

/// A layer with one file of `bytes` bytes that no packing makes shorter.
pub(crate) fn layer(name: &str, bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ name.len() as u64;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    let content: Vec<u8> = noise.take(bytes).collect();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, &content[..]).unwrap();
    tar.into_inner().unwrap()
}

impl Made {
    /// Of these layers, unpacked, for `architecture`.
    pub(crate) fn of(layers: Vec<Vec<u8>>, architecture: &str) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let config = json!({
            "os": "linux", "architecture": architecture, "config": { "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = config.to_string().into_bytes();
        let manifest = manifest(&config, &layers).to_string().into_bytes();
        Self { kind: MANIFEST, manifest, config, layers }
    }

    /// One small layer, for this machine.
    pub(crate) fn small() -> Self {
        Self::of(vec![layer("file", 1000)], HERE)
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Vec<u8>> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

pub(crate) fn manifest(config: &[u8], layers: &[Vec<u8>]) -> Value {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", layer))
        .collect();
    json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": layers,
    })
}

pub(crate) fn descriptor(kind: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": Digest::of(blob).to_string(), "size": blob.len() })
}

/// A request, as far as it matters.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte that is asked for.
    pub(crate) fn from(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes="));
        range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap())
    }
}

/// What is answered.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// How the body goes out.
    pub(crate) way: Way,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Whole,
    /// The connection ends after so many bytes.
    Cut(usize),
    /// A byte, and a while until the next one.
    Drip,
    /// Not even a status.
    Silence,
    /// The connection ends at once.
    HangUp,
}

impl Answer {
    pub(crate) fn of(status: u16, body: &[u8]) -> Self {
        Self { status, headers: Vec::new(), body: body.to_vec(), way: Way::Whole }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    pub(crate) fn by(mut self, way: Way) -> Self {
        self.way = way;
        self
    }

    pub(crate) fn redirect(to: &str) -> Self {
        Self::of(307, b"").with("Location", to)
    }
}

/// What an honest registry answers: `images` by tag, in every repository.
pub(crate) fn honest(images: &[(&str, &Made)], request: &Request) -> Answer {
    let missing = || Answer::of(404, br#"{"errors":[{"code":"NOT","message":"not known here"}]}"#);
    let path = request.path.split('?').next().unwrap_or_default();
    if path == "/v2/" {
        return Answer::of(200, b"{}");
    }
    if let Some((_, name)) = path.rsplit_once("/manifests/") {
        let named = images
            .iter()
            .find(|(tag, made)| *tag == name || made.digest().to_string() == name)
            .map(|(_, made)| Answer::of(200, &made.manifest).with("Content-Type", made.kind));
        return named.unwrap_or_else(missing);
    }
    let blobs = images.iter().flat_map(|(_, made)| made.blobs());
    let wanted = path.rsplit_once("/blobs/").map(|(_, digest)| digest.to_owned());
    let blob = blobs.into_iter().find(|blob| Some(Digest::of(blob).to_string()) == wanted);
    let Some(blob) = blob else { return missing() };
    match request.from() {
        0 => Answer::of(200, blob),
        from if from >= blob.len() => Answer::of(416, b""),
        from => Answer::of(206, &blob[from..])
            .with("Content-Range", format!("bytes {from}-{}/{}", blob.len() - 1, blob.len())),
    }
}

/// A server on loopback, as long as it lives.
pub(crate) struct Server {
    pub(crate) port: u16,
    asked: Arc<Mutex<Vec<Request>>>,
    over: Arc<Mutex<Option<Sender<()>>>>,
    thread: Option<JoinHandle<()>>,
}

type Answering = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

impl Server {
    pub(crate) fn new(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        // Whoever keeps a client waiting waits for this to be dropped.
        let (sender, receiver) = mpsc::channel();
        let (over, receiver) = (Arc::new(Mutex::new(Some(sender))), Arc::new(Mutex::new(receiver)));
        let answer: Answering = Arc::new(answer);
        let (log, ends) = (Arc::clone(&asked), Arc::clone(&over));
        let thread = thread::spawn(move || {
            let mut clients = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                if ends.lock().unwrap().is_none() {
                    break;
                }
                let (answer, log, over) = (answer.clone(), log.clone(), receiver.clone());
                clients.push(thread::spawn(move || {
                    // A client that went away is one of the cases.
                    let _ = serve(stream, &answer, &log, &over);
                }));
            }
            clients.into_iter().for_each(|client| client.join().unwrap());
        });
        Self { port, asked, over, thread: Some(thread) }
    }

    /// One that gives out `made` as `demo:1`.
    pub(crate) fn honest(made: &Made) -> Self {
        let made = made.clone();
        Self::new(move |request| honest(&[("1", &made)], request))
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn image(&self) -> String {
        format!("{}/demo:1", self.host())
    }

    /// Everything that was asked for so far.
    pub(crate) fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }

    /// Requests for blobs other than the configuration of `made`.
    pub(crate) fn asked_for_layers(&self, made: &Made) -> Vec<Request> {
        let config = Digest::of(&made.config).to_string();
        let blobs = self.asked().into_iter().filter(|request| request.path.contains("/blobs/"));
        blobs.filter(|request| !request.path.ends_with(&config)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.over.lock().unwrap().take());
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    mut stream: TcpStream,
    answer: &Answering,
    log: &Mutex<Vec<Request>>,
    over: &Mutex<mpsc::Receiver<()>>,
) -> std::io::Result<()> {
    let Some(request) = read(&stream)? else { return Ok(()) };
    log.lock().unwrap().push(request.clone());
    let answer = answer(&request);
    let wait =
        |time| over.lock().unwrap().recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout);
    match answer.way {
        Way::HangUp => return stream.shutdown(Shutdown::Both),
        Way::Silence => {
            while wait(Duration::from_secs(1)) {}
            return Ok(());
        }
        Way::Whole | Way::Cut(_) | Way::Drip => {}
    }
    let mut head = format!("HTTP/1.1 {} Answer\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", answer.body.len()));
    stream.write_all(head.as_bytes())?;
    match answer.way {
        Way::Cut(bytes) => stream.write_all(&answer.body[..bytes.min(answer.body.len())])?,
        Way::Drip => {
            for byte in &answer.body {
                stream.write_all(&[*byte])?;
                if !wait(Duration::from_millis(20)) {
                    break;
                }
            }
        }
        Way::Whole | Way::Silence | Way::HangUp => stream.write_all(&answer.body)?,
    }
    stream.shutdown(Shutdown::Write)
}

fn read(stream: &TcpStream) -> std::io::Result<Option<Request>> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let Some(path) = line.split(' ').nth(1).map(str::to_owned) else { return Ok(None) };
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    std::io::Read::read_exact(&mut reader, &mut body)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some(Request { path, headers, body }))
}
