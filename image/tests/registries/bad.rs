//! Registries that lie, hang, or are none: one line each that names the thing, and nothing half-written.

use image::Digest;
use serde_json::{Value, json};

use crate::Test;
use crate::place::Place;
use crate::shelf::{
    Answer, HERE, INDEX, Made, Request, Server, Way, descriptor, honest, layer, manifest,
};

pub(crate) const TESTS: &[Test] = &[
    ("a_layer_that_is_not_what_its_digest_says_is_refused_by_it", wrong_layer),
    ("a_layer_longer_or_shorter_than_said_is_refused_by_both_lengths", wrong_length),
    ("a_layer_that_unpacks_to_another_is_refused_and_gone", wrong_diff_id),
    ("a_configuration_or_manifest_that_is_another_is_refused", wrong_documents),
    ("a_registry_that_hangs_up_is_named", hangs_up),
    ("a_registry_that_says_nothing_is_not_waited_for", silence),
    ("a_registry_at_a_byte_now_and_then_is_not_waited_for", drip),
    ("a_web_page_is_no_manifest", web_page),
    ("what_a_registry_refuses_is_said_in_its_words_on_one_line", refusals),
    ("redirects_in_a_circle_end", circle),
    ("a_redirect_to_where_others_listen_is_not_followed", downgrade),
    ("documents_without_end_are_not_read", endless),
    ("nobody_answering_is_named_by_address", nobody),
    ("a_part_that_is_another_is_refused", wrong_part),
    ("a_beginning_that_is_none_is_thrown_away", bad_beginning),
];

/// A registry that answers `to` what it is asked, where that has one.
fn but(made: &Made, to: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Server {
    let made = made.clone();
    Server::new(move |request| to(request).unwrap_or_else(|| honest(&[("1", &made)], request)))
}

/// The same for the blob of the only layer.
fn but_layer(made: &Made, to: impl Fn(Answer) -> Answer + Send + Sync + 'static) -> Server {
    let copy = made.clone();
    let path = format!("/v2/demo/blobs/{}", Digest::of(&made.layers[0]));
    but(made, move |request| (request.path == path).then(|| to(honest(&[("1", &copy)], request))))
}

fn wrong_layer() {
    let (place, made) = (Place::new(), Made::small());
    let server = but_layer(&made, |mut answer| {
        answer.body[700] ^= 1;
        answer
    });
    let said = place.refusal(&server.image());
    let mut other = made.layers[0].clone();
    other[700] ^= 1;
    let (digest, found) = (Digest::of(&made.layers[0]), Digest::of(&other));
    let (host, wanted) = (server.host(), format!("what came has the digest {found}, not {digest}"));
    assert_eq!(said, format!("{host}/demo: blob {digest}: {wanted}"));
    assert_eq!(place.names_in("blobs/sha256"), [""; 0]);
}

fn wrong_length() {
    let (place, made) = (Place::new(), Made::small());
    let length = made.layers[0].len();
    let server = but_layer(&made, |mut answer| {
        answer.body.push(0);
        answer
    });
    let said = place.refusal(&server.image());
    let wanted = format!("it has {} bytes, its descriptor says {length}", length + 1);
    assert!(said.ends_with(&wanted), "{said}");
    let server = but_layer(&made, |mut answer| {
        answer.body.pop();
        answer
    });
    let said = place.refusal(&server.image());
    let wanted = format!("it has {} bytes, its descriptor says {length}", length - 1);
    assert!(said.ends_with(&wanted), "{said}");
}

fn wrong_diff_id() {
    let (place, mut made) = (Place::new(), Made::small());
    made.layers[0] = layer("another", 10);
    made.manifest = manifest(&made.config, &made.layers).to_string().into_bytes();
    let server = Server::honest(&made);
    let said = place.refusal(&server.image());
    let layer = Digest::of(&made.layers[0]);
    let wanted = format!("layer {layer}: it unpacks to {layer}, the image's configuration says");
    assert!(said.contains(&wanted), "{said}");
    assert_eq!(place.names_in("blobs/sha256"), [""; 0]);
    assert_eq!(place.names_in("partial"), [""; 0]);
}

fn wrong_documents() {
    let (place, made) = (Place::new(), Made::small());
    let path = format!("/v2/demo/blobs/{}", Digest::of(&made.config));
    let config = made.config.clone();
    let server = but(&made, move |request| {
        let mut other = config.clone();
        let last = other.len() - 1;
        other[last] = b' ';
        (request.path == path).then(|| Answer::of(200, &other))
    });
    let said = place.refusal(&server.image());
    assert!(said.contains(&format!("not {}", Digest::of(&made.config))), "{said}");

    let said_digest = Digest::of(b"another");
    let copy = made.clone();
    let server = but(&made, move |request| {
        let answer = honest(&[("1", &copy)], request);
        let manifest = request.path.contains("/manifests/");
        manifest.then(|| answer.with("Docker-Content-Digest", said_digest))
    });
    let said = place.refusal(&server.image());
    assert!(said.ends_with(&format!("the digest {}, not {said_digest}", made.digest())), "{said}");

    for (change, wanted) in [
        (json!({ "layers": [] }), "1 diff_ids for the manifest's 0 layers"),
        (json!({ "config": descriptor("x", b"none") }), "404: not known here"),
        (json!({ "layers": 7 }), "its manifest: invalid type: integer `7`"),
    ] {
        let mut made = made.clone();
        let mut manifest: Value = serde_json::from_slice(&made.manifest).unwrap();
        manifest.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        made.manifest = manifest.to_string().into_bytes();
        let server = Server::honest(&made);
        let said = place.refusal(&server.image());
        assert!(said.contains(wanted), "{said}");
    }
    let other = Made::of(vec![layer("x", 1)], "s390x");
    let server = Server::honest(&other);
    let said = place.refusal(&server.image());
    let wanted = format!("the image is for linux/s390x, not for linux/{HERE}");
    assert!(said.ends_with(&wanted), "{said}");

    // An index that leads to itself by way of its tag cannot be; one in one in one can.
    let list = |made: &Made| {
        let entry = descriptor(made.kind, &made.manifest);
        let manifest = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string().into_bytes();
        Made { kind: INDEX, manifest, ..made.clone() }
    };
    let mut nested = vec![made];
    for _ in 0..8 {
        nested.push(list(nested.last().unwrap()));
    }
    let server = Server::new(move |request| {
        let mut named: Vec<(&str, &Made)> = nested.iter().map(|made| ("x", made)).collect();
        named.last_mut().unwrap().0 = "1";
        honest(&named, request)
    });
    let said = place.refusal(&server.image());
    assert!(said.ends_with("that is no manifest, but an index in an index"), "{said}");
}

fn hangs_up() {
    let (place, made) = (Place::new(), Made::small());
    let server = Server::new(|_| Answer::of(200, b"").by(Way::HangUp));
    let said = place.refusal(&server.image());
    assert!(said.starts_with(&format!("http://{}/v2/: ", server.host())), "{said}");
    let server = but_layer(&made, |answer| answer.by(Way::Cut(600)));
    let said = place.refusal(&server.image());
    let length = made.layers[0].len();
    let came = format!("{length} bytes came, the last 3 connections brought next to nothing: ");
    assert!(said.contains(&came), "{said}");
    // It was asked again for the rest, and not for ever.
    assert_eq!(server.asked_for_layers(&made).len(), 3);
}

fn silence() {
    let (place, made) = (Place::new(), Made::small());
    let server = Server::new(|_| Answer::of(200, b"").by(Way::Silence));
    let said = place.refusal(&server.image());
    assert_eq!(said, format!("http://{}/v2/: nothing came for 2 s", server.host()));
    let server = but(&made, |request| {
        request.path.contains("/manifests/").then(|| Answer::of(200, b"").by(Way::Silence))
    });
    let said = place.refusal(&server.image());
    assert!(said.ends_with("/v2/demo/manifests/1: nothing came for 2 s"), "{said}");
}

fn drip() {
    let (place, made) = (Place::new(), Made::of(vec![layer("large", 100_000)], HERE));
    let server = but_layer(&made, |answer| answer.by(Way::Drip));
    let said = place.refusal(&server.image());
    let name = format!("/v2/demo/blobs/{}: only ", Digest::of(&made.layers[0]));
    assert!(said.contains(&name) && said.ends_with(" bytes came in 0.6 s"), "{said}");
    let copy = made.clone();
    let server = but(&made, move |request| {
        let manifest = honest(&[("1", &copy)], request);
        request.path.contains("/manifests/").then(|| manifest.by(Way::Drip))
    });
    let said = place.refusal(&server.image());
    assert!(said.ends_with("/v2/demo/manifests/1: nothing came for 2 s"), "{said}");
}

fn web_page() {
    let (place, made) = (Place::new(), Made::small());
    let server = but(&made, |request| {
        let page =
            Answer::of(200, b"<html>Sign in</html>").with("Content-Type", "text/html; charset=x");
        request.path.contains("/manifests/").then_some(page)
    });
    let said = place.refusal(&server.image());
    let wanted =
        "/v2/demo/manifests/1: it answers with \"text/html\", that is no manifest of an image";
    assert!(said.ends_with(wanted), "{said}");
}

fn refusals() {
    let (place, made) = (Place::new(), Made::small());
    for (answer, wanted) in [
        (
            Answer::of(
                404,
                br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest\nunknown"}]}"#,
            ),
            "/v2/demo/manifests/1: 404: manifest unknown",
        ),
        (Answer::of(500, b"<html>"), "/v2/demo/manifests/1: 500"),
        (
            Answer::of(403, br#"{"errors":[{"code":"DENIED"}]}"#),
            "403, it wants to know who asks, log in with `podman login` or `docker login`: DENIED",
        ),
        (
            Answer::of(401, b"").with("WWW-Authenticate", "Digest realm=\"x\""),
            "its wish for a proof of who we are cannot be read: \"Digest realm=\\\"x\\\"\"",
        ),
        (
            Answer::of(401, b"").with("WWW-Authenticate", "Basic realm=\"x\""),
            "401, it wants a name and a password, log in with `podman login` or `docker login`",
        ),
        (
            Answer::of(401, b"").with("WWW-Authenticate", "Bearer realm=\"http://192.0.2.1/t\""),
            "http://192.0.2.1/t is not encrypted, --tls-verify=false allows that",
        ),
    ] {
        let server =
            but(&made, move |request| request.path.contains("/manifests/").then(|| answer.clone()));
        let said = place.refusal(&server.image());
        assert!(said.ends_with(wanted), "{said}");
    }
}

fn circle() {
    let (place, made) = (Place::new(), Made::small());
    let server = but(&made, |request| match request.path.as_str() {
        "/there" => Some(Answer::redirect("/back")),
        "/v2/" => None,
        _ => Some(Answer::redirect("/there")),
    });
    let said = place.refusal(&server.image());
    assert!(said.ends_with("/v2/demo/manifests/1: redirected more than 5 times"), "{said}");
    assert_eq!(server.asked().len(), 7);
}

fn downgrade() {
    let (place, made) = (Place::new(), Made::small());
    for (to, wanted) in [
        ("http://192.0.2.1/blob?secret=1", "http://192.0.2.1/blob is not encrypted"),
        (
            "file:///etc/passwd",
            "redirected to \"file:///etc/passwd\", which is no address to go to",
        ),
        ("", "redirected to \"\", which is no address"),
    ] {
        let server = but_layer(&made, move |_| match to {
            "" => Answer::of(307, b""),
            to => Answer::redirect(to),
        });
        let said = place.refusal(&server.image());
        assert!(said.contains(wanted), "{said}");
    }
}

fn endless() {
    let (place, made) = (Place::new(), Made::small());
    let server = but(&made, |request| {
        request.path.contains("/manifests/").then(|| Answer::of(200, &vec![b' '; 5 << 20]))
    });
    let said = place.refusal(&server.image());
    assert!(said.ends_with("/v2/demo/manifests/1: over the limit of 4194304 bytes"), "{said}");
    let mut made = made;
    let mut manifest: Value = serde_json::from_slice(&made.manifest).unwrap();
    manifest["layers"][0]["size"] = (1_u64 << 50).into();
    made.manifest = manifest.to_string().into_bytes();
    let server = Server::honest(&made);
    let said = place.refusal(&server.image());
    let wanted = "all layers together has 1125899906842624 bytes, over the limit of 17179869184";
    assert!(said.ends_with(wanted), "{said}");
    assert_eq!(server.asked_for_layers(&made).len(), 0);
}

fn nobody() {
    let place = Place::new();
    let host = Server::new(|_| Answer::of(200, b"")).host();
    let said = place.refusal(&format!("{host}/demo"));
    assert_eq!(said, format!("http://{host}/v2/: Connection refused (os error 111)"));
}

fn wrong_part() {
    let (place, made) = (Place::new(), Made::of(vec![layer("large", 3 << 20)], HERE));
    let server = but_layer(&made, |mut answer| {
        match answer.status {
            206 => answer.headers[0].1 = "bytes 0-5/6".to_owned(),
            _ => answer = answer.by(Way::Cut(2 << 20)),
        }
        answer
    });
    let said = place.refusal(&server.image());
    assert!(said.contains("the answer's part begins at \"bytes 0-5/6\", byte "), "{said}");
}

fn bad_beginning() {
    let (place, made) = (Place::new(), Made::small());
    let server = Server::honest(&made);
    let digest = Digest::of(&made.layers[0]);
    let partial = place.root().join("partial").join(digest.hex());
    std::fs::write(&partial, vec![7; 2000]).unwrap();
    place.pull(&server.image()).unwrap();
    let from: Vec<_> = server.asked_for_layers(&made).iter().map(Request::from).collect();
    assert_eq!(from, [2000, 0]);
}
