use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use oci_spec::runtime::LinuxResources;
use proto::message::Request;
use serde_json::{Map, Value, json};

use super::{known, visited};
use crate::exit::Failure;
use crate::oci::bundle;
use crate::oci::cgroup::Group;
use crate::oci::resources::{self, GUEST_OVERHEAD_BYTES};
use crate::plan::limit_bytes;
use crate::settings::Settings;

#[derive(Args, Debug)]
#[command(allow_negative_numbers = true)]
pub(in crate::cli) struct Update {
    /// Read `linux.resources` from FILE, "-" for standard input; what stands there goes before options.
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Memory, in bytes, or with a unit as in 512m; -1 for no limit.
    #[arg(long, value_name = "BYTES", value_parser = limit_bytes)]
    memory: Option<i64>,
    /// Memory that is left to it when the guest runs short.
    #[arg(long, value_name = "BYTES", value_parser = limit_bytes)]
    memory_reservation: Option<i64>,
    /// Memory and swap together.
    #[arg(long, value_name = "BYTES", value_parser = limit_bytes)]
    memory_swap: Option<i64>,
    /// Processor time in a period, in microseconds; -1 for no limit.
    #[arg(long, value_name = "TIME")]
    cpu_quota: Option<i64>,
    /// The period, in microseconds.
    #[arg(long, value_name = "TIME")]
    cpu_period: Option<u64>,
    /// Share of processor time, 1024 is the usual one.
    #[arg(long, value_name = "SHARES")]
    cpu_share: Option<u64>,
    /// Time that may be saved up, in microseconds.
    #[arg(long, value_name = "TIME")]
    cpu_burst: Option<u64>,
    /// 1: only when nobody else wants the processor.
    #[arg(long, value_name = "0|1")]
    cpu_idle: Option<i64>,
    /// The host's processors that may be used.
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// The host's memory nodes that may be used.
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Processes; -1 for no limit.
    #[arg(long, value_name = "NUMBER")]
    pids_limit: Option<i64>,
    /// Weight of its input and output, 10 to 1000.
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// The container.
    id: String,
}

/// The VM is as large as it was made.
#[derive(Debug, thiserror::Error)]
#[error(
    "memory: the VM of container {id} has {vm_bytes} bytes, of which its container can have {most} as long as it runs"
)]
struct TooMuchMemory {
    id: String,
    vm_bytes: u64,
    most: u64,
}

impl Update {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        let asked = match &self.resources {
            None => self.options()?,
            Some(path) if path.as_os_str() == "-" => {
                let mut json = Vec::new();
                std::io::stdin().take(1 << 20).read_to_end(&mut json)?;
                serde_json::from_slice(&json)?
            }
            Some(path) => bundle::read::<LinuxResources>(path)?,
        };
        let known = known(settings, &self.id)?;
        // Of the host: what a guest says of its own limits is not believed.
        let group = known.oci.cgroup.as_ref();
        let cpu_max = group.map(Group::cpu_max).transpose()?.unwrap_or_default();
        let limits = resources::changes(&asked, &cpu_max)?;
        let container = visited(settings, &self.id)?;
        let vm_bytes = known.oci.ram_bytes;
        let most = vm_bytes.saturating_sub(GUEST_OVERHEAD_BYTES);
        if vm_bytes > 0 && limits.memory_bytes.is_some_and(|bytes| bytes > most) {
            return Err(TooMuchMemory { id: self.id, vm_bytes, most }.into());
        }
        if let Some(group) = group {
            group.set(&limits.host)?;
        }
        let name = container.record.name.to_string();
        container.ask(Request::WriteCgroup { container: name, values: limits.guest })?;
        Ok(0)
    }

    /// The options as `linux.resources` has them.
    fn options(&self) -> Result<LinuxResources, Failure> {
        let memory = object([
            ("limit", self.memory.map(Value::from)),
            ("reservation", self.memory_reservation.map(Value::from)),
            ("swap", self.memory_swap.map(Value::from)),
        ]);
        let cpu = object([
            ("quota", self.cpu_quota.map(Value::from)),
            ("period", self.cpu_period.map(Value::from)),
            ("shares", self.cpu_share.map(Value::from)),
            ("burst", self.cpu_burst.map(Value::from)),
            ("idle", self.cpu_idle.map(Value::from)),
            ("cpus", self.cpuset_cpus.clone().map(Value::from)),
            ("mems", self.cpuset_mems.clone().map(Value::from)),
        ]);
        let mut all = json!({ "memory": memory, "cpu": cpu });
        if let Some(limit) = self.pids_limit {
            all["pids"] = json!({ "limit": limit });
        }
        if let Some(weight) = self.blkio_weight {
            all["blockIO"] = json!({ "weight": weight });
        }
        Ok(serde_json::from_value(all)?)
    }
}

fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Map<String, Value> {
    let there = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    there.collect()
}
