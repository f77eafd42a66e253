//! The five capability sets of a process.

use proto::spec::Capabilities;
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
};

/// Every name of the OCI specification, in the order of the kernel's numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A name that is no capability.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("process.capabilities.{set}: \"{name}\" is no capability")]
pub(crate) struct UnknownCapability {
    set: &'static str,
    name: String,
}

/// The five sets as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sets {
    bounding: CapabilitySet,
    ambient: CapabilitySet,
    rest: CapabilitySets,
}

impl Sets {
    /// Reads the names.
    pub(crate) fn parse(spec: &Capabilities) -> Result<Self, UnknownCapability> {
        Ok(Self {
            bounding: bits("bounding", &spec.bounding)?,
            ambient: bits("ambient", &spec.ambient)?,
            rest: CapabilitySets {
                effective: bits("effective", &spec.effective)?,
                permitted: bits("permitted", &spec.permitted)?,
                inheritable: bits("inheritable", &spec.inheritable)?,
            },
        })
    }

    /// Takes from the bounding set what is not in it. Needs `CAP_SETPCAP`, so it comes before the
    /// user changes.
    pub(crate) fn bound(&self) -> Result<(), Errno> {
        for number in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            if self.bounding.contains(capability) {
                continue;
            }
            match capability_is_in_bounding_set(capability) {
                Ok(true) => remove_capability_from_bounding_set(capability)?,
                Ok(false) => {}
                // Past the last one this kernel knows.
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Puts the other four in force, after the user has changed, and leaves those in `besides` in
    /// force as well until [`Self::settle`].
    pub(crate) fn apply(&self, besides: CapabilitySet) -> Result<(), Errno> {
        let CapabilitySets { effective, permitted, inheritable } = self.rest;
        set_capabilities(
            None,
            CapabilitySets {
                effective: effective | besides,
                permitted: permitted | besides,
                inheritable,
            },
        )?;
        clear_ambient_capability_set()?;
        // The kernel has no others, and bundles ask for more: `runc spec` writes ambient ones that
        // are not inheritable, and runc goes without them.
        for capability in (self.ambient & permitted & inheritable).iter() {
            configure_capability_in_ambient_set(capability, true)?;
        }
        Ok(())
    }

    /// Leaves nothing in force but what was asked for.
    pub(crate) fn settle(&self) -> Result<(), Errno> {
        set_capabilities(None, self.rest)
    }
}

fn bits(set: &'static str, names: &[String]) -> Result<CapabilitySet, UnknownCapability> {
    names.iter().try_fold(CapabilitySet::empty(), |bits, name| {
        let short = name.strip_prefix("CAP_").unwrap_or(name);
        match NAMES.iter().position(|known| *known == short) {
            Some(number) => Ok(bits | CapabilitySet::from_bits_retain(1 << number)),
            None => Err(UnknownCapability { set, name: name.clone() }),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_the_kernels_numbers() {
        let all: Vec<String> = NAMES.iter().map(|name| format!("CAP_{name}")).collect();
        assert_eq!(bits("bounding", &all).unwrap().bits(), (1 << 41) - 1);
        let one = |name: &str| bits("bounding", &[name.to_owned()]).unwrap();
        assert_eq!(one("CAP_CHOWN"), CapabilitySet::CHOWN);
        assert_eq!(one("CAP_SYS_ADMIN"), CapabilitySet::SYS_ADMIN);
        assert_eq!(one("CAP_CHECKPOINT_RESTORE"), CapabilitySet::CHECKPOINT_RESTORE);
    }

    #[test]
    fn an_unknown_name_is_named_with_its_set() {
        let spec = Capabilities { ambient: vec!["CAP_FLY".into()], ..Capabilities::default() };
        assert_eq!(
            Sets::parse(&spec).unwrap_err().to_string(),
            "process.capabilities.ambient: \"CAP_FLY\" is no capability"
        );
    }
}
