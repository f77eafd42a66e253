//! What is written down about networks of our own, and who is on them.
//!
//! ```text
//! /run/microvm/networks/lock          held while anything here or on the host changes
//! /run/microvm/networks/NAME.json     a network that was made; the one called default is always there
//! /run/microvm/networks/NAME@ADDRESS  somebody on it, whose supervisor holds a lock on the file
//! ```
//!
//! There is one such place on a machine, whatever `--root` says, because there is one network. A file whose lock
//! is free is that of somebody who is gone, and is taken away by whoever looks.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Serialize;

use super::Newcomer;
use super::network::{self, BadNetwork, Lease, Network};

/// The network that is always there.
pub(crate) const DEFAULT: &str = "default";

/// Where it all is.
const PLACE: &str = "/run/microvm/networks";

/// Networks that can be made without saying where.
const NUMBERS: std::ops::Range<u8> = 1..255;

/// Why it could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    /// The file system refused.
    #[error("networks: {}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What is written means nothing.
    #[error("networks: {}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// There is no such network.
    #[error("no network named {name}; microvm network create makes one")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// There is one already.
    #[error("a network named {name} exists already")]
    Exists {
        /// Its name.
        name: String,
    },
    /// Its addresses are another's.
    #[error("subnet {subnet} has addresses in common with network {name}")]
    Overlaps {
        /// What was asked for.
        subnet: String,
        /// Whose they are.
        name: String,
    },
    /// Somebody is on it.
    #[error("network {name} is in use by {user}")]
    InUse {
        /// Its name.
        name: String,
        /// One of those on it.
        user: String,
    },
    /// It has no address left, or there is no number left for a network.
    #[error("no address left for network {name}")]
    Full {
        /// Its name.
        name: String,
    },
    /// The one that is always there.
    #[error("network {DEFAULT} is always there")]
    Always,
    /// A word.
    #[error(transparent)]
    Bad(#[from] BadNetwork),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> RegistryError {
    let path = path.to_owned();
    move |source| RegistryError::Io { path, source }
}

/// Where networks are written down.
#[derive(Clone, Debug)]
pub(crate) struct Registry(PathBuf);

impl Registry {
    /// That of this machine.
    pub(crate) fn of_this_machine() -> Self {
        Self(PathBuf::from(PLACE))
    }

    #[cfg(test)]
    pub(super) fn at(place: PathBuf) -> Self {
        Self(place)
    }

    /// The names of the files of those who are on a network, or were.
    pub(super) fn files_of(&self, network: &str) -> Result<Vec<String>, RegistryError> {
        let names = self.files()?.into_iter().filter_map(|path| {
            let name = path.file_name()?.to_str()?.to_owned();
            name.strip_prefix(network).is_some_and(|rest| rest.starts_with('@')).then_some(name)
        });
        Ok(names.collect())
    }

    /// Whom a file stands for, if he is still there.
    pub(super) fn holder(&self, file: &str) -> Result<Option<Lease>, RegistryError> {
        let path = self.0.join(file);
        let opened = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(at(&path))?,
        };
        match flock(&opened, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => read(&path).map(Some),
            Err(error) => Err(at(&path)(error.into())),
            Ok(()) => Ok(None),
        }
    }

    fn files(&self) -> Result<Vec<PathBuf>, RegistryError> {
        let entries = fs::read_dir(&self.0).map_err(at(&self.0))?;
        let mut files = entries
            .map(|entry| Ok(entry.map_err(at(&self.0))?.path()))
            .collect::<Result<Vec<_>, RegistryError>>()?;
        files.sort();
        Ok(files)
    }

    /// The right to change anything, which others wait for.
    pub(crate) fn turn(&self) -> Result<Turn<'_>, RegistryError> {
        let path = self.0.join("lock");
        loop {
            DirBuilder::new().recursive(true).mode(0o755).create(&self.0).map_err(at(&self.0))?;
            let lock = match File::options().create(true).append(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                lock => lock.map_err(at(&path))?,
            };
            flock(&lock, FlockOperation::LockExclusive).map_err(|error| at(&path)(error.into()))?;
            // Whoever had it before may have taken the file away: then it is nobody's lock any more.
            let ours = lock.metadata().map_err(at(&path))?.ino();
            if fs::metadata(&path).is_ok_and(|there| there.ino() == ours) {
                return Ok(Turn { registry: self, _lock: lock });
            }
        }
    }
}

/// The right to change anything.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    registry: &'a Registry,
    _lock: File,
}

/// Somebody on a network, for as long as this lives.
#[derive(Debug)]
pub(super) struct Member {
    path: PathBuf,
    _lock: File,
    lease: Lease,
}

impl Member {
    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Without its lock it is as good as gone.
        let _ = fs::remove_file(&self.path);
    }
}

impl Turn<'_> {
    /// Of which registry.
    pub(super) fn registry(&self) -> &Registry {
        self.registry
    }

    /// The network of this name.
    pub(crate) fn network(&self, name: &str) -> Result<Network, RegistryError> {
        let networks = self.networks()?;
        let found = networks.into_iter().find(|network| network.name == name);
        found.ok_or_else(|| RegistryError::NotFound { name: name.to_owned() })
    }

    /// Every network, by name.
    pub(crate) fn networks(&self) -> Result<Vec<Network>, RegistryError> {
        let mut networks = vec![Network::numbered(DEFAULT, 0)];
        for path in self.registry.files()? {
            if path.extension().is_some_and(|ending| ending == "json") {
                networks.push(read(&path)?);
            }
        }
        networks.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(networks)
    }

    /// Makes a network.
    pub(crate) fn create(
        &self,
        name: &str,
        subnet: Option<&str>,
    ) -> Result<Network, RegistryError> {
        if !network::is_name(name) {
            return Err(BadNetwork::Name(name.to_owned()).into());
        }
        let networks = self.networks()?;
        if networks.iter().any(|network| network.name == name) {
            return Err(RegistryError::Exists { name: name.to_owned() });
        }
        let is_free = |number: &u8| networks.iter().all(|network| network.number != *number);
        let number = NUMBERS.filter(is_free).find(|number| {
            subnet.is_some() || {
                let asked = Network::numbered(name, *number);
                networks.iter().all(|network| !network.overlaps(&asked))
            }
        });
        let full = || RegistryError::Full { name: name.to_owned() };
        let mut network = Network::numbered(name, number.ok_or_else(full)?);
        if let Some(word) = subnet {
            let (subnet, prefix) =
                network::parse_subnet(word).ok_or_else(|| BadNetwork::Subnet(word.to_owned()))?;
            network = Network { subnet, prefix, ..network };
        }
        if let Some(other) = networks.iter().find(|other| other.overlaps(&network)) {
            let (subnet, name) = (network.words(), other.name.clone());
            return Err(RegistryError::Overlaps { subnet, name });
        }
        let path = self.registry.0.join(format!("{name}.json"));
        write(&path, &network)?;
        Ok(network)
    }

    /// Forgets a network nobody is on.
    pub(crate) fn remove(&self, name: &str) -> Result<(), RegistryError> {
        let network = self.network(name)?;
        if let Some(user) = self.leases(name)?.into_iter().next() {
            return Err(RegistryError::InUse { name: network.name, user: user.name });
        }
        if name == DEFAULT {
            return Err(RegistryError::Always);
        }
        let path = self.registry.0.join(format!("{name}.json"));
        fs::remove_file(&path).map_err(at(&path))
    }

    /// Those who are on a network.
    pub(crate) fn leases(&self, name: &str) -> Result<Vec<Lease>, RegistryError> {
        let mut leases = Vec::new();
        for file in self.registry.files_of(name)? {
            match self.registry.holder(&file)? {
                Some(lease) => leases.push(lease),
                None => self.forget(&file)?,
            }
        }
        leases.sort_by_key(|lease: &Lease| lease.ip4);
        Ok(leases)
    }

    /// Gives somebody a place on a network.
    pub(super) fn admit(
        &self,
        network: &Network,
        newcomer: &Newcomer,
    ) -> Result<Member, RegistryError> {
        let taken: Vec<_> = self.leases(&network.name)?.into_iter().map(|it| it.ip4).collect();
        let free = network.hosts().find(|host| !taken.contains(&network.host4((*host).into())));
        let host = free.ok_or_else(|| RegistryError::Full { name: network.name.clone() })?;
        let lease = Lease::new(network, host, newcomer);
        let path = self.registry.0.join(lease.file(&network.name));
        let lock = write(&path, &lease)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| at(&path)(error.into()))?;
        Ok(Member { path, _lock: lock, lease })
    }

    /// Takes along what says nothing any more: without networks and guests there is nothing to keep.
    pub(crate) fn leave(self) -> Result<(), RegistryError> {
        let lock = self.registry.0.join("lock");
        if self.registry.files()?.iter().all(|path| *path == lock) {
            fs::remove_file(&lock).map_err(at(&lock))?;
            // Somebody else may be there by now, or have something beside it.
            let _ = fs::remove_dir(&self.registry.0);
            let _ = self.registry.0.parent().map(fs::remove_dir);
        }
        Ok(())
    }

    /// Takes away the file of somebody who is gone, who may be doing that himself.
    fn forget(&self, file: &str) -> Result<(), RegistryError> {
        let path = self.registry.0.join(file);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path)(error)),
            _ => Ok(()),
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, RegistryError> {
    let json = fs::read(path).map_err(at(path))?;
    let corrupt = |source| RegistryError::Corrupt { path: path.to_owned(), source };
    serde_json::from_slice(&json).map_err(corrupt)
}

fn write(path: &Path, what: &impl Serialize) -> Result<File, RegistryError> {
    let json = serde_json::to_vec(what).map_err(io::Error::from).map_err(at(path))?;
    let mut file = File::create(path).map_err(at(path))?;
    file.write_all(&json).map_err(at(path))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::network::testing::newcomer;
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_holder_is_gone_however_that_was() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::at(directory.path().join("networks"));
        let turn = registry.turn().unwrap();
        let network = turn.network(DEFAULT).unwrap();
        let admit = |name| turn.admit(&network, &newcomer(name)).unwrap();
        let (one, two) = (admit("one"), admit("two"));
        assert_eq!(one.lease().ip4, Ipv4Addr::new(10, 190, 0, 2));
        let names = || -> Vec<_> {
            turn.leases(DEFAULT).unwrap().into_iter().map(|lease| lease.name).collect()
        };
        assert_eq!(names(), ["one", "two"]);
        assert!(matches!(turn.remove(DEFAULT), Err(RegistryError::InUse { .. })));
        let (path, lock) = (one.path.clone(), one._lock.try_clone().unwrap());
        std::mem::forget(one);
        assert_eq!(names(), ["one", "two"], "as long as anybody holds it");
        // As the kernel does for one that is killed.
        flock(&lock, FlockOperation::Unlock).unwrap();
        assert_eq!(names(), ["two"]);
        assert!(!path.exists());
        let three = admit("three");
        assert_eq!(three.lease().ip4, Ipv4Addr::new(10, 190, 0, 2), "the lowest that is free");
        drop((two, three));
        assert_eq!(names(), [""; 0]);
        turn.leave().unwrap();
        assert!(!directory.path().join("networks").exists());
    }

    #[test]
    fn networks_are_made_apart_from_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::at(directory.path().join("a/networks"));
        let turn = registry.turn().unwrap();
        assert_eq!(turn.create("one", None).unwrap().words(), "10.190.1.0/24");
        assert_eq!(turn.create("two", Some("172.20.0.0/16")).unwrap().words(), "172.20.0.0/16");
        assert_eq!(turn.create("three", None).unwrap().words(), "10.190.3.0/24");
        let refusal = |name, subnet| turn.create(name, subnet).unwrap_err().to_string();
        assert_eq!(refusal("one", None), "a network named one exists already");
        let taken = "subnet 172.20.7.0/24 has addresses in common with network two";
        assert_eq!(refusal("four", Some("172.20.7.0/24")), taken);
        for subnet in ["10.1.2.3/24", "10.0.0.0/8", "10.1.2.0/30", "10.1.2.0", "fd00::/64"] {
            assert!(refusal("four", Some(subnet)).contains("is not an IPv4 network"), "{subnet}");
        }
        for name in ["", "../etc", "a b", "thirteen-char"] {
            assert!(refusal(name, None).contains("a name has 1 to 12"), "{name}");
        }
        let names: Vec<_> = turn.networks().unwrap().into_iter().map(|it| it.name).collect();
        assert_eq!(names, ["default", "one", "three", "two"]);
        turn.remove("one").unwrap();
        assert!(matches!(turn.remove("one"), Err(RegistryError::NotFound { .. })));
        assert!(matches!(turn.remove(DEFAULT), Err(RegistryError::Always)));
    }

    #[test]
    fn a_full_network_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::at(directory.path().to_owned());
        let turn = registry.turn().unwrap();
        let network = turn.create("small", Some("10.1.2.0/29")).unwrap();
        let members: Vec<_> =
            (0..5).map(|it| turn.admit(&network, &newcomer(&it.to_string())).unwrap()).collect();
        assert_eq!(members[4].lease().ip4, Ipv4Addr::new(10, 1, 2, 6));
        let full = turn.admit(&network, &newcomer("one more")).unwrap_err().to_string();
        assert_eq!(full, "no address left for network small");
    }
}
