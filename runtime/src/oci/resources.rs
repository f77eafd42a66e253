//! `linux.resources`: what it makes of the VM, of its cgroup on the host and of the container's own
//! cgroup in the guest. All values are version 2's, whose files both sides have.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::plan::Refused;

/// Files of a cgroup and what is written to them, in order.
pub(crate) type Values = Vec<(String, String)>;

/// What a limited container's VM has beside the limit: its kernel, its agent, page tables.
pub(crate) const GUEST_OVERHEAD_BYTES: u64 = 96 << 20;

/// What a VM's processes on the host need beside the guest's memory.
pub(crate) const HOST_OVERHEAD_BYTES: u64 = 64 << 20;

/// Microseconds of `cpu.max` where nobody has said others (Linux, "Control Group v2").
const USUAL_PERIOD: u64 = 100_000;

/// Limits, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// For the container's cgroup in the guest.
    pub(crate) guest: Values,
    /// For the VM's cgroup on the host, but for its memory, which follows from the VM's.
    pub(crate) host: Values,
    /// The container's memory, if it is limited.
    pub(crate) memory_bytes: Option<u64>,
    /// Processors' worth of time, if it is limited, rounded up.
    pub(crate) processors: Option<u64>,
}

/// Takes `asked` apart; what nobody can do is refused by name.
pub(crate) fn limits(asked: &LinuxResources) -> Result<Limits, Refused> {
    changes(asked, "")
}

/// The same for a container that has limits. Two of them share a file, whose text is `cpu_max` now: the
/// one that is not asked for stays.
pub(crate) fn changes(asked: &LinuxResources, cpu_max: &str) -> Result<Limits, Refused> {
    let mut limits = Limits::default();
    if let Some(memory) = asked.memory() {
        memory_limits(memory, &mut limits)?;
    }
    if let Some(cpu) = asked.cpu() {
        cpu_limits(cpu, cpu_max, &mut limits)?;
    }
    if let Some(pids) = asked.pids() {
        limits.guest.push(("pids.max".to_owned(), or_max(pids.limit())));
    }
    if let Some(io) = asked.block_io() {
        io_limits(io, &mut limits)?;
    }
    for huge in asked.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.max", huge.page_size());
        limits.guest.push((file, or_max(huge.limit())));
    }
    let network = asked.network().as_ref();
    if network.is_some_and(|it| it.class_id().is_some() || it.priorities().is_some()) {
        return Err(Refused::new("linux.resources.network", "is for cgroups of version 1"));
    }
    if asked.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty()) {
        return Err(Refused::new("linux.resources.rdma", "is not supported: guests have no RDMA"));
    }
    let mut unified: Values = asked.unified().clone().unwrap_or_default().into_iter().collect();
    unified.sort();
    unified.into_iter().for_each(|value| unified_limit(value, &mut limits));
    Ok(limits)
}

/// A file by its name goes where the field for the same goes.
fn unified_limit((file, value): (String, String), limits: &mut Limits) {
    match file.as_str() {
        "memory.max" => limits.memory_bytes = value.trim().parse().ok(),
        "cpu.max" => limits.processors = processors(&value),
        _ => {}
    }
    let is_of = |controller: &str| file.starts_with(controller);
    if is_of("cpuset.") || is_of("io.") {
        limits.host.push((file, value));
        return;
    }
    if is_of("cpu.") {
        limits.host.push((file.clone(), value.clone()));
    }
    limits.guest.push((file, value));
}

/// How many processors a `cpu.max` makes. A period that is not said is the kernel's usual one.
fn processors(max: &str) -> Option<u64> {
    let mut words = max.split_whitespace().map(str::parse::<u64>);
    let quota = words.next()?.ok()?;
    let period = words.next().and_then(Result::ok).filter(|period| *period > 0);
    Some(quota.div_ceil(period.unwrap_or(USUAL_PERIOD)))
}

fn memory_limits(memory: &LinuxMemory, limits: &mut Limits) -> Result<(), Refused> {
    let refused = |field, why| Err(Refused::new(format!("linux.resources.memory.{field}"), why));
    let version_1 = "is for cgroups of version 1";
    if memory.swappiness().is_some() {
        return refused("swappiness", version_1);
    }
    if memory.kernel().is_some_and(|bytes| bytes > 0) {
        return refused("kernel", version_1);
    }
    if memory.kernel_tcp().is_some_and(|bytes| bytes > 0) {
        return refused("kernelTCP", version_1);
    }
    if memory.disable_oom_killer() == Some(true) {
        return refused("disableOOMKiller", version_1);
    }
    if let Some(limit) = memory.limit() {
        limits.memory_bytes = u64::try_from(limit).ok().filter(|bytes| *bytes > 0);
        if limit != 0 {
            limits.guest.push(("memory.max".to_owned(), or_max(limit)));
        }
    }
    if let Some(low) = memory.reservation().filter(|low| *low != 0) {
        limits.guest.push(("memory.low".to_owned(), or_max(low)));
    }
    // The sum of both in the specification, swap alone in the kernel. A guest has no swap to limit,
    // but what is said must make sense.
    match (memory.swap(), memory.limit()) {
        (Some(swap @ 1..), Some(limit)) if swap < limit => {
            refused("swap", "is less than memory.limit, and counts it")
        }
        (Some(1..), None) => refused("swap", "needs memory.limit beside it"),
        _ => Ok(()),
    }
}

fn cpu_limits(cpu: &LinuxCpu, cpu_max: &str, limits: &mut Limits) -> Result<(), Refused> {
    let refused = |field, why| Err(Refused::new(format!("linux.resources.cpu.{field}"), why));
    if cpu.realtime_runtime().is_some_and(|time| time != 0)
        || cpu.realtime_period().is_some_and(|time| time != 0)
    {
        return refused("realtimeRuntime", "is for cgroups of version 1");
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        let weight = weight(shares);
        limits.guest.push(("cpu.weight".to_owned(), weight.clone()));
        limits.host.push(("cpu.weight".to_owned(), weight));
    }
    if let Some(idle) = cpu.idle() {
        limits.guest.push(("cpu.idle".to_owned(), idle.to_string()));
        limits.host.push(("cpu.idle".to_owned(), idle.to_string()));
    }
    if cpu.quota().is_some() || cpu.period().is_some() {
        let (quota_now, period_now) = cpu_max.split_once(' ').unwrap_or(("max", ""));
        // As in all of `linux.resources`, 0 is what is not said, and less than that no limit.
        let quota = match cpu.quota().unwrap_or(0) {
            0 => quota_now.to_owned(),
            quota => or_max(quota),
        };
        let period = cpu.period().filter(|period| *period != 0);
        let period = period.or(period_now.parse().ok()).unwrap_or(USUAL_PERIOD);
        let max = format!("{quota} {period}");
        limits.processors = processors(&max);
        limits.guest.push(("cpu.max".to_owned(), max.clone()));
        limits.host.push(("cpu.max".to_owned(), max));
    }
    if let Some(burst) = cpu.burst() {
        // The host's quota would take away what the guest's saves up.
        limits.guest.push(("cpu.max.burst".to_owned(), burst.to_string()));
        limits.host.push(("cpu.max.burst".to_owned(), burst.to_string()));
    }
    // They are the host's processors and memory nodes, not the guest's.
    for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            limits.host.push((file.to_owned(), list.clone()));
        }
    }
    Ok(())
}

/// They are the host's devices: the guest's files are read and written by a process of the host.
fn io_limits(io: &LinuxBlockIo, limits: &mut Limits) -> Result<(), Refused> {
    if io.leaf_weight().is_some() {
        let field = "linux.resources.blockIO.leafWeight";
        return Err(Refused::new(field, "is for cgroups of version 1"));
    }
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        // 10 to 1000 in the specification, 1 to 10,000 in the kernel.
        let weight = 1 + (u32::from(weight).saturating_sub(10)) * 9999 / 990;
        limits.host.push(("io.weight".to_owned(), format!("default {weight}")));
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight() {
            let line = format!("{}:{} {weight}", device.major(), device.minor());
            limits.host.push(("io.bfq.weight".to_owned(), line));
        }
    }
    let throttles: [(&str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ];
    for (what, devices) in throttles {
        for device in devices.iter().flatten() {
            let line = format!("{}:{} {what}={}", device.major(), device.minor(), device.rate());
            limits.host.push(("io.max".to_owned(), line));
        }
    }
    Ok(())
}

/// Shares of version 1, 2 to 262,144, as a weight of version 2, 1 to 10,000.
fn weight(shares: u64) -> String {
    (1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142).to_string()
}

fn or_max(limit: i64) -> String {
    if limit > 0 { limit.to_string() } else { "max".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(json: &str) -> Result<Limits, Refused> {
        limits(&serde_json::from_str(json).unwrap())
    }

    fn values(list: &[(&str, &str)]) -> Values {
        list.iter().map(|(file, value)| (file.to_string(), value.to_string())).collect()
    }

    #[test]
    fn a_container_sees_its_limits_and_the_host_keeps_them() {
        let limits = take(
            r#"{"memory":{"limit":67108864,"reservation":1048576,"swap":134217728},
                "cpu":{"shares":1024,"quota":150000,"period":100000,"burst":9,"cpus":"0-1"},
                "pids":{"limit":20},
                "blockIO":{"weight":10,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":600}]},
                "unified":{"memory.high":"1000"}}"#,
        )
        .unwrap();
        let guest = [
            ("memory.max", "67108864"),
            ("memory.low", "1048576"),
            ("cpu.weight", "39"),
            ("cpu.max", "150000 100000"),
            ("cpu.max.burst", "9"),
            ("pids.max", "20"),
            ("memory.high", "1000"),
        ];
        assert_eq!(limits.guest, values(&guest));
        let host = [
            ("cpu.weight", "39"),
            ("cpu.max", "150000 100000"),
            ("cpu.max.burst", "9"),
            ("cpuset.cpus", "0-1"),
            ("io.weight", "default 1"),
            ("io.max", "8:0 rbps=600"),
        ];
        assert_eq!(limits.host, values(&host));
        assert_eq!((limits.memory_bytes, limits.processors), (Some(64 << 20), Some(2)));
    }

    #[test]
    fn a_limit_by_the_name_of_its_file_is_the_same_as_by_its_field() {
        let limits = take(
            r#"{"unified":{"memory.max":"67108864","cpu.max":"150000 100000","cpu.weight":"16",
                "cpuset.cpus":"0","io.weight":"default 5","pids.max":"9"}}"#,
        )
        .unwrap();
        let guest = [
            ("cpu.max", "150000 100000"),
            ("cpu.weight", "16"),
            ("memory.max", "67108864"),
            ("pids.max", "9"),
        ];
        assert_eq!(limits.guest, values(&guest));
        let host = [
            ("cpu.max", "150000 100000"),
            ("cpu.weight", "16"),
            ("cpuset.cpus", "0"),
            ("io.weight", "default 5"),
        ];
        assert_eq!(limits.host, values(&host));
        assert_eq!((limits.memory_bytes, limits.processors), (Some(64 << 20), Some(2)));
        let none = take(r#"{"unified":{"memory.max":"max","cpu.max":"max 5000"}}"#).unwrap();
        assert_eq!((none.memory_bytes, none.processors), (None, None));
        let usual = take(r#"{"unified":{"cpu.max":"250000"}}"#).unwrap();
        assert_eq!(usual.processors, Some(3));
    }

    #[test]
    fn half_of_a_quota_can_be_changed_and_the_other_half_stays() {
        let change = |json: &str, now: &str| {
            let limits = changes(&serde_json::from_str(json).unwrap(), now).unwrap();
            assert_eq!(limits.guest, limits.host);
            limits.host.into_iter().next().unwrap_or_default().1
        };
        let now = "500000 1000000";
        assert_eq!(change(r#"{"cpu":{"period":900000}}"#, now), "500000 900000");
        assert_eq!(change(r#"{"cpu":{"quota":600000}}"#, now), "600000 1000000");
        assert_eq!(change(r#"{"cpu":{"quota":-1}}"#, now), "max 1000000");
        assert_eq!(change(r#"{"cpu":{"period":50000}}"#, "max 100000"), "max 50000");
        assert_eq!(change(r#"{"cpu":{"shares":2}}"#, now), "1");
    }

    #[test]
    fn no_limit_is_max_and_not_a_small_vm() {
        let limits =
            take(r#"{"memory":{"limit":-1},"cpu":{"quota":-1},"pids":{"limit":-1}}"#).unwrap();
        let guest = [("memory.max", "max"), ("cpu.max", "max 100000"), ("pids.max", "max")];
        assert_eq!(limits.guest, values(&guest));
        assert_eq!((limits.memory_bytes, limits.processors), (None, None));
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_its_field() {
        for (json, field) in [
            (r#"{"memory":{"swappiness":10}}"#, "linux.resources.memory.swappiness"),
            (r#"{"memory":{"limit":10,"swap":5}}"#, "linux.resources.memory.swap"),
            (r#"{"cpu":{"realtimeRuntime":10}}"#, "linux.resources.cpu.realtimeRuntime"),
            (r#"{"network":{"classID":10}}"#, "linux.resources.network"),
            (r#"{"rdma":{"mlx":{"hcaHandles":1}}}"#, "linux.resources.rdma"),
            (r#"{"blockIO":{"leafWeight":10}}"#, "linux.resources.blockIO.leafWeight"),
        ] {
            let said = take(json).unwrap_err().to_string();
            assert!(said.starts_with(field), "{said}");
        }
    }
}
