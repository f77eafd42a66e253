//! Who a process runs as: the words of an image, looked up in the container's own files.

use proto::spec::{User, Who};

/// A user resolved to numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// For `HOME`, when the environment has none.
    pub(crate) home: String,
}

/// A user or group that is not there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UserError {
    #[error("no user \"{name}\" in the container's /etc/passwd")]
    NoSuchUser { name: String },
    #[error("no group \"{name}\" in the container's /etc/group")]
    NoSuchGroup { name: String },
}

/// Finds out who `user` is, given the text of the container's `/etc/passwd` and `/etc/group`.
///
/// As people know it from other engines: a number needs no entry but uses the one it finds; without
/// a group the user's own counts, with all the groups that list it as a member; with a group, that
/// one alone.
pub(crate) fn resolve(user: &User, passwd: &str, group: &str) -> Result<Identity, UserError> {
    let mut identity = match &user.who {
        Who::Ids { uid, gid } => {
            let home = entries(passwd).find(|entry| entry.uid == *uid).map(|entry| entry.home);
            Identity { uid: *uid, gid: *gid, groups: Vec::new(), home: home_or_root(home) }
        }
        Who::Name { name } => by_name(name, passwd, group)?,
    };
    identity.groups.extend(&user.additional_gids);
    identity.groups.sort_unstable();
    identity.groups.dedup();
    Ok(identity)
}

fn by_name(words: &str, passwd: &str, group: &str) -> Result<Identity, UserError> {
    let (user, wanted_group) = match words.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (words, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let by_name = entries(passwd).find(|entry| entry.name == user);
    let entry = by_name.or_else(|| entries(passwd).find(|entry| Some(entry.uid) == number));
    let uid = match (&entry, number) {
        (Some(entry), _) => entry.uid,
        (None, Some(uid)) => uid,
        (None, None) => return Err(UserError::NoSuchUser { name: user.to_owned() }),
    };
    let (gid, groups) = match wanted_group {
        Some(name) => (group_number(name, group)?, Vec::new()),
        None => match &entry {
            Some(entry) => (entry.gid, groups_of(entry.name, group)),
            None => (0, Vec::new()),
        },
    };
    Ok(Identity { uid, gid, groups, home: home_or_root(entry.map(|entry| entry.home)) })
}

fn home_or_root(home: Option<&str>) -> String {
    home.filter(|home| !home.is_empty()).unwrap_or("/").to_owned()
}

/// A line of `/etc/passwd`.
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// The lines that have the form of one; others are skipped, as the C library does.
fn entries(passwd: &str) -> impl Iterator<Item = Entry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Entry { name, uid, gid, home })
    })
}

/// Name, number and members of every well-formed line of `/etc/group`.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn group_number(name: &str, group: &str) -> Result<u32, UserError> {
    groups(group)
        .find(|(known, ..)| *known == name)
        .map(|(_, gid, _)| gid)
        .or_else(|| name.parse().ok())
        .ok_or_else(|| UserError::NoSuchGroup { name: name.to_owned() })
}

fn groups_of(member: &str, group: &str) -> Vec<u32> {
    groups(group)
        .filter(|(.., members)| members.split(',').any(|name| name == member))
        .map(|(_, gid, _)| gid)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        broken line\n\
        daemon:x:1:1::/usr/sbin:/usr/sbin/nologin\n\
        ann:x:1000:1001:Ann:/home/ann:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nann:x:1001:\nwheel:x:10:root,ann\naudio:x:29:ann\n";

    fn who(name: &str) -> Result<(u32, u32, Vec<u32>, String), UserError> {
        let user = User { who: Who::Name { name: name.to_owned() }, ..User::default() };
        resolve(&user, PASSWD, GROUP).map(|id| (id.uid, id.gid, id.groups, id.home))
    }

    #[test]
    fn a_name_brings_its_own_group_all_its_memberships_and_its_home() {
        assert_eq!(who("ann"), Ok((1000, 1001, vec![10, 29], "/home/ann".into())));
        assert_eq!(who("1000"), who("ann"));
    }

    #[test]
    fn a_group_that_is_named_stands_alone() {
        assert_eq!(who("ann:audio"), Ok((1000, 29, vec![], "/home/ann".into())));
        assert_eq!(who("7:29"), Ok((7, 29, vec![], "/".into())));
        assert_eq!(who("ann:"), who("ann"));
    }

    #[test]
    fn a_number_needs_no_entry_but_a_name_does() {
        assert_eq!(who("4242"), Ok((4242, 0, vec![], "/".into())));
        assert_eq!(who("bob").unwrap_err(), UserError::NoSuchUser { name: "bob".into() });
        assert_eq!(who("ann:nope").unwrap_err(), UserError::NoSuchGroup { name: "nope".into() });
        assert_eq!(who("-1").unwrap_err(), UserError::NoSuchUser { name: "-1".into() });
    }

    #[test]
    fn ids_are_taken_as_they_are_and_find_their_home() {
        let user = User {
            who: Who::Ids { uid: 1000, gid: 5 },
            additional_gids: vec![7, 6, 7],
            umask: None,
        };
        let identity = resolve(&user, PASSWD, GROUP).unwrap();
        assert_eq!((identity.gid, identity.groups.as_slice()), (5, &[6, 7][..]));
        assert_eq!(identity.home, "/home/ann");
    }
}
