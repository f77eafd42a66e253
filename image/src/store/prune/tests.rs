use std::fs;
use std::time::{Duration, SystemTime};

use super::*;
use crate::Limits;
use crate::store::blobs::Claim;
use crate::store::tests::{Place, demo, layer};
use crate::testing::{Recipe, Tar, line};

/// Images called `one` and `two` and one that has lost its name.
fn three(place: &Place) -> [Image; 3] {
    let named = |name, content: &[u8]| {
        let recipe = Recipe::of([layer(), Tar::default().file("etc/x", content).end()]);
        place.load(&Recipe { name: Some(name), ..recipe }.oci().tar()).unwrap().remove(0)
    };
    let nameless = named("two:1", b"old");
    [named("one:1", b"1"), named("two:1", b"2"), nameless]
}

fn ids(place: &Place) -> BTreeSet<Digest> {
    place.store.images().unwrap().iter().map(|image| image.id).collect()
}

#[test]
fn what_has_lost_its_name_goes_with_its_layers_and_nothing_else_does() {
    let place = Place::new();
    let [one, two, nameless] = three(&place);
    let pruned = place.store.prune(Unneeded::Nameless, &BTreeSet::new()).unwrap();
    assert_eq!(pruned.removed, [Removed { names: vec![], image: Some(nameless.id) }]);
    assert!(pruned.freed_bytes > 4096, "{}", pruned.freed_bytes);
    assert_eq!(ids(&place), BTreeSet::from([one.id, two.id]));
    // Two of their own, and the one they share.
    assert_eq!(fs::read_dir(place.store.blobs()).unwrap().count(), 3);
    assert_eq!(place.store.prune(Unneeded::Nameless, &BTreeSet::new()).unwrap(), Pruned::default());
}

#[test]
fn what_a_container_uses_stays_whoever_has_its_name() {
    let place = Place::new();
    let [one, two, nameless] = three(&place);
    let in_use = BTreeSet::from([nameless.id, one.id]);
    let pruned = place.store.prune(Unneeded::Unused, &in_use).unwrap();
    let gone = Removed { names: vec!["two:1".to_owned()], image: Some(two.id) };
    assert_eq!(pruned.removed, [gone]);
    assert_eq!(ids(&place), in_use);
    assert!(place.store.find("two:1").is_err());
    assert_eq!(place.store.find("one:1").unwrap().id, one.id);
}

#[test]
fn a_layer_that_is_on_its_way_is_left_alone() {
    let place = Place::new();
    let [coming, left] = [Digest::of(b"coming"), Digest::of(b"left")];
    let bringing = place.store.bring().unwrap();
    let Claim::Ours(partial) = place.store.claim(coming).unwrap() else { panic!("it is there") };
    fs::write(place.store.partials().join(left.hex()), b"half").unwrap();
    fs::write(place.store.blob(Digest::of(b"whole")), b"whole").unwrap();
    let prune = || place.store.prune(Unneeded::Nameless, &BTreeSet::new()).unwrap();
    assert!(prune().freed_bytes > 0);
    let there = |directory| fs::read_dir(directory).unwrap().count();
    assert_eq!((there(place.store.partials()), there(place.store.blobs())), (1, 1));
    drop((partial, bringing));
    prune();
    assert_eq!((there(place.store.partials()), there(place.store.blobs())), (0, 0));
}

#[test]
fn the_beginning_of_a_layer_waits_a_day_for_somebody_to_go_on() {
    let place = Place::new();
    let path = place.store.partials().join(Digest::of(b"x").hex());
    fs::write(&path, b"half").unwrap();
    let age = |hours: u64| {
        let then = SystemTime::now() - Duration::from_secs(hours * 3600);
        fs::File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
        Store::open(&place.root()).unwrap();
        path.exists()
    };
    assert!(age(23));
    assert!(!age(25));
}

#[test]
fn a_name_that_is_given_is_taken_from_who_had_it() {
    let place = Place::new();
    let [one, two, _] = three(&place);
    let tagged = place.store.tag("one:1", "two:1").unwrap();
    assert_eq!((tagged.id, tagged.names.len()), (one.id, 2));
    assert_eq!(place.store.find("two:1").unwrap().id, one.id);
    assert_eq!(place.store.find(&two.id.hex()).unwrap().names, Vec::<String>::new());
    let refused = |name| line(&place.store.tag("one:1", name).unwrap_err());
    assert!(refused("De mo").starts_with("image reference \"De mo\": "));
    assert!(refused(&format!("a@{}", one.id)).ends_with("has a tag and no digest"));
    assert!(place.store.tag("none", "x").is_err());
}

#[test]
fn a_load_that_is_refused_leaves_no_layer_behind() {
    let mut place = Place::new();
    let limits = Limits { unpacked_bytes: 1000, ..Limits::default() };
    place.store = place.store.with_limits(limits);
    place.load(&demo().oci().tar()).unwrap_err();
    assert_eq!(fs::read_dir(place.store.blobs()).unwrap().count(), 0);
}
