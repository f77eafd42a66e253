//! The command line: arguments → struct → one call into the engine. One file per verb.

mod commit;
mod cp;
mod diff;
mod doctor;
mod exec;
mod export;
mod history;
mod images;
mod inspect;
mod kill;
mod load;
mod logs;
mod network;
mod oci;
mod progress;
mod prune;
mod ps;
mod pull;
mod restart;
mod rm;
mod rmi;
mod run;
mod save;
mod stop;
mod tag;
mod template;
mod version;
mod volume;
mod wait;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf, absolute};
use std::time::SystemTime;

use clap::{Parser, Subcommand, ValueEnum};

use crate::exit::Failure;
use crate::settings::{self, BootFile, Settings};
use crate::state::Root;
use crate::visit::Visited;

/// Runs OCI containers, each in a virtual machine of its own.
#[derive(Parser, Debug)]
#[command(name = "microvm", version, disable_help_subcommand = true)]
struct Cli {
    /// Keep the state of containers in DIR. [default: /run/microvm, or $XDG_RUNTIME_DIR/microvm]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Keep images in DIR. [default: /var/lib/microvm, or $XDG_DATA_HOME/microvm]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Boot guests from this kernel. [default: $MICROVM_KERNEL, or vmlinux beside this program or in
    /// /usr/local/lib/microvm or /usr/lib/microvm]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Boot guests with this initramfs. [default: $MICROVM_INITRAMFS, or initramfs.cpio in the same
    /// places]
    #[arg(long, value_name = "FILE")]
    initramfs: Option<PathBuf>,
    /// Show what the guest's kernel says.
    #[arg(long)]
    debug: bool,
    /// Write where the time of a run went to FILE, as JSON lines.
    #[arg(long, value_name = "FILE")]
    timeline: Option<PathBuf>,
    /// Write errors to FILE, too.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// How: text or json.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Have systemd make cgroups: linux.cgroupsPath is SLICE:PREFIX:NAME.
    #[arg(long)]
    systemd_cgroup: bool,
    /// Boot the VM, instead of going on from one that was booted before.
    #[arg(long)]
    no_template: bool,
    /// For other runtimes: true, false or auto.
    #[arg(long, value_name = "WORD", default_value = "auto")]
    rootless: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum LogFormat {
    Text,
    Json,
}

// A verb's options are put together when it is the one: all of them together take a millisecond of every start.
// What the help says of it stands here, and no struct of options says anything: its words would take that place.
#[derive(Subcommand, Debug)]
#[command(defer = true)]
enum Verb {
    /// Run a container from an image, a directory or a bundle.
    Run(Box<run::Run>),
    /// Run another program in a running container.
    Exec(exec::Exec),
    /// List containers, or the processes of one.
    Ps(ps::Ps),
    /// Print what a container in the background has written, each stream to its own.
    Logs(logs::Logs),
    /// Wait until containers have ended, and print their exit codes.
    Wait(wait::Wait),
    /// Send a signal to containers.
    Kill(kill::Kill),
    /// Ask running containers to end, and end them if they do not.
    Stop(stop::Stop),
    /// Stop containers that run, and start them again.
    Restart(restart::Restart),
    /// Remove ended containers.
    Rm(rm::Rm),
    /// Copy files between a running container and this machine.
    Cp(cp::Cp),
    /// List what a running container has changed in its image: A for added, C for changed, D for deleted.
    Diff(diff::Diff),
    /// Write a running container's root file system as a tar archive, without what is mounted in it.
    Export(export::Export),
    /// Make an image of a running container: of its image and what it has changed in it. It runs on meanwhile.
    Commit(commit::Commit),
    /// Pull images from registries.
    Pull(pull::Pull),
    /// Load images from an OCI layout or archive, or from what `docker save` writes.
    Load(load::Load),
    /// Save images as an archive for other tools.
    Save(save::Save),
    /// List images.
    Images(images::Images),
    /// Show what is known of images, as JSON.
    Inspect(inspect::Inspect),
    /// Show how an image was made, the last step first.
    History(history::History),
    /// Give an image one more name.
    Tag(tag::Tag),
    /// Remove images' names, and images with their last name.
    Rmi(rmi::Rmi),
    /// Remove images that have lost their names, what is left of pulls, and disks of containers that are gone. What a
    /// container uses stays.
    Prune(prune::Prune),
    /// The saved machines that VMs go on from.
    Template(template::Templates),
    /// Make, list and remove volumes.
    Volume(volume::VolumeVerbs),
    /// The networks that containers can be on.
    Network(network::Networks),
    /// Say what this machine can do, and what to do about what it cannot.
    Doctor(doctor::Doctor),
    /// Print versions.
    Version(version::Version),
    #[command(flatten)]
    Oci(oci::Verb),
}

/// Does what the command line says; gives back the exit code.
pub(crate) fn main() -> Result<u8, Failure> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return Ok(usage(&error)),
    };
    let (log, format) = (cli.log.clone(), cli.log_format);
    let end = call(cli);
    if let (Err(failure), Some(path)) = (&end, log)
        && let Err(error) = log_failure(&path, format, failure)
    {
        eprintln!("microvm: --log {}: {error}", path.display());
    }
    end
}

/// Adds a line to the log of whoever called us, as runc writes it.
fn log_failure(path: &Path, format: LogFormat, failure: &Failure) -> io::Result<()> {
    let time = humantime::format_rfc3339_seconds(SystemTime::now());
    let message = &failure.message;
    let line = match format {
        LogFormat::Json => {
            serde_json::json!({ "level": "error", "msg": message, "time": time.to_string() })
                .to_string()
        }
        LogFormat::Text => format!("time=\"{time}\" level=error msg={message:?}"),
    };
    writeln!(File::options().create(true).append(true).open(path)?, "{line}")
}

fn call(cli: Cli) -> Result<u8, Failure> {
    let settings = resolve(&cli)?;
    match cli.verb {
        Verb::Run(verb) => verb.call(settings),
        Verb::Exec(verb) => verb.call(&settings),
        Verb::Ps(verb) => verb.call(&settings),
        Verb::Logs(verb) => verb.call(&settings),
        Verb::Wait(verb) => verb.call(&settings),
        Verb::Kill(verb) => verb.call(&settings),
        Verb::Stop(verb) => verb.call(&settings),
        Verb::Restart(verb) => verb.call(&settings),
        Verb::Rm(verb) => verb.call(&settings),
        Verb::Cp(verb) => verb.call(&settings),
        Verb::Diff(verb) => verb.call(&settings),
        Verb::Export(verb) => verb.call(&settings),
        Verb::Commit(verb) => verb.call(&settings),
        Verb::Pull(verb) => verb.call(&settings),
        Verb::Load(verb) => verb.call(&settings),
        Verb::Save(verb) => verb.call(&settings),
        Verb::Images(verb) => verb.call(&settings),
        Verb::Inspect(verb) => verb.call(&settings),
        Verb::History(verb) => verb.call(&settings),
        Verb::Tag(verb) => verb.call(&settings),
        Verb::Rmi(verb) => verb.call(&settings),
        Verb::Prune(verb) => verb.call(&settings),
        Verb::Template(verb) => verb.call(&settings),
        Verb::Volume(verb) => verb.call(&settings),
        Verb::Network(verb) => verb.call(),
        Verb::Doctor(verb) => verb.call(&settings),
        Verb::Version(verb) => verb.call(),
        Verb::Oci(verb) => verb.call(settings),
    }
}

/// Help was asked for, or is needed.
fn usage(error: &clap::Error) -> u8 {
    let wanted = !error.use_stderr();
    // With nobody to read it there is nothing to do about it.
    let _ = error.print();
    if wanted { 0 } else { crate::exit::OURS }
}

/// Fills in what was left out; a supervisor in the background may not stay in this directory.
fn resolve(cli: &Cli) -> Result<Settings, Failure> {
    let named = |given: &Option<PathBuf>, file| {
        given.clone().or_else(|| settings::named_by_environment(file)).map(absolute).transpose()
    };
    Ok(Settings {
        root: absolute(cli.root.clone().unwrap_or_else(settings::usual_root))?,
        store: absolute(cli.store.clone().unwrap_or_else(settings::usual_store))?,
        kernel: named(&cli.kernel, BootFile::Kernel)?,
        initramfs: named(&cli.initramfs, BootFile::Initramfs)?,
        debug: cli.debug,
        timeline: cli.timeline.as_deref().map(absolute::<&Path>).transpose()?,
        systemd_cgroup: cli.systemd_cgroup,
        no_template: cli.no_template,
    })
}

/// Does `deed` to every container named, and stops at the first that will not have it done.
fn each(
    settings: &Settings,
    names: &[String],
    deed: impl Fn(&Root, Visited) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let root = Root::open(&settings.root)?;
    for name in names {
        deed(&root, Visited::new(root.find(name)?)?)?;
        println!("{name}");
    }
    Ok(0)
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// A size as people read it.
fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// A table for people: columns as wide as their widest cell.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}   "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// How long ago `time` (RFC 3339) was, in its largest unit.
fn ago(time: &str) -> String {
    const UNITS: [(u64, &str); 5] = [
        (365 * 24 * 3600, "year"),
        (24 * 3600, "day"),
        (3600, "hour"),
        (60, "minute"),
        (1, "second"),
    ];
    let Ok(then) = humantime::parse_rfc3339_weak(time) else { return time.to_owned() };
    let seconds = then.elapsed().unwrap_or_default().as_secs();
    match UNITS.iter().find(|(length, _)| seconds >= *length) {
        Some((length, unit)) if seconds < 2 * length => format!("1 {unit} ago"),
        Some((length, unit)) => format!("{} {unit}s ago", seconds / length),
        None => "just now".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(words: &[&str]) -> Cli {
        Cli::try_parse_from([&["microvm"], words].concat()).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent_in_itself() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_of_a_verb_begins_with_what_the_list_says_of_it() {
        let (listed, mut built) = (Cli::command(), Cli::command());
        built.build();
        for verb in listed.get_subcommands() {
            let about = verb.get_about().map(ToString::to_string);
            let own = built.find_subcommand(verb.get_name()).and_then(|verb| verb.get_about());
            assert!(about.is_some(), "{}", verb.get_name());
            assert_eq!(own.map(ToString::to_string), about, "{}", verb.get_name());
        }
    }

    #[test]
    fn what_stands_behind_the_image_is_the_containers_own() {
        let Verb::Run(run) = parse(&["run", "--rm", "-it", "demo", "ls", "--rm", "-e", "--"]).verb
        else {
            panic!("not a run")
        };
        assert!(run.wishes.rm && run.wishes.process.interactive && run.wishes.process.tty);
        assert_eq!(run.wishes.image_and_command, ["demo", "ls", "--rm", "-e", "--"]);
        assert!(run.wishes.process.env.is_empty());
    }

    #[test]
    fn an_option_nobody_knows_is_not_taken_for_an_image() {
        for words in [["run", "--bogus", "demo"], ["exec", "--bogus", "box"]] {
            assert!(Cli::try_parse_from([&["microvm"], &words[..]].concat()).is_err(), "{words:?}");
        }
    }

    #[test]
    fn numbers_are_judged_later_whatever_they_look_like() {
        for word in ["-5m", "lots", ""] {
            let memory = format!("--memory={word}");
            let Verb::Run(run) = parse(&["run", &memory, "demo"]).verb else { panic!("not a run") };
            assert_eq!(run.wishes.memory.as_deref(), Some(word));
        }
    }

    #[test]
    fn a_table_lines_up_and_has_no_trailing_spaces() {
        let rows =
            [["NAME", "IMAGE"], ["a-long-name", "x"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(table(&rows), "NAME          IMAGE\na-long-name   x\n");
    }

    #[test]
    fn an_age_is_told_in_its_largest_unit() {
        let before = |seconds| {
            let then = std::time::SystemTime::now() - std::time::Duration::from_secs(seconds);
            ago(&humantime::format_rfc3339(then).to_string())
        };
        assert_eq!(before(75), "1 minute ago");
        assert_eq!(before(3 * 3600 + 75), "3 hours ago");
        assert_eq!(before(800 * 24 * 3600), "2 years ago");
        assert_eq!(ago("not a time"), "not a time");
    }
}
