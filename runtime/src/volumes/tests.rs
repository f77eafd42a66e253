use super::*;
use crate::state::record::{Id, Record};
use proto::spec::Process;

struct Place {
    directory: tempfile::TempDir,
    volumes: Volumes,
    root: Root,
}

fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let volumes = Volumes::open(directory.path()).unwrap();
    let root = Root::open(&directory.path().join("state")).unwrap();
    Place { directory, volumes, root }
}

impl Place {
    fn make(&self, name: &str, anonymous: bool) -> Name {
        let name: Name = name.parse().unwrap();
        let turn = self.volumes.turn().unwrap();
        self.volumes.create(name.clone(), BTreeMap::new(), anonymous, &turn).unwrap();
        name
    }

    /// A container that has these volumes, and has ended when this comes back.
    fn container(&self, name: &str, volumes: &[&Name]) -> Record {
        let id = Id::from_bits([7; 32]);
        let mut record = Record::new(id, name.parse().unwrap(), "demo".into(), Process::default());
        record.volumes = volumes.iter().map(|&name| name.clone()).collect();
        self.root.claim(&record).unwrap();
        record
    }
}

#[test]
fn a_volume_is_what_it_was_made_as_and_its_name_is_taken() {
    let place = place();
    let name = place.make("data", false);
    std::fs::write(place.volumes.data(&name).join("file"), "x").unwrap();
    let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let turn = place.volumes.turn().unwrap();
    let taken = place.volumes.create(name.clone(), labels.clone(), false, &turn).unwrap_err();
    assert_eq!(taken.to_string(), "a volume named data exists already");
    let found = place.volumes.provide(&name, &labels, false, &turn).unwrap();
    assert!(found.labels.is_empty());
    assert!(place.volumes.data(&name).join("file").exists());
    let other: Name = "other".parse().unwrap();
    assert_eq!(place.volumes.provide(&other, &labels, true, &turn).unwrap().labels, labels);
    let all = place.volumes.all().unwrap();
    assert_eq!(
        all.iter().map(|volume| volume.name.as_ref()).collect::<Vec<_>>(),
        ["data", "other"]
    );
    let metadata = std::fs::metadata(place.directory.path().join("volumes/data")).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o700);
}

#[test]
fn a_volume_of_a_container_stays_even_if_that_has_ended() {
    let place = place();
    let (used, free) = (place.make("used", true), place.make("free", true));
    let named = place.make("named", false);
    place.container("web", &[&used]);
    let turn = place.volumes.turn().unwrap();
    let refused = place.volumes.remove(&used, &place.root, &turn).unwrap_err();
    assert_eq!(refused.to_string(), "volume used is used by container web");
    let (removed, _) = place.volumes.prune(false, &place.root, &turn).unwrap();
    assert_eq!(removed, [free]);
    let (removed, _) = place.volumes.prune(true, &place.root, &turn).unwrap();
    assert_eq!(removed, std::slice::from_ref(&named));
    let gone = place.volumes.remove(&named, &place.root, &turn).unwrap_err();
    assert!(matches!(gone, VolumeError::NotFound { .. }));
}

#[test]
fn volumes_nobody_named_go_with_their_container() {
    let place = place();
    let names = vec![place.make("own-0", true), place.make("own-1", true)];
    let record = place.container("web", &[&names[0]]);
    let guard = || Anonymous {
        volumes: place.volumes.clone(),
        root: place.root.clone(),
        names: names.clone(),
    };
    drop(guard());
    assert_eq!(place.volumes.all().unwrap().len(), 1);
    place.root.withdraw(&record.name).unwrap();
    drop(guard());
    assert!(place.volumes.all().unwrap().is_empty());
}

#[test]
fn what_somebody_has_written_into_a_description_is_named_and_not_believed() {
    let place = place();
    let name = place.make("data", false);
    let path = place.directory.path().join("volumes/data/volume.json");
    let other = r#"{"version":1,"name":"../x","created":""}"#;
    for (json, why) in [
        ("", "EOF"),
        (r#"{"version":2,"name":"data","created":""}"#, "version 2"),
        (r#"{"version":1,"name":"datum","created":""}"#, "name datum"),
        (other, "not a volume's name"),
    ] {
        std::fs::write(&path, json).unwrap();
        let said = place.volumes.find(&name).unwrap_err().to_string();
        assert!(said.contains("volume.json") && said.contains(why), "{said}");
    }
}

#[test]
fn what_a_killed_process_has_left_is_cleared_away() {
    let place = place();
    let halves = [NEW, GONE].map(|half| place.directory.path().join("volumes").join(half));
    for half in &halves {
        std::fs::create_dir_all(half.join("data/deep")).unwrap();
    }
    drop(place.volumes.turn().unwrap());
    assert!(halves.iter().all(|half| !half.exists()));
}
