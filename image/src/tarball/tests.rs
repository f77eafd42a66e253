use super::*;
use crate::testing::{Tar, line};
use proptest::prelude::*;

impl Source for &[u8] {}

/// Every entry with its data as the archive holds it.
fn read(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut entries = Entries::new(archive);
    let mut all = Vec::new();
    while let Some(entry) = entries.next()? {
        let mut data = Vec::new();
        let mut buffer = [0; 100];
        loop {
            match entries.read(&mut buffer)? {
                0 => break,
                count => data.extend(&buffer[..count]),
            }
        }
        all.push((entry, data));
    }
    Ok(all)
}

fn refusal(archive: &[u8]) -> String {
    line(&read(archive).unwrap_err())
}

#[test]
fn names_of_any_bytes_and_length_arrive_whole() {
    let long = [b"d/".as_slice(), &[0xff; 200]].concat();
    let archive = Tar::default()
        .entry(b'L', b"././@LongLink", b"", &[&long[..], b"\0"].concat())
        .entry(b'K', b"././@LongLink", b"", &[&long[..], b"\0"].concat())
        .entry(b'2', b"short", b"short", b"")
        .pax(&[("path", &long), ("linkpath", &long)])
        .entry(b'1', b"short", b"short", b"")
        .entry(b'0', b"\xfe\xff", b"", b"")
        .end();
    let entries = read(&archive).unwrap();
    let (gnu, pax) = (&entries[0].0, &entries[1].0);
    assert_eq!((&gnu.name, &gnu.body), (&long, &Body::Symlink(long.clone())));
    assert_eq!((&pax.name, &pax.body), (&long, &Body::HardLink(long.clone())));
    assert_eq!(entries[2].0.name, b"\xfe\xff");
}

#[test]
fn pax_records_are_about_the_next_entry_only() {
    let records: [(&str, &[u8]); 5] = [
        ("uid", b"4000000"),
        ("gid", b"4000001"),
        ("mtime", b"12.25"),
        ("size", b"3"),
        ("SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
    ];
    let archive = Tar::default().pax(&records).file("a", b"abc").file("b", b"").end();
    let entries = read(&archive).unwrap();
    let first = &entries[0].0;
    assert_eq!((first.uid, first.gid), (4_000_000, 4_000_001));
    assert_eq!(first.mtime, Time { seconds: 12, nanoseconds: 250_000_000 });
    assert_eq!(first.xattrs[&b"security.capability"[..]], b"\x01\0\0\x02");
    assert_eq!(entries[0].1, b"abc");
    assert_eq!((entries[1].0.uid, entries[1].0.xattrs.len()), (0, 0));
}

#[test]
fn numbers_too_large_for_digits_are_read_in_their_binary_form() {
    let mut header = tar::Header::new_gnu();
    header.set_path("a").unwrap();
    header.set_mode(0o4755);
    header.set_uid(3_000_000_000);
    header.set_gid(0);
    header.set_size(0);
    header.set_mtime((-5i64).cast_unsigned());
    let entry = &read(&Tar::default().header(header.clone()).end()).unwrap()[0].0;
    assert_eq!((entry.mode, entry.uid, entry.mtime.seconds), (0o4755, 3_000_000_000, -5));
    header.set_uid(1 << 32);
    let refused = refusal(&Tar::default().header(header).end());
    assert_eq!(refused, "tar entry \"a\" at byte 0: the user is no number this system has");
}

/// A header for GNU's own sparse files: the first pieces, and whether more follow.
fn sparse_header(stored: u64, real: u64, pieces: &[(u64, u64)], more: bool) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_path("sparse").unwrap();
    header.set_mode(0o644);
    for (set, value) in [(tar::Header::set_uid as fn(&mut _, _), 0), (tar::Header::set_gid, 0)] {
        set(&mut header, value);
    }
    header.set_mtime(0);
    header.set_size(stored);
    header.set_entry_type(tar::EntryType::GNUSparse);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(real);
    gnu.set_is_extended(more);
    for (place, &(offset, length)) in gnu.sparse.iter_mut().zip(pieces) {
        place.set_offset(offset);
        place.set_length(length);
    }
    header
}

#[test]
fn all_four_kinds_of_sparse_file_say_the_same() {
    let map = b"2\n1000\n3\n5000\n2\n";
    let in_data = [&map[..], &vec![0; 512 - map.len()], b"abcde"].concat();
    let mut more = tar::GnuExtSparseHeader::new();
    more.sparse_mut()[0].set_offset(5000);
    more.sparse_mut()[0].set_length(2);
    let (name, size): (&[u8], &[u8]) = (b"sparse", b"6000");
    let archives = [
        Tar::default()
            .header(sparse_header(5, 6000, &[(1000, 3), (5000, 2)], false))
            .data(b"abcde"),
        Tar::default()
            .header(sparse_header(5, 6000, &[(1000, 3)], true))
            .data(more.as_bytes())
            .data(b"abcde"),
        Tar::default()
            .pax(&[
                ("GNU.sparse.size", size),
                ("GNU.sparse.offset", b"1000"),
                ("GNU.sparse.numbytes", b"3"),
                ("GNU.sparse.offset", b"5000"),
                ("GNU.sparse.numbytes", b"2"),
            ])
            .file("sparse", b"abcde"),
        Tar::default()
            .pax(&[
                ("GNU.sparse.size", size),
                ("GNU.sparse.name", name),
                ("GNU.sparse.map", b"1000,3,5000,2"),
            ])
            .file("GNUSparseFile.0/sparse", b"abcde"),
        Tar::default()
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", name),
                ("GNU.sparse.realsize", size),
            ])
            .file("GNUSparseFile.0/sparse", &in_data),
    ];
    let pieces = vec![Piece { offset: 1000, bytes: 3 }, Piece { offset: 5000, bytes: 2 }];
    for archive in archives {
        let entries = read(&archive.file("next", b"x").end()).unwrap();
        let (entry, data) = &entries[0];
        assert_eq!(entry.name, b"sparse");
        assert_eq!(entry.body, Body::File { bytes: 6000, pieces: pieces.clone() });
        assert_eq!(data, b"abcde");
        assert_eq!(entries[1].0.name, b"next");
    }
}

#[test]
fn a_sparse_map_that_lies_is_refused() {
    for (stored, real, pieces) in [
        // Out of the file, overlapping, falling, more and less than what is held.
        (5, 1000, vec![(999, 5)]),
        (5, 6000, vec![(10, 3), (12, 2)]),
        (5, 6000, vec![(10, 3), (2, 2)]),
        (5, 6000, vec![(10, 6)]),
        (5, 6000, vec![(10, 4)]),
        (5, 6000, vec![(u64::MAX, 5)]),
    ] {
        let archive =
            Tar::default().header(sparse_header(stored, real, &pieces, false)).data(b"abcde");
        let refused = refusal(&archive.end());
        assert!(refused.contains("map of a sparse file is malformed"), "{pieces:?}: {refused}");
    }
    for map in ["9999999\n", "x\n", "1\n5\n", "99999999999999999999999999", "2\n1\n1\n"] {
        let archive = Tar::default()
            .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"6000")])
            .file("sparse", map.as_bytes());
        refusal(&archive.end());
    }
}

#[test]
fn an_archive_that_is_cut_or_changed_is_refused_with_the_place() {
    let archive = Tar::default().file("a", &[7; 600]).end();
    assert_eq!(
        refusal(&archive[..1000]),
        "tar archive ends in the middle of an entry, at byte 1000"
    );
    assert_eq!(refusal(&archive[..300]), "tar archive ends in the middle of an entry, at byte 300");
    let mut changed = archive.clone();
    changed[5] ^= 1;
    assert_eq!(refusal(&changed), "tar header at byte 0 has a wrong checksum");
    let unknown = Tar::default().entry(b'Z', b"a\nb", b"", b"").end();
    assert_eq!(refusal(&unknown), "tar entry \"a\\nb\" at byte 0 is of unknown type 'Z'");
}

#[test]
fn names_and_records_that_would_fill_the_memory_are_refused_before_they_are_read() {
    for kind in [b'x', b'L', b'K'] {
        let mut header = tar::Header::new_gnu();
        header.set_size(1 << 40);
        header.set_entry_type(tar::EntryType::new(kind));
        let refused = refusal(&Tar::default().header(header).end());
        assert!(refused.contains("over 1 MiB"), "{refused}");
    }
}

#[test]
fn links_and_directories_have_no_data_whatever_their_size_says() {
    let mut header = tar::Header::new_ustar();
    header.set_path("d").unwrap();
    header.set_mode(0o755);
    header.set_size(4096);
    header.set_entry_type(tar::EntryType::Directory);
    let entries = read(&Tar::default().header(header).file("next", b"").end()).unwrap();
    assert_eq!(entries[1].0.name, b"next");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_the_tar_crate_writes_is_read_back(
        files in proptest::collection::vec(
            ("[a-z]{1,8}(/[a-z]{1,200}){0,2}", proptest::collection::vec(any::<u8>(), 0..1500), 0..0o7777u32),
            0..8,
        )
    ) {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, data, mode) in &files {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            header.set_mode(*mode);
            builder.append_data(&mut header, name, &data[..]).unwrap();
        }
        let archive = builder.into_inner().unwrap();
        let entries = read(&archive).unwrap();
        prop_assert_eq!(entries.len(), files.len());
        for ((entry, read), (name, data, mode)) in entries.iter().zip(&files) {
            prop_assert_eq!(&entry.name[..], name.as_bytes());
            prop_assert_eq!(read, data);
            prop_assert_eq!(u32::from(entry.mode), *mode);
        }
        for end in (0..archive.len()).step_by(97) {
            // Cut anywhere: an error or fewer entries, and never a panic.
            let _ = read(&archive[..end]);
        }
    }

    #[test]
    fn no_header_panics(bytes in proptest::collection::vec(any::<u8>(), 512), kind: u8) {
        let mut header = *tar::Header::from_byte_slice(&bytes).as_bytes();
        header[156] = kind;
        let header = tar::Header::from_byte_slice(&header).clone();
        let _ = read(&Tar::default().header(header).end());
    }
}
