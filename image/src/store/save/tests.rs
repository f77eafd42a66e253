use std::fs;

use super::*;
use crate::store::tests::{Place, demo, layer};
use crate::testing::{Recipe, gzip, line};

fn save(place: &Place, references: &[&str], kind: ArchiveKind) -> Result<Vec<u8>, SaveError> {
    let references: Vec<_> = references.iter().map(|reference| (*reference).to_owned()).collect();
    let mut archive = Vec::new();
    place.store.save(&references, kind, &mut archive).map(|()| archive)
}

fn packed() -> Recipe {
    let mut packed = demo();
    packed.layers[0].0 = gzip(&packed.layers[0].1);
    packed
}

#[test]
fn what_was_saved_loads_as_the_same_image_with_the_same_name() {
    let place = Place::new();
    let image = place.load(&packed().oci().tar()).unwrap().remove(0);
    let digest = place.store.manifest_digest(&image).unwrap();
    for kind in [ArchiveKind::Docker, ArchiveKind::Oci] {
        let archive = save(&place, &["example.org/demo:1"], kind).unwrap();
        assert_eq!(save(&place, &["example.org/demo:1"], kind).unwrap(), archive);
        let other = Place::new();
        let loaded = other.load(&archive).unwrap().remove(0);
        assert_eq!((loaded.id, &loaded.names), (image.id, &image.names));
        assert_eq!(fs::read(&loaded.disk).unwrap(), fs::read(&image.disk).unwrap());
        // An OCI archive is what came; docker's has its layers unpacked.
        let same = other.store.manifest_digest(&loaded).unwrap() == digest;
        assert_eq!(same, kind == ArchiveKind::Oci);
    }
}

#[test]
fn images_that_share_layers_are_in_one_archive_and_those_named_by_id_have_no_name() {
    let place = Place::new();
    let one = place.load(&demo().oci().tar()).unwrap().remove(0);
    let other = Recipe { name: Some("second:1"), ..Recipe::of([layer(), layer()]) };
    place.load(&other.oci().tar()).unwrap();
    place.store.tag("second:1", "third").unwrap();
    let words = [&one.id.hex()[..12], "second:1", "third"];
    for kind in [ArchiveKind::Docker, ArchiveKind::Oci] {
        let archive = save(&place, &words, kind).unwrap();
        let fresh = Place::new();
        let names: Vec<_> =
            fresh.load(&archive).unwrap().into_iter().map(|image| image.names).collect();
        assert_eq!(names, [vec![], vec!["second:1".to_owned(), "third:latest".to_owned()]]);
    }
}

#[test]
fn a_layer_that_was_damaged_is_named_and_none_is_made_up() {
    let place = Place::new();
    let image = place.load(&packed().oci().tar()).unwrap().remove(0);
    let refused = |kind| line(&save(&place, &["example.org/demo:1"], kind).unwrap_err());
    let layer = place.store.layers(&image).unwrap()[1].digest;
    for kind in [ArchiveKind::Docker, ArchiveKind::Oci] {
        let mut bytes = fs::read(place.store.blob(layer)).unwrap();
        bytes[600] ^= 1;
        fs::write(place.store.blob(layer), bytes).unwrap();
        let said = refused(kind);
        assert!(said.contains(&layer.hex()), "{said}");
        assert!(said.contains("its content is not what its name says"), "{said}");
        // Which mends it.
        place.load(&packed().oci().tar()).unwrap();
        save(&place, &["example.org/demo:1"], kind).unwrap();
    }
    fs::remove_file(image.disk.with_file_name("manifest.json")).unwrap();
    let said = "image example.org/demo:1 was loaded by a microvm that kept no layers, pull or load it again";
    assert_eq!(refused(ArchiveKind::Oci), said);
    place.load(&packed().oci().tar()).unwrap();
    save(&place, &["example.org/demo:1"], ArchiveKind::Docker).unwrap();
}
