//! Why this runtime is behind another one, where it is.

/// A reason for one test, or for all of a case.
pub(super) struct Exception {
    /// The suite's name.
    pub(super) suite: &'static str,
    /// The test's, or the case's for all of its tests that are behind.
    pub(super) test: &'static str,
    /// A fact, as a person reads it in the table.
    pub(super) reason: &'static str,
}

/// Suite and test of those that pass or fail by chance, on any runtime: that nobody is behind in one says nothing.
pub(super) static RACES: &[(&str, &str)] = &[("runtime-tools", "poststart")];

const NO_HOST_NETWORK: &str = "a container without a network namespace would be on the host's network, where \
    a guest cannot be: `create` refuses it";

// Told apart by where they stand: one place for all who look.
pub(super) static EXCEPTIONS: &[Exception] = &[
    Exception { suite: "runtime-tools", test: "linux_ns_itype", reason: NO_HOST_NETWORK },
    Exception {
        suite: "runtime-tools",
        test: "linux_ns_nopath",
        reason: "looks at the namespaces of a process of the host: what the container has for itself \
            is the guest's, and the process is the supervisor",
    },
    Exception {
        suite: "runtime-tools",
        test: "linux_ns_path",
        reason: "a guest's processes cannot join the host's namespaces: all paths but the network's \
            are refused",
    },
    Exception {
        suite: "runtime-tools",
        test: "hooks_stdin",
        reason: "prestart hooks hear that the container is `creating`, as they do from runc",
    },
    Exception {
        suite: "runtime-tools",
        test: "mounts",
        reason: "looks a bind up by the host's path in `/proc/self/mountinfo`, where a guest has the \
            place in its share",
    },
    Exception {
        suite: "runtime-tools",
        test: "poststart",
        reason: "its hook and its process write to one file, and the process has been executed when the hook \
            runs: which of them writes first is a race",
    },
    Exception {
        suite: "runtime-tools",
        test: "poststart_fail",
        reason: "a poststart hook that fails ends the container, as with runc and as contest's \
            `poststart_fail` wants it",
    },
    Exception {
        suite: "runtime-tools",
        test: "start",
        reason: "a bundle without a process is refused by `create` and not by `start`, as with runc",
    },
    Exception { suite: "contest", test: "ns_itype", reason: NO_HOST_NETWORK },
    Exception {
        suite: "contest",
        test: "root_readonly::root_readonly_true_in_userns_test",
        reason: NO_HOST_NETWORK,
    },
    Exception {
        suite: "contest",
        test: "exec::mount_test",
        reason: "looks for a mask over `/proc/acpi`: the guest's kernel has no ACPI, and nothing there to mask",
    },
    Exception {
        suite: "contest",
        test: "net_devices::back_device",
        reason: "`linux.netDevices` is refused by name; runc does not know the field and passes over it",
    },
    Exception {
        suite: "contest",
        test: "hooks",
        reason: "its startContainer hooks fail, because they write to the host's path from inside the \
            container; the specification has `start` fail then, and runc goes on",
    },
    Exception {
        suite: "contest",
        test: "memory_policy::default_with_missing_nodes_ok",
        reason: "`linux.memoryPolicy` is refused by name; runc does not know the field and passes over it",
    },
    Exception {
        suite: "contest",
        test: "seccomp_notify",
        reason: "the listener would get a descriptor of the guest's kernel: `SCMP_ACT_NOTIFY` is refused",
    },
    Exception {
        suite: "contest",
        test: "update",
        reason: "reads the cgroup on the host, which holds the VM: its `memory.max` is the limit and what \
            the VM needs, and the limit of processes is the guest's",
    },
];
