//! The stories, told one after the other.
//!
//! The same file is the guest half of those that need one: started as process 1 it plays the part
//! that `/story` names, and called `half` in a container the part that its argument names.

mod at_once;
mod bad_input;
mod bundles;
mod clients;
mod clones;
mod cni;
mod containers;
mod crashes;
mod endings;
mod files;
mod hostile_guest;
mod images;
mod networks;
mod own_networks;
mod pipes;
mod services;
mod shares;
mod soak;
mod stdio;
mod storage;
mod systemd;
mod terminals;
mod volumes;
mod walk;
mod without_root;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use libtest_mimic::{Arguments, Failed, Trial};

/// The exit code when a story has hung, as `timeout` has it.
const HUNG: i32 = 124;

/// A story: its name says what a user would lose, the function tells it.
type Story = (&'static str, fn());

/// Makes a list of [`Story`] from functions, which so cannot be forgotten one by one.
macro_rules! stories {
    ($($name:ident),* $(,)?) => {
        /// The stories of this file.
        pub(crate) const STORIES: &[crate::Story] = &[$((stringify!($name), $name)),*];
    };
}
use stories;

const CHAPTERS: &[(&str, &[Story])] = &[
    ("stdio", stdio::STORIES),
    ("endings", endings::STORIES),
    ("containers", containers::STORIES),
    ("terminals", terminals::STORIES),
    ("bad_input", bad_input::STORIES),
    ("images", images::STORIES),
    ("shares", shares::STORIES),
    ("storage", storage::STORIES),
    ("volumes", volumes::STORIES),
    ("files", files::STORIES),
    ("crashes", crashes::STORIES),
    ("hostile_guest", hostile_guest::STORIES),
    ("bundles", bundles::STORIES),
    ("at_once", at_once::STORIES),
    ("clones", clones::STORIES),
    ("pipes", pipes::STORIES),
    ("walk", walk::STORIES),
    ("soak", soak::STORIES),
    ("clients", clients::STORIES),
    ("systemd", systemd::STORIES),
    ("services", services::STORIES),
    ("networks", networks::STORIES),
    ("cni", cni::STORIES),
    ("own_networks", own_networks::STORIES),
    ("without_root", without_root::STORIES),
];

fn main() -> ExitCode {
    if let [name, part] = &std::env::args().collect::<Vec<_>>()[..]
        && name == "half"
    {
        shares::guest_half(part);
        return ExitCode::SUCCESS;
    }
    if std::process::id() == 1 {
        crashes::guest_half();
    }
    let mut arguments = Arguments::from_args();
    // Stories look at the whole machine for what was left behind: one at a time.
    arguments.test_threads = Some(1);
    let hindrance = tests::cannot_run();
    if let Some(reason) = &hindrance {
        eprintln!("no story can be told here: {reason}");
    }
    let missing = tests::missing(&clients::TOOLS);
    if let Some(tool) = &missing {
        eprintln!("stories of clients cannot be told here: there is no {tool}");
    }
    let no_systemd = !std::path::Path::new(tests::Systemd::PROGRAM).exists();
    if no_systemd {
        eprintln!("stories of systemd cannot be told here: it is not installed");
    }
    let no_services = tests::services().is_none();
    if no_services {
        eprintln!(
            "stories of services cannot be told here: MICROVM_SERVICES names no store of them"
        );
    }
    let chapters = CHAPTERS.iter().filter(|(chapter, _)| tests::is_told(chapter));
    let stories = chapters.flat_map(|&(chapter, stories)| {
        let of_clients = ["clients", "networks", "cni"].contains(&chapter);
        let hindered = hindrance.is_some() || of_clients && missing.is_some();
        let hindered = hindered || chapter == "systemd" && (missing.is_some() || no_systemd);
        let hindered = hindered || chapter == "services" && no_services;
        stories.iter().map(move |&(name, tell)| (format!("{chapter}::{name}"), tell, hindered))
    });
    let trials = stories.map(|(name, tell, hindered)| {
        Trial::test(name.clone(), move || told(&name, tell)).with_ignored_flag(hindered)
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    tests::clear_store();
    conclusion.exit_code()
}

/// Turns a panic into the runner's failure; the panic's own message stands on standard error.
fn told(name: &str, tell: fn()) -> Result<(), Failed> {
    let _over = Watchdog::over(name);
    catch_unwind(AssertUnwindSafe(tell)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").into()
    })
}

/// Ends the stories when one takes so long that it will not end by itself: a thread that hangs cannot be
/// ended for itself alone. Dropping it calls it off.
struct Watchdog {
    _over: mpsc::Sender<()>,
}

impl Watchdog {
    fn over(story: &str) -> Self {
        let (over, is_over) = mpsc::channel();
        let story = story.to_owned();
        let longest = tests::longest();
        thread::spawn(move || {
            if is_over.recv_timeout(longest) == Err(RecvTimeoutError::Timeout) {
                let minutes = longest.as_secs() / 60;
                eprintln!("\n{story} has not ended in {minutes} minutes; ended with it:");
                for (pid, line) in tests::end_everybody() {
                    eprintln!("  {pid} {line}");
                }
                std::process::exit(HUNG);
            }
        });
        Self { _over: over }
    }
}
