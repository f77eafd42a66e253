//! Images come, are given away, and go.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use serde_json::Value;
use tests::{House, Outcome};

crate::stories![
    what_was_saved_runs_elsewhere,
    run_pulls_what_is_missing_and_pulls_it_once,
    prune_leaves_what_a_container_uses,
    names_and_sizes_are_told,
    a_registry_that_is_not_there,
];

/// `microvm ARGS…` with a store of the story's own.
fn call(house: &House, store: &Path, args: &[&str]) -> Outcome {
    Outcome::of(&mut house.command_with_store(store, args))
}

/// A directory that goes with the story, and the demo image in it as an archive of `format`.
fn saved(house: &House, format: &str) -> tempfile::TempDir {
    let place = tempfile::Builder::new().prefix("story-images-").tempdir().unwrap();
    let archive = place.path().join("demo.tar");
    let archive = archive.to_str().unwrap();
    house.call(["save", "--format", format, "-o", archive, "demo"]).expect_code(0);
    place
}

fn what_was_saved_runs_elsewhere() {
    let house = House::new();
    for format in ["docker-archive", "oci-archive"] {
        let place = saved(&house, format);
        let (archive, store) = (place.path().join("demo.tar"), place.path().join("store"));
        let loaded = call(&house, &store, &["load", archive.to_str().unwrap()]).expect_code(0);
        assert_eq!(loaded.text(), "demo:latest\n");
        let ran = call(&house, &store, &["run", "--rm", "--pull", "never", "demo", "echo", "hi"]);
        assert_eq!(ran.expect_code(0).text(), "hi\n");
    }
    house.expect_nothing_left();
}

/// A registry on loopback that has one image, as long as the story runs: its address.
fn registry(archive: &Path) -> String {
    let archive = fs::read(archive).unwrap();
    let member = move |wanted: &str| {
        let mut at = 0;
        while at + 512 <= archive.len() && archive[at] != 0 {
            let header = &archive[at..at + 512];
            let text = |field: &[u8]| String::from_utf8_lossy(field).trim_matches('\0').to_owned();
            let bytes = usize::from_str_radix(text(&header[124..135]).trim(), 8).unwrap();
            let data = at + 512;
            if text(&header[..100]) == wanted {
                return Some(archive[data..data + bytes].to_vec());
            }
            at = data + bytes.next_multiple_of(512);
        }
        None
    };
    let index: Value = serde_json::from_slice(&member("index.json").unwrap()).unwrap();
    let manifest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let kind = index["manifests"][0]["mediaType"].as_str().unwrap().to_owned();
    let answer = move |path: &str| match path.rsplit_once('/')? {
        ("/v2", "") => Some(("application/json".to_owned(), b"{}".to_vec())),
        (place, name) => {
            let manifests = place.ends_with("/manifests");
            let digest = if manifests { manifest.as_str() } else { name };
            let blob = member(&format!("blobs/sha256/{}", digest.strip_prefix("sha256:")?))?;
            Some((if manifests { kind.clone() } else { "application/octet-stream".into() }, blob))
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || serve(stream, &*answer));
        }
    });
    host
}

/// Media type and body of what is at a path.
type Answer = Option<(String, Vec<u8>)>;

fn serve(mut stream: TcpStream, answer: &dyn Fn(&str) -> Answer) {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let path = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let (status, kind, body) = match answer(path) {
        Some((kind, body)) => ("200 OK", kind, body),
        None => ("404 Not Found", String::new(), Vec::new()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    );
    // A client that goes away is served all the same.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

fn run_pulls_what_is_missing_and_pulls_it_once() {
    let house = House::new();
    let place = saved(&house, "oci-archive");
    let (host, store) = (registry(&place.path().join("demo.tar")), place.path().join("store"));
    let image = format!("{host}/demo:1");
    let run = |when: &str| {
        call(&house, &store, &["run", "--rm", "--pull", when, &image, "echo", "pulled"])
    };
    run("never").expect_refusal(&image);
    let first = run("missing").expect_code(0);
    assert_eq!(first.text(), "pulled\n");
    assert!(first.stderr.contains(&format!("pulling {image}")), "{}", first.stderr);
    let second = run("missing").expect_code(0);
    assert_eq!((second.text().as_str(), second.stderr.as_str()), ("pulled\n", ""));
    let again = call(&house, &store, &["pull", "--quiet", &image]).expect_code(0);
    assert!(again.text().starts_with("sha256:") && again.stderr.is_empty(), "{}", again.stderr);
    house.expect_nothing_left();
}

fn prune_leaves_what_a_container_uses() {
    let house = House::new();
    let place = saved(&house, "docker-archive");
    let (archive, store) = (place.path().join("demo.tar"), place.path().join("store"));
    call(&house, &store, &["load", archive.to_str().unwrap()]).expect_code(0);
    call(&house, &store, &["run", "--name", "box", "demo", "true"]).expect_code(0);
    let prune = || call(&house, &store, &["prune", "--all"]).expect_code(0).text();
    assert_eq!(prune(), "");
    call(&house, &store, &["inspect", "demo"]).expect_code(0);
    house.call(["rm", "box"]).expect_code(0);
    assert!(prune().starts_with("demo:latest\nsha256:"));
    assert_eq!(call(&house, &store, &["images", "-q"]).expect_code(0).text(), "");
    for directory in ["blobs/sha256", "images/sha256", "tmp", "partial"] {
        assert_eq!(fs::read_dir(store.join(directory)).unwrap().count(), 0, "{directory}");
    }
    house.expect_nothing_left();
}

fn names_and_sizes_are_told() {
    let house = House::new();
    let place = saved(&house, "docker-archive");
    let (archive, store) = (place.path().join("demo.tar"), place.path().join("store"));
    call(&house, &store, &["load", archive.to_str().unwrap()]).expect_code(0);
    call(&house, &store, &["tag", "demo", "localhost/other:2", "third"]).expect_code(0);
    let inspected = call(&house, &store, &["inspect", "third"]).expect_code(0).text();
    let json: Value = serde_json::from_str(&inspected).unwrap();
    let names: Vec<_> = json[0]["RepoTags"].as_array().unwrap().iter().collect();
    assert_eq!(names, ["demo:latest", "third:latest", "localhost/other:2"]);
    let layer = json[0]["Layers"][0]["Size"].as_u64().unwrap();
    assert!(layer > 100_000, "{layer}");
    let images = call(&house, &store, &["images"]).expect_code(0).text();
    assert_eq!(images.lines().count(), 4, "{images}");
    assert!(images.contains(&format!("{:.1} MB", layer as f64 / 1e6)), "{images}");
    let history = call(&house, &store, &["history", "demo"]).expect_code(0).text();
    assert!(history.starts_with("CREATED ") && history.lines().count() > 1, "{history}");
    call(&house, &store, &["rmi", "demo", "third"]).expect_code(0);
    call(&house, &store, &["inspect", "demo"]).expect_refusal("demo:latest");
    call(&house, &store, &["inspect", "localhost/other:2"]).expect_code(0);
}

fn a_registry_that_is_not_there() {
    let house = House::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let image = format!("{closed}/demo");
    house.call(["pull", "--quiet", &image]).expect_refusal(&closed.to_string());
    house.call(["run", "--rm", "--quiet", &image, "true"]).expect_refusal("Connection refused");
    house.expect_nothing_left();
}
