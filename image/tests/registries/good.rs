//! What works, and goes on working when others are at it or the network is bad.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use image::{Credentials, Digest, Platform, Store};
use serde_json::json;

use crate::place::{Ear, Place, chain};
use crate::shelf::{
    Answer, DOCKER_MANIFEST, HERE, INDEX, MANIFEST, Made, Server, Way, descriptor, honest, layer,
};
use crate::{Test, child};

pub(crate) const TESTS: &[Test] = &[
    ("a_pulled_image_is_named_and_its_layers_are_not_asked_for_again", named_and_kept),
    ("dockers_media_types_are_as_good_as_ocis", docker_media_types),
    ("an_index_gives_the_image_of_the_platform_that_was_asked_for", platforms),
    ("a_digest_is_pulled_and_found_by_the_digest", by_digest),
    ("images_that_share_a_layer_share_the_work", shared_layer),
    ("a_layer_that_was_damaged_in_the_store_is_named_and_brought_again", damaged),
    ("a_broken_layer_goes_on_where_it_broke_off", goes_on),
    ("a_registry_that_gives_no_parts_gives_the_whole", no_parts),
    ("two_who_pull_the_same_share_the_work", two_at_once),
    ("a_pull_that_was_killed_goes_on_where_it_was", killed),
    ("who_we_are_is_told_to_the_registry_and_to_nobody_else", token),
    ("a_password_comes_from_a_credential_helper", helper),
    ("an_identity_token_buys_a_token", identity),
    ("a_mirror_is_asked_first_and_the_registry_when_it_has_not_got_it", mirrors),
];

fn named_and_kept() {
    let (place, made) = (Place::new(), Made::of(vec![layer("a", 3000), layer("b", 10)], HERE));
    let server = Server::honest(&made);
    let image = place.pull(&server.image()).unwrap();
    assert_eq!(image.id, Digest::of(&made.config));
    assert_eq!(image.names, [server.image()]);
    assert_eq!(place.store.find(&server.image()).unwrap(), image);
    assert_eq!(place.names_in("partial"), [""; 0]);
    let kept = place.store.layers(&image).unwrap();
    let digests: Vec<_> = kept.iter().map(|layer| layer.digest).collect();
    assert_eq!(digests, made.layers.iter().map(|layer| Digest::of(layer)).collect::<Vec<_>>());
    assert_eq!(server.asked_for_layers(&made).len(), 2);
    assert_eq!(place.pull(&server.image()).unwrap(), image);
    assert_eq!(server.asked_for_layers(&made).len(), 2);
}

fn docker_media_types() {
    let (place, mut made) = (Place::new(), Made::small());
    let mut manifest: serde_json::Value = serde_json::from_slice(&made.manifest).unwrap();
    manifest["mediaType"] = DOCKER_MANIFEST.into();
    manifest["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json".into();
    manifest["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip".into();
    (made.kind, made.manifest) = (DOCKER_MANIFEST, manifest.to_string().into_bytes());
    let server = Server::honest(&made);
    place.pull(&server.image()).unwrap();
}

fn platforms() {
    let place = Place::new();
    let ours = Made::small();
    let theirs = Made::of(vec![layer("theirs", 10)], "s390x");
    let list = |made: &Made, architecture: &str| {
        let mut entry = descriptor(MANIFEST, &made.manifest);
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        entry
    };
    // What builders put beside images about how they were made.
    let mut proof = list(&ours, "unknown");
    proof["platform"]["os"] = "unknown".into();
    let manifests = [proof, list(&theirs, "s390x"), list(&ours, HERE)];
    let index = json!({ "schemaVersion": 2, "manifests": manifests }).to_string().into_bytes();
    let server = {
        let (ours, theirs) = (ours.clone(), theirs.clone());
        let index = Made { kind: INDEX, manifest: index, config: Vec::new(), layers: Vec::new() };
        Server::new(move |request| {
            honest(&[("1", &index), ("ours", &ours), ("theirs", &theirs)], request)
        })
    };
    assert_eq!(place.pull(&server.image()).unwrap().id, Digest::of(&ours.config));
    let pull = |platform: &str| {
        let platform: Platform = platform.parse().unwrap();
        let reference = server.image().parse().unwrap();
        place.store.pull(&reference, &platform, &place.access, &())
    };
    let image = pull("linux/s390x").unwrap();
    assert_eq!(image.id, Digest::of(&theirs.config));
    assert_eq!(image.platform.to_string(), "linux/s390x");
    let refused = pull("linux/arm/v7").unwrap_err().to_string();
    let there =
        format!("is there for unknown/unknown, linux/s390x, linux/{HERE}, not for linux/arm/v7");
    assert!(refused.ends_with(&there), "{refused}");
}

fn by_digest() {
    let (place, made) = (Place::new(), Made::small());
    let server = Server::honest(&made);
    let name = format!("{}/demo@{}", server.host(), made.digest());
    let image = place.pull(&name).unwrap();
    assert_eq!(place.store.find(&name).unwrap().id, image.id);
}

fn shared_layer() {
    let place = Place::new();
    let base = layer("base", 5000);
    let one = Made::of(vec![base.clone(), layer("one", 10), base.clone()], HERE);
    let two = Made::of(vec![base, layer("twofold", 10)], HERE);
    let (first, second) = (Server::honest(&one), Server::honest(&two));
    let ear = Ear::default();
    place.pull_heard(&first.image(), &ear).unwrap();
    place.pull_heard(&second.image(), &ear).unwrap();
    assert_eq!(second.asked_for_layers(&two).len(), 1);
    let mut heard = ear.heard();
    heard[4..].sort();
    let new = "whole, already false";
    let wanted =
        ["2 layers", new, new, "unpacking", "2 layers", "unpacking", new, "whole, already true"];
    assert_eq!(heard, wanted);
    // What is shared goes with the last one that has it.
    place.store.remove(&first.image()).unwrap();
    assert_eq!(place.names_in("blobs/sha256").len(), 2);
    place.store.remove(&second.image()).unwrap();
    assert_eq!(place.names_in("blobs/sha256"), [""; 0]);
}

fn damaged() {
    let place = Place::new();
    let base = layer("base", 5000);
    let one = Made::of(vec![base.clone()], HERE);
    let two = Made::of(vec![base.clone(), layer("two", 10)], HERE);
    let (first, second) = (Server::honest(&one), Server::honest(&two));
    place.pull(&first.image()).unwrap();
    let mut bytes = base.clone();
    bytes[700] ^= 1;
    let digest = Digest::of(&base);
    fs::write(place.root().join("blobs/sha256").join(digest.hex()), &bytes).unwrap();
    let said = chain(&place.pull(&second.image()).unwrap_err());
    let found = Digest::of(&bytes);
    let wanted = format!("layer {digest}: its content has the digest {found}");
    assert!(said.ends_with(&wanted), "{said}");
    place.pull(&second.image()).unwrap();
    assert_eq!(fs::read(place.root().join("blobs/sha256").join(digest.hex())).unwrap(), base);
}

fn goes_on() {
    let (place, made) = (Place::new(), Made::of(vec![layer("large", 5 << 20)], HERE));
    let server = {
        let made = made.clone();
        Server::new(move |request| {
            let answer = honest(&[("1", &made)], request);
            match request.path.contains("/blobs/") && answer.body.len() > 1 << 20 {
                true => answer.by(Way::Cut((1 << 20) + 17)),
                false => answer,
            }
        })
    };
    place.pull(&server.image()).unwrap();
    let from: Vec<_> =
        server.asked_for_layers(&made).iter().map(|request| request.from()).collect();
    assert_eq!(from.len(), 6, "{from:?}");
    assert!(from.windows(2).all(|two| two[0] < two[1] && two[1] <= two[0] + (1 << 20) + 17));
}

fn no_parts() {
    let (place, made) = (Place::new(), Made::of(vec![layer("large", 3 << 20)], HERE));
    let asked = AtomicUsize::new(0);
    let server = {
        let made = made.clone();
        Server::new(move |request| {
            let mut whole = request.clone();
            whole.headers.remove("range");
            let answer = honest(&[("1", &made)], &whole);
            match answer.body.len() > 1 << 20 && asked.fetch_add(1, Ordering::Relaxed) == 0 {
                true => answer.by(Way::Cut(2 << 20)),
                false => answer,
            }
        })
    };
    place.pull(&server.image()).unwrap();
    assert_eq!(server.asked_for_layers(&made).len(), 2);
}

fn two_at_once() {
    let (place, made) =
        (Place::new(), Made::of(vec![layer("a", 2 << 20), layer("bb", 2 << 20)], HERE));
    let server = Server::honest(&made);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let store = Store::open(&place.root()).unwrap();
                let (reference, here) = (server.image().parse().unwrap(), Platform::here());
                store.pull(&reference, &here, &place.access, &()).unwrap();
            });
        }
    });
    assert_eq!(server.asked_for_layers(&made).len(), 2);
    assert_eq!(place.store.images().unwrap().len(), 1);
    assert_eq!(place.names_in("tmp"), [""; 0]);
    assert_eq!(place.names_in("partial"), [""; 0]);
}

fn killed() {
    let (place, made) = (Place::new(), Made::of(vec![layer("large", 4 << 20)], HERE));
    let (half, came) = std::sync::mpsc::channel();
    let half = std::sync::Mutex::new(half);
    let first = AtomicUsize::new(0);
    let server = {
        let made = made.clone();
        Server::new(move |request| {
            let answer = honest(&[("1", &made)], request);
            // Half of it, broken off, and for the rest silence: the child waits, and is killed.
            let number =
                if answer.body.len() > 1 << 20 { first.fetch_add(1, Ordering::Relaxed) } else { 9 };
            match number {
                0 => answer.by(Way::Cut(2 << 20)),
                1 => {
                    half.lock().unwrap().send(()).unwrap();
                    answer.by(Way::Silence)
                }
                _ => answer,
            }
        })
    };
    let mut child = child(&place.root(), &server.image()).spawn().unwrap();
    came.recv().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let store = Store::open(&place.root()).unwrap();
    assert_eq!(store.images().unwrap(), []);
    assert_eq!(place.names_in("blobs/sha256"), [""; 0]);
    assert_eq!(place.names_in("partial").len(), 1);
    place.pull(&server.image()).unwrap();
    let last = server.asked_for_layers(&made).pop().unwrap();
    assert_eq!(last.from(), 2 << 20);
    assert_eq!(place.names_in("partial"), [""; 0]);
}

/// A file of passwords with one of them for `server`.
fn password(place: &mut Place, server: &Server, entry: serde_json::Value) {
    let file = place.directory.path().join("auth.json");
    let contents = json!({ "auths": { server.host(): entry } });
    fs::write(&file, contents.to_string()).unwrap();
    place.access.credentials = Credentials::in_files([file]);
}

fn token() {
    let (mut place, made) = (Place::new(), Made::small());
    // Where large blobs really are, at many registries.
    let depot = Arc::new(Server::honest(&made));
    let server = {
        let (depot, made) = (depot.clone(), made.clone());
        Server::new(move |request| {
            let port = request.header("host").unwrap();
            match request.path.split('?').next() {
                Some("/v2/") => Answer::of(401, b""),
                Some("/token") if request.header("authorization") == Some("Basic bWU6d29yZA==") => {
                    assert!(request.path.contains("scope=repository%3Ademo%3Apull&service=s"));
                    Answer::of(200, br#"{"token":"t0ken"}"#)
                }
                Some("/token") => Answer::of(401, br#"{"details":"who are you"}"#),
                _ if request.header("authorization") != Some("Bearer t0ken") => {
                    let challenge = format!(
                        "Bearer realm=\"http://{port}/token\",service=\"s\",scope=\"repository:demo:pull\""
                    );
                    Answer::of(401, b"").with("WWW-Authenticate", challenge)
                }
                Some(path) if path.contains("/blobs/") => {
                    Answer::redirect(&format!("http://{}{path}?signed=yes", depot.host()))
                }
                _ => honest(&[("1", &made)], request),
            }
        })
    };
    let refused = place.refusal(&server.image());
    assert!(refused.contains("/token: 401, it wants to know who asks"), "{refused}");
    assert!(refused.ends_with(": who are you"), "{refused}");
    password(&mut place, &server, json!({ "auth": "bWU6d29yZA==" }));
    place.pull(&server.image()).unwrap();
    assert_eq!(depot.asked().len(), 2);
    assert!(depot.asked().iter().all(|request| request.header("authorization").is_none()));
}

fn helper() {
    let (place, made) = (Place::new(), Made::small());
    let server = {
        let made = made.clone();
        Server::new(move |request| match request.header("authorization") {
            Some("Basic bWU6d29yZA==") => honest(&[("1", &made)], request),
            _ => Answer::of(401, b"").with("WWW-Authenticate", "Basic realm=\"here\""),
        })
    };
    let (home, programs) =
        (place.directory.path().join("home"), place.directory.path().join("bin"));
    fs::create_dir_all(&programs).unwrap();
    fs::create_dir_all(&home).unwrap();
    let program = programs.join("docker-credential-test");
    let script = format!(
        "#!/bin/sh\nread -r server\n[ \"$1 $server\" = 'get {}' ] || exit 1\n\
         echo '{{\"Username\":\"me\",\"Secret\":\"word\"}}'\n",
        server.host()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let helpers = json!({ "credHelpers": { server.host(): "test" } });
    fs::write(home.join("config.json"), helpers.to_string()).unwrap();
    let pull = || {
        let mut child = child(&place.root(), &server.image());
        child
            .env("DOCKER_CONFIG", &home)
            .env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
        child.output().unwrap()
    };
    let output = pull();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::remove_file(&program).unwrap();
    let said = String::from_utf8(pull().stderr).unwrap();
    assert!(said.starts_with("credential helper docker-credential-test: No such file"), "{said}");
}

fn identity() {
    let (mut place, made) = (Place::new(), Made::small());
    let server = {
        let made = made.clone();
        Server::new(move |request| match request.path.as_str() {
            "/token" => {
                let wanted = "scope=repository%3Ademo%3Apull&service=s&grant_type=refresh_token\
                              &client_id=microvm&refresh_token=long%2Flived";
                assert_eq!(request.body, wanted);
                Answer::of(200, br#"{"access_token":"short"}"#)
            }
            _ if request.header("authorization") == Some("Bearer short") => {
                honest(&[("1", &made)], request)
            }
            _ => Answer::of(401, b"")
                .with("WWW-Authenticate", "Bearer realm=\"/token\",service=\"s\""),
        })
    };
    password(&mut place, &server, json!({ "identitytoken": "long/lived" }));
    place.pull(&server.image()).unwrap();
}

fn mirrors() {
    let (mut place, made) = (Place::new(), Made::small());
    let registry = Server::honest(&made);
    let empty = Server::new(|_| Answer::of(404, b""));
    let mirror = {
        let made = made.clone();
        Server::new(move |request| match request.path.contains("/blobs/") {
            // It has the manifest and has lost the rest.
            true => Answer::of(404, b""),
            false => honest(&[("1", &made)], request),
        })
    };
    let name = |server: &Server| format!("{}={}/cache/of", registry.host(), server.host());
    place.access.mirrors = vec![name(&empty), name(&mirror), "elsewhere.example".to_owned()];
    let ear = Ear::default();
    let image = place.pull_heard(&registry.image(), &ear).unwrap();
    assert_eq!(image.names, [registry.image()]);
    assert!(empty.asked().iter().any(|one| one.path == "/v2/cache/of/demo/manifests/1"));
    assert!(registry.asked().iter().all(|one| !one.path.contains("manifests")));
    assert!(
        ear.heard()[0].starts_with(&format!("not {}: http://", empty.host())),
        "{:?}",
        ear.heard()
    );
    place.access.mirrors = vec!["docker.io=../x".to_owned()];
    let refused = place.pull(&registry.image()).unwrap_err().to_string();
    assert_eq!(refused, "mirror \"docker.io=../x\" is not [REGISTRY=]HOST[:PORT][/PATH]");
}
