//! Mount options: the words of `mount -o`, sorted by what the kernel wants them for.

use crate::sys::MountAttributes;
use rustix::mount::MountAttrFlags as Attr;

/// One mount's options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// It is a bind mount, of one mount or with `rbind` of all below it too.
    pub(crate) bind: Option<Bind>,
    /// For this mount alone.
    pub(crate) own: MountAttributes,
    /// For this mount and all below it.
    pub(crate) recursive: MountAttributes,
    /// For the file system itself: a word, or a name and a value.
    pub(crate) data: Vec<(String, Option<String>)>,
    /// What the image has there is copied into the new file system.
    pub(crate) copies_up: bool,
    /// It changes what is mounted there already.
    pub(crate) remount: bool,
}

/// How much a bind mount shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bind {
    /// One file system.
    One,
    /// And what is mounted below.
    All,
}

/// Words for attributes of a mount: what is set and what cleared. With an `r` before them they mean
/// everything below as well.
const ATTRIBUTES: [(&str, Attr, Attr); 18] = [
    ("ro", Attr::MOUNT_ATTR_RDONLY, NONE),
    ("rw", NONE, Attr::MOUNT_ATTR_RDONLY),
    ("nosuid", Attr::MOUNT_ATTR_NOSUID, NONE),
    ("suid", NONE, Attr::MOUNT_ATTR_NOSUID),
    ("nodev", Attr::MOUNT_ATTR_NODEV, NONE),
    ("dev", NONE, Attr::MOUNT_ATTR_NODEV),
    ("noexec", Attr::MOUNT_ATTR_NOEXEC, NONE),
    ("exec", NONE, Attr::MOUNT_ATTR_NOEXEC),
    ("nosymfollow", Attr::MOUNT_ATTR_NOSYMFOLLOW, NONE),
    ("symfollow", NONE, Attr::MOUNT_ATTR_NOSYMFOLLOW),
    ("nodiratime", Attr::MOUNT_ATTR_NODIRATIME, NONE),
    ("diratime", NONE, Attr::MOUNT_ATTR_NODIRATIME),
    // Access times are one field of three values, of which the kernel's own is `relatime`: to take that back, as
    // runc does too, leaves it.
    ("relatime", Attr::MOUNT_ATTR_RELATIME, Attr::MOUNT_ATTR__ATIME),
    ("norelatime", Attr::MOUNT_ATTR_RELATIME, Attr::MOUNT_ATTR__ATIME),
    ("noatime", Attr::MOUNT_ATTR_NOATIME, Attr::MOUNT_ATTR__ATIME),
    ("atime", Attr::MOUNT_ATTR_RELATIME, Attr::MOUNT_ATTR__ATIME),
    ("strictatime", Attr::MOUNT_ATTR_STRICTATIME, Attr::MOUNT_ATTR__ATIME),
    ("nostrictatime", Attr::MOUNT_ATTR_RELATIME, Attr::MOUNT_ATTR__ATIME),
];

const NONE: Attr = Attr::empty();

/// Words of mount(8) that file systems are not asked for this way: each keeps the versions of its
/// inodes as it needs them, and speaks to its own log.
const WITHOUT_EFFECT: [&str; 6] = ["", "defaults", "iversion", "noiversion", "silent", "loud"];

/// Words for mounts with other owners than their files have.
const UNSUPPORTED: [&str; 2] = ["idmap", "ridmap"];

/// Words for what happens to later mounts and unmounts below.
const PROPAGATION: [(&str, u64); 4] = [
    ("private", libc::MS_PRIVATE),
    ("shared", libc::MS_SHARED),
    ("slave", libc::MS_SLAVE),
    ("unbindable", libc::MS_UNBINDABLE),
];

impl Options {
    /// Sorts the words. One that is not known here is the file system's own, which refuses what it
    /// does not know either. One that cannot be honoured is the error.
    pub(crate) fn parse(words: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        for word in words.iter().flat_map(|word| word.split(',')) {
            let recursive = word.strip_prefix('r');
            match word {
                "bind" => options.bind = options.bind.or(Some(Bind::One)),
                "rbind" => options.bind = Some(Bind::All),
                "remount" => options.remount = true,
                "tmpcopyup" => options.copies_up = true,
                _ if WITHOUT_EFFECT.contains(&word) => {}
                _ if UNSUPPORTED.contains(&word) => return Err(word.to_owned()),
                _ if options.own.take(word) => {}
                _ if recursive.is_some_and(|word| options.recursive.take(word)) => {}
                _ => {
                    let (name, value) = match word.split_once('=') {
                        Some((name, value)) => (name, Some(value.to_owned())),
                        None => (word, None),
                    };
                    options.data.push((name.to_owned(), value));
                }
            }
        }
        Ok(options)
    }
}

impl MountAttributes {
    /// Whether there is nothing to change.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn take(&mut self, word: &str) -> bool {
        if let Some((_, set, clear)) = ATTRIBUTES.iter().find(|(name, ..)| *name == word) {
            let (set, clear) = (u64::from(set.bits()), u64::from(clear.bits()));
            self.set = (self.set & !clear) | set;
            self.clear = (self.clear & !set) | clear;
            return true;
        }
        if let Some((_, propagation)) = PROPAGATION.iter().find(|(name, _)| *name == word) {
            self.propagation = *propagation;
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Options {
        Options::parse(&[words.to_owned()]).unwrap()
    }

    fn bits(attr: Attr) -> u64 {
        attr.bits().into()
    }

    #[test]
    fn words_for_the_mount_are_told_from_words_for_the_file_system() {
        let options = parse("nosuid,strictatime,mode=755,size=65536k,huge");
        let set = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_STRICTATIME;
        assert_eq!(options.own.set, bits(set));
        let data = [("mode", Some("755")), ("size", Some("65536k")), ("huge", None)];
        let data = data.map(|(n, v)| (n.to_owned(), v.map(str::to_owned)));
        assert_eq!(options.data, data);
        assert_eq!(options.bind, None);
    }

    #[test]
    fn an_r_means_everything_below_except_where_the_word_begins_with_one() {
        let options = parse("rbind,rro,rprivate,ro,relatime,rw");
        assert_eq!(options.bind, Some(Bind::All));
        assert_eq!(options.recursive.set, bits(Attr::MOUNT_ATTR_RDONLY));
        assert_eq!(options.recursive.propagation, libc::MS_PRIVATE);
        assert_eq!(options.own.set, 0);
        let clear = Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR__ATIME;
        assert_eq!(options.own.clear, bits(clear));
        assert_eq!(options.data, []);
    }

    #[test]
    fn every_word_of_the_specification_is_honoured_or_refused() {
        let plain = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand \
            noatime nodev nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime \
            nosuid nosymfollow private ratime rbind rdev rdiratime relatime remount rexec rnoatime \
            rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate \
            rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared \
            silent slave strictatime suid symfollow sync tmpcopyup unbindable";
        // These change the file system's superblock: the kernel knows them by the same words.
        let for_the_kernel = "async dirsync lazytime mand nolazytime nomand sync";
        let for_the_kernel: Vec<&str> = for_the_kernel.split_whitespace().collect();
        for word in plain.split_whitespace() {
            let data = parse(word).data;
            assert_eq!(!data.is_empty(), for_the_kernel.contains(&word), "{word}");
        }
        for word in ["idmap", "ridmap"] {
            assert_eq!(Options::parse(&[word.to_owned()]), Err(word.to_owned()));
        }
    }

    #[test]
    fn the_last_word_counts() {
        assert_eq!(parse("ro,rw").own.set, 0);
        assert_eq!(parse("rw,ro").own.clear, 0);
        let atime = parse("noatime,strictatime").own;
        assert_eq!(atime.set, bits(Attr::MOUNT_ATTR_STRICTATIME));
        assert_eq!(atime.clear, bits(Attr::MOUNT_ATTR__ATIME));
    }
}
