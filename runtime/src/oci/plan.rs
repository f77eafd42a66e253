//! `config.json` judged: a pure function from a bundle and the host's facts to everything that will be
//! done. Nothing in it is dropped silently: `docs/oci.md` has the table.

use std::fmt::Display;
use std::path::PathBuf;

use oci_spec::runtime::{self, Linux, LinuxNamespaceType, LinuxPersonalityDomain, Spec};
use proto::spec::{Container, Hook, Namespace, Root};
use vmm::spec::{MAX_VCPUS, MIN_RAM_BYTES, RAM_STEP_BYTES};

use super::bundle::Bundle;
use super::mounts;
use super::process::{labels, process, same};
use super::resources::{self, GUEST_OVERHEAD_BYTES, Limits};
use crate::bpf;
use crate::plan::{Host, Plan, ROOT, USUAL_RAM_BYTES};
use crate::state::record::Name;

/// The least memory of a VM, however small its container's limit.
const LEAST_RAM_BYTES: u64 = if MIN_RAM_BYTES > 128 << 20 { MIN_RAM_BYTES } else { 128 << 20 };

/// A field that cannot be honoured, by its name in `config.json`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(String);

impl Refused {
    pub(super) fn new(field: impl Display, why: &str) -> Self {
        Self(format!("{field} {why}"))
    }

    /// An error that has the field's name in it already.
    fn named(error: impl Display) -> Self {
        Self(error.to_string())
    }
}

/// The network namespace that a VM's processes are in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// One of its own, empty.
    New,
    /// Somebody else's.
    At(PathBuf),
}

/// Hooks, by the moment they belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hooks {
    /// `prestart` and then `createRuntime`, in the caller's namespaces.
    pub(crate) create_runtime: Vec<Hook>,
    /// `createContainer`, in the VM's namespaces on the host.
    pub(crate) create_container: Vec<Hook>,
    /// In the caller's namespaces once the container runs.
    pub(crate) poststart: Vec<Hook>,
    /// In the caller's namespaces once it is deleted.
    pub(crate) poststop: Vec<Hook>,
}

/// A bundle, decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decided {
    /// The container and its VM.
    pub(crate) plan: Plan,
    /// Where the VM's processes are on the network.
    pub(crate) network: Network,
    /// `linux.cgroupsPath`.
    pub(crate) cgroups_path: Option<PathBuf>,
    /// What the VM's processes may use of the host.
    pub(crate) limits: Limits,
    /// What others want to do on the way.
    pub(crate) hooks: Hooks,
}

/// Decides everything about a container called `name`.
pub(crate) fn decide(bundle: &Bundle, name: Name, host: &Host) -> Result<Decided, Refused> {
    let spec = &bundle.spec;
    refuse_other_systems(spec)?;
    let root = spec.root().as_ref().ok_or_else(|| Refused::new("root", "is missing"))?;
    let linux = spec.linux().clone().unwrap_or_default();
    refuse_unsupported(&linux)?;
    let (namespaces, network) = namespaces(&linux)?;
    let (mounts, lent) =
        mounts::mounts(spec.mounts().as_deref().unwrap_or_default(), &bundle.path)?;
    let limits = match linux.resources() {
        Some(resources) => resources::limits(resources)?,
        None => Limits::default(),
    };
    let asked = spec.process().as_ref().ok_or_else(|| Refused::new("process", "is missing"))?;
    let labels = labels(asked);
    let mut process = process(asked, host.terminal)?;
    process.seccomp = linux.seccomp().as_ref().map(seccomp).transpose()?;
    process.personality = linux.personality().as_ref().map(personality).transpose()?;
    let mut hooks = Hooks::default();
    let mut start_hooks = Vec::new();
    if let Some(asked) = spec.hooks() {
        hooks.create_runtime = hook_list(asked.prestart());
        hooks.create_runtime.extend(hook_list(asked.create_runtime()));
        hooks.create_container = hook_list(asked.create_container());
        hooks.poststart = hook_list(asked.poststart());
        hooks.poststop = hook_list(asked.poststop());
        start_hooks = hook_list(asked.start_container());
    }
    let uts = namespaces.contains(&Namespace::Uts);
    for (field, value) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        if value.as_ref().is_some_and(|name| !name.is_empty()) && !uts {
            return Err(Refused::new(field, "needs a uts namespace"));
        }
    }
    let named = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    let container = Container {
        root: Root::Share { name: ROOT.to_owned() },
        readonly: root.readonly().unwrap_or(false),
        hostname: named(spec.hostname()),
        domainname: named(spec.domainname()),
        mounts,
        masked_paths: paths(linux.masked_paths()),
        readonly_paths: paths(linux.readonly_paths()),
        sysctl: sorted(linux.sysctl()),
        namespaces,
        uid_mappings: same("linux.uidMappings", &linux.uid_mappings().clone().unwrap_or_default())?,
        gid_mappings: same("linux.gidMappings", &linux.gid_mappings().clone().unwrap_or_default())?,
        time_offsets: time_offsets(&linux),
        devices: same("linux.devices", &linux.devices().clone().unwrap_or_default())?,
        device_program: device_program(&linux)?,
        cgroup: limits.guest.clone(),
        root_propagation: linux.rootfs_propagation().clone().filter(|word| !word.is_empty()),
        start_hooks,
        process,
    };
    let root = mounts::root(bundle.path.join(root.path()));
    Ok(Decided {
        plan: Plan {
            storage: None,
            id: host.id.clone(),
            name,
            vcpus: vcpus(&limits),
            ram_bytes: ram_bytes(&limits, host.memory_bytes),
            container,
            shares: [vec![root], lent].concat(),
            volumes: vec![],
            stop_signal: 15,
            labels,
            network: None,
        },
        network,
        cgroups_path: linux.cgroups_path().clone(),
        limits,
        hooks,
    })
}

fn refuse_other_systems(spec: &Spec) -> Result<(), Refused> {
    if !spec.version().starts_with("1.") {
        return Err(Refused::new("ociVersion", &format!("is {:?}, not 1.x", spec.version())));
    }
    let others = [
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("zos", spec.zos().is_some()),
        ("vm", spec.vm().is_some()),
        ("uidMappings", spec.uid_mappings().is_some()),
        ("gidMappings", spec.gid_mappings().is_some()),
    ];
    match others.into_iter().find(|(_, there)| *there) {
        Some((field, _)) => Err(Refused::new(field, "is not supported")),
        None => Ok(()),
    }
}

fn refuse_unsupported(linux: &Linux) -> Result<(), Refused> {
    let there = [
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.memoryPolicy", linux.memory_policy().is_some()),
        ("linux.netDevices", linux.net_devices().as_ref().is_some_and(|map| !map.is_empty())),
    ];
    match there.into_iter().find(|(_, there)| *there) {
        Some((field, _)) => Err(Refused::new(field, "is not supported")),
        None => Ok(()),
    }
}

/// Those of the guest, and the one that is the host's.
fn namespaces(linux: &Linux) -> Result<(Vec<Namespace>, Network), Refused> {
    let (mut inside, mut network) = (Vec::new(), None);
    for namespace in linux.namespaces().iter().flatten() {
        let path = namespace.path().as_ref();
        let kind = match namespace.typ() {
            LinuxNamespaceType::Network => {
                let asked = path.map_or(Network::New, |path| Network::At(path.clone()));
                if network.replace(asked).is_some() {
                    return Err(Refused::new("linux.namespaces", "names network twice"));
                }
                continue;
            }
            LinuxNamespaceType::Pid => Namespace::Pid,
            LinuxNamespaceType::Mount => Namespace::Mount,
            LinuxNamespaceType::Ipc => Namespace::Ipc,
            LinuxNamespaceType::Uts => Namespace::Uts,
            LinuxNamespaceType::Cgroup => Namespace::Cgroup,
            LinuxNamespaceType::User => Namespace::User,
            LinuxNamespaceType::Time => Namespace::Time,
        };
        if path.is_some() {
            let why = "is the host's, and a guest's processes cannot join it";
            return Err(Refused::new(format!("linux.namespaces[{}].path", namespace.typ()), why));
        }
        if inside.contains(&kind) {
            let why = format!("names {} twice", namespace.typ());
            return Err(Refused::new("linux.namespaces", &why));
        }
        inside.push(kind);
    }
    let network = network.ok_or_else(|| {
        let why = "has no network namespace, and a guest cannot be on the host's network itself";
        Refused::new("linux.namespaces", why)
    })?;
    Ok((inside, network))
}

fn personality(asked: &runtime::LinuxPersonality) -> Result<u32, Refused> {
    if asked.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(Refused::new("linux.personality.flags", "are not supported"));
    }
    Ok(match asked.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}

fn seccomp(asked: &runtime::LinuxSeccomp) -> Result<proto::spec::Seccomp, Refused> {
    bpf::seccomp::compile(asked).map_err(Refused::named)
}

fn device_program(linux: &Linux) -> Result<Vec<u64>, Refused> {
    let rules = linux.resources().as_ref().and_then(|resources| resources.devices().as_deref());
    match rules {
        None | Some([]) => Ok(vec![]),
        Some(rules) => bpf::devices::compile(rules).map_err(Refused::named),
    }
}

fn time_offsets(linux: &Linux) -> Vec<(String, i64, u32)> {
    let offsets = linux.time_offsets().iter().flatten();
    let mut offsets: Vec<_> = offsets
        .map(|(clock, by)| (clock.clone(), by.secs().unwrap_or(0), by.nanosecs().unwrap_or(0)))
        .collect();
    offsets.sort();
    offsets
}

fn paths(asked: &Option<Vec<String>>) -> Vec<PathBuf> {
    asked.iter().flatten().map(PathBuf::from).collect()
}

fn sorted(asked: &Option<std::collections::HashMap<String, String>>) -> Vec<(String, String)> {
    let mut pairs: Vec<_> = asked.clone().unwrap_or_default().into_iter().collect();
    pairs.sort();
    pairs
}

fn hook_list(asked: &Option<Vec<runtime::Hook>>) -> Vec<Hook> {
    let hook = |hook: &runtime::Hook| Hook {
        path: hook.path().clone(),
        args: hook.args().clone().unwrap_or_default(),
        env: hook.env().clone(),
        timeout: hook.timeout().and_then(|seconds| u32::try_from(seconds).ok()),
        state: String::new(),
    };
    asked.iter().flatten().map(hook).collect()
}

/// A VM has whole processors: what a quota makes, rounded up.
fn vcpus(limits: &Limits) -> u8 {
    let wanted = limits.processors.unwrap_or(1).clamp(1, u64::from(MAX_VCPUS));
    u8::try_from(wanted).unwrap_or(MAX_VCPUS)
}

/// What a limit leaves room for is the container's: the guest's own needs come on top.
fn ram_bytes(limits: &Limits, host_bytes: u64) -> u64 {
    let wanted = match limits.memory_bytes {
        Some(limit) => limit.saturating_add(GUEST_OVERHEAD_BYTES).max(LEAST_RAM_BYTES),
        None => USUAL_RAM_BYTES,
    };
    let most = (host_bytes - host_bytes % RAM_STEP_BYTES).max(LEAST_RAM_BYTES);
    wanted.min(most).next_multiple_of(RAM_STEP_BYTES)
}

#[cfg(test)]
mod tests;
