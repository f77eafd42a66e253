use super::*;

fn options(asked: &Asked) -> String {
    asked.options.join(",")
}

fn named(asked: &Asked) -> Option<&str> {
    match &asked.what {
        What::Volume { name, .. } => name.as_ref().map(Name::as_ref),
        What::Host(_) | What::Memory => None,
    }
}

#[test]
fn a_volume_is_a_path_of_the_host_or_a_name() {
    let of = |word| Asked::by_volume(word).unwrap();
    assert_eq!(of("/srv:/data").what, What::Host("/srv".into()));
    assert_eq!(of("./srv:/data").what, What::Host("./srv".into()));
    assert_eq!(of("..:/data").what, What::Host("..".into()));
    assert_eq!(named(&of("srv:/data:ro")), Some("srv"));
    assert!(of("srv:/data:ro").read_only && !of("srv:/data:ro,rw").read_only);
    assert_eq!(of("/data").what, volume(None));
    let asked = of("/srv:/a/./b/../c//:noexec,bind,rprivate,z");
    assert_eq!((asked.destination.to_str(), asked.recursive), (Some("/a/c"), false));
    assert_eq!(options(&asked), "noexec");
    let nocopy = of("srv:/data:nocopy");
    assert!(matches!(nocopy.what, What::Volume { copies_up: false, .. }));
}

#[test]
fn a_volume_that_is_none_is_refused_with_the_word_that_is_wrong() {
    for (word, why) in [
        ("", "no absolute path"),
        ("/a:b", "\"b\" is no absolute path"),
        ("/a:/", "the root"),
        ("/a:/b/../..", "the root"),
        ("/a:/b:ro:ro", "not [SRC:]DST"),
        ("/a:/b:bogus", "\"bogus\" is no option"),
        ("/a:/b:rshared", "later mounts do not cross"),
        ("/a:/b:O", "no overlay"),
        ("/a:/b:nocopy", "\"nocopy\" means nothing"),
        ("aa:/b:rbind", "\"rbind\" means nothing"),
        ("a b:/c", "\"a b\" is not a volume's name"),
        ("~/a:/c", "begins with / or with ."),
    ] {
        let said = Asked::by_volume(word).unwrap_err().to_string();
        assert!(said.starts_with(&format!("--volume {word:?}: ")) && said.contains(why), "{said}");
    }
}

#[test]
fn keys_say_what_words_say_and_more() {
    let of = |word| Asked::by_keys(word).unwrap();
    let bind = of("type=bind,src=/srv,dst=/data,readonly,bind-propagation=rprivate");
    assert_eq!(bind, Asked::by_volume("/srv:/data:ro").unwrap());
    assert_eq!(of("type=bind,source=srv,target=/d").what, What::Host("./srv".into()));
    assert_eq!(of("source=data,destination=/data,ro=true"), of("src=data,dst=/data,rw=0"));
    assert_eq!(of("dst=/data"), Asked::by_volume("/data").unwrap());
    let labelled = of("src=data,dst=/data,volume-label=a=b,volume-nocopy,volume-driver=local");
    let What::Volume { labels, copies_up: false, .. } = labelled.what else { panic!() };
    assert_eq!(labels, BTreeMap::from([("a".to_owned(), "b".to_owned())]));
    let memory = of("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770,exec");
    assert_eq!(options(&memory), "nosuid,nodev,noexec,size=1048576,mode=1770,exec");
    let quoted = of("type=bind,\"src=/a,b \"\"c\"\"\",dst=/data");
    assert_eq!(quoted.what, What::Host("/a,b \"c\"".into()));
    assert!(!of("type=bind,src=/a,dst=/b,bind-nonrecursive").recursive);
    assert!(!of("type=bind,src=/a,dst=/b,bind-recursive=disabled").recursive);
}

#[test]
fn a_key_that_cannot_be_honoured_is_refused_by_its_name() {
    for (word, why) in [
        ("type=bind,src=/a", "there is no destination"),
        ("type=bind,dst=/a", "a bind has a source"),
        ("type=tmpfs,src=/a,dst=/b", "a tmpfs has no source"),
        ("type=nfs,dst=/b", "type \"nfs\""),
        ("type=bind,src=/a,dst=/b,tmpfs-size=1m", "tmpfs-size is not for type bind"),
        ("type=tmpfs,dst=/b,tmpfs-size=big", "tmpfs-size=\"big\" is no size"),
        ("type=tmpfs,dst=/b,tmpfs-mode=999", "\"999\" is no mode"),
        ("type=bind,src=/a,dst=/b,bind-propagation=rslave", "later mounts do not cross"),
        ("type=bind,src=/a,dst=/b,bind-propagation=up", "\"up\" is no propagation"),
        ("type=bind,src=/a,dst=/b,readonly=maybe", "is not true or false"),
        ("src=aa,dst=/b,volume-driver=nfs", "no volume driver \"nfs\""),
        ("src=aa,dst=/b,volume-opt=type=nfs", "has no options"),
        ("src=aa,dst=/b,volume-subpath=c", "as a whole"),
        ("src=aa,dst=/b,bogus=1", "\"bogus\" is no key"),
        ("src=aa,dst=/b,bogus", "\"bogus\" is no key"),
        ("src=aa,\"dst=/b", "a quote is not closed"),
        ("src=aa,dst", "dst has no value"),
        ("", "there is no destination"),
    ] {
        let said = Asked::by_keys(word).unwrap_err().to_string();
        assert!(said.starts_with(&format!("--mount {word:?}: ")) && said.contains(why), "{said}");
    }
}

#[test]
fn a_tmpfs_takes_the_words_of_the_kernels() {
    let of = |word| Asked::by_tmpfs(word).unwrap();
    assert_eq!(options(&of("/run")), "nosuid,nodev,noexec");
    let asked = of("/run:rw,exec,size=64m,mode=1777,uid=7,nr_inodes=1k,tmpcopyup");
    assert_eq!(
        options(&asked),
        "nosuid,nodev,noexec,exec,size=64m,mode=1777,uid=7,nr_inodes=1k,tmpcopyup"
    );
    assert!(of("/run:ro,size=50%").read_only);
    for (word, why) in [
        ("run", "no absolute path"),
        ("/run:size=", "\"\" is no size"),
        ("/run:size=-5", "\"-5\" is no size"),
        ("/run:mode=abc", "is no mode"),
        ("/run:bogus", "\"bogus\" is no option of a tmpfs"),
        ("/run:rshared", "later mounts"),
    ] {
        let said = Asked::by_tmpfs(word).unwrap_err().to_string();
        assert!(said.starts_with(&format!("--tmpfs {word:?}: ")) && said.contains(why), "{said}");
    }
}
