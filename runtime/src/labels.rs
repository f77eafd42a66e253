//! Labels of the host's security modules (`process.apparmorProfile` and `selinuxLabel` of a bundle). The
//! VM's process is given them: it is what of a container the host has to be protected from.

use std::fs;
use std::io;
use std::path::Path;

/// Whether AppArmor is in the kernel and on.
const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";

/// What the calling thread executes next is told here (proc_pid_attr(5)); a module's own file goes
/// before the one for whichever module is the first.
const NEXT: [&str; 2] = ["/proc/thread-self/attr/apparmor/exec", "/proc/thread-self/attr/exec"];

/// The labels of a process. Nothing is no label of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    /// A profile of AppArmor.
    pub(crate) apparmor: Option<String>,
    /// A context of SELinux.
    pub(crate) selinux: Option<String>,
}

/// Why a process cannot have its labels.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LabelError {
    /// There is no AppArmor.
    #[error("process.apparmorProfile {profile}: AppArmor is not enabled on this host")]
    NoAppArmor {
        /// What should have been used.
        profile: String,
    },
    /// The module does not know it, or does not allow it.
    #[error("{field} {label}")]
    Refused {
        /// The field of `config.json`.
        field: &'static str,
        /// Its value.
        label: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Labels {
    /// There are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.apparmor.is_none() && self.selinux.is_none()
    }

    /// Gives them to what the calling thread executes next, and what its children do: the thread is
    /// best one that ends then.
    pub(crate) fn give_to_next(&self) -> Result<(), LabelError> {
        if let Some(profile) = &self.apparmor {
            if !fs::read(APPARMOR).is_ok_and(|word| word.starts_with(b"Y")) {
                return Err(LabelError::NoAppArmor { profile: profile.clone() });
            }
            let [own, any] = NEXT;
            let file = if Path::new(own).exists() { own } else { any };
            let refused = |source| LabelError::Refused {
                field: "process.apparmorProfile",
                label: profile.clone(),
                source,
            };
            fs::write(file, format!("exec {profile}")).map_err(refused)?;
        }
        if let Some(context) = &self.selinux {
            let refused = |source| LabelError::Refused {
                field: "process.selinuxLabel",
                label: context.clone(),
                source,
            };
            fs::write(NEXT[1], context).map_err(refused)?;
        }
        Ok(())
    }
}
