use std::os::fd::OwnedFd;

use clap::Args;
use proto::spec::{Preserved, Process};

use super::oci::{Added, FAILED_EXEC};
use crate::exit::Failure;
use crate::host;
use crate::oci;
use crate::oci::preserved;
use crate::oci::supervise::{self, Order, Streams};
use crate::plan::{self, Host};
use crate::relay::Front;
use crate::settings::Settings;
use crate::signals::Signals;
use crate::state::Root;
use crate::state::record::Record;
use crate::terminal::{self, Raw};
use crate::visit::Visited;
use crate::wishes::ProcessWishes;

#[derive(Args, Debug)]
pub(super) struct Exec {
    #[command(flatten)]
    process: ProcessWishes,
    #[command(flatten)]
    added: Added,
    /// The container's name, or the beginning of its id.
    name: String,
    /// The program and its arguments.
    #[arg(
        trailing_var_arg = true,
        required_unless_present = "process_file",
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

impl Exec {
    pub(super) fn call(self, settings: &Settings) -> Result<u8, Failure> {
        // Before anything of ours has one of their numbers.
        let preserved = preserved::take(self.added.preserve_fds)
            .map_err(|error| Failure { code: FAILED_EXEC, ..error.into() })?;
        let container = Visited::new(Root::open(&settings.root)?.find(&self.name)?)?;
        let bundled = container.record.oci.is_some();
        let end = self.run(settings, container, preserved);
        // runc's callers know one code for whatever went wrong.
        end.map_err(
            |failure| if bundled { Failure { code: FAILED_EXEC, ..failure } } else { failure },
        )
    }

    fn run(
        self,
        settings: &Settings,
        container: Visited,
        preserved: Vec<(Preserved, OwnedFd)>,
    ) -> Result<u8, Failure> {
        let bundled = container.record.oci.is_some();
        let host = host::facts(&self.process.env)?;
        let mut process = self.decide(&container.record, &host)?;
        process.preserved = preserved::kinds(&preserved);
        let exec = host.id.short().to_owned();
        let Added { detach, console_socket, pid_file, ignore_paused, .. } = &self.added;
        if *detach || console_socket.is_some() {
            let name = container.record.name.clone();
            let console_socket = console_socket.as_deref().map(std::path::absolute).transpose()?;
            let order = Order::Exec {
                settings: settings.clone(),
                name,
                process: Box::new(process),
                exec,
                console_socket,
                ignore_paused: *ignore_paused,
            };
            // A bundle's callers have made the streams that it is to have; of others nobody hears it any more.
            let streams = if *detach && !bundled { Streams::Null } else { Streams::Callers };
            let pid = supervise::start(&order, streams, &preserved)?;
            drop(preserved);
            super::oci::write_pid_file(pid_file.as_deref(), pid)?;
            return if *detach { Ok(0) } else { supervise::wait(pid) };
        }
        super::oci::write_pid_file(pid_file.as_deref(), std::process::id())?;
        // A bundle's callers say what the process has by what we have.
        let interactive = self.process.interactive || bundled;
        let signals = Signals::catch()?;
        let tty = matches!(process.stdio, proto::spec::Stdio::Terminal { .. });
        let talks = tty && interactive && terminal::on_stdin();
        let _raw = talks.then(Raw::enter).transpose()?;
        let container = container.waiting(*ignore_paused);
        let front = Front::Caller { interactive, preserved };
        Ok(container.exec(process, &exec, front, &signals, || ())?)
    }

    fn decide(&self, record: &Record, host: &Host) -> Result<Process, Failure> {
        let first = &record.process;
        let mut process = match &self.added.process_file {
            Some(path) => {
                let asked = oci::bundle::process(path)?;
                let process = oci::process(&asked, host.terminal)?;
                let Process { seccomp, personality, .. } = first.clone();
                Process { seccomp, personality, ..process }
            }
            None => plan::exec(first, &self.process, &self.command, host)?,
        };
        if let (Some(_), proto::spec::Stdio::Pipes { stdin, .. }) =
            (&record.oci, &mut process.stdio)
        {
            *stdin = true;
        }
        self.added.apply(&mut process);
        Ok(process)
    }
}
