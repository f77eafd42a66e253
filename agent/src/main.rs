//! `/init`: the agent as PID 1 of a guest.
//!
//! No `main` of the standard library's: that one ends the program when descriptors 0 to 2 are closed
//! and there is no `/dev/null`, which is how a kernel without a console starts its first process.
#![no_main]

use std::process::exit;

use agent::ground::Kernel;
use agent::kmsg::{self, Weight};
use agent::{Agent, Doors, Guest, Session, Stop, boot, vsock};
use proto::message::Hello;

/// What the kernel calls.
// SAFETY: the C runtime looks for this name, and no other function here has it.
#[unsafe(no_mangle)]
extern "C" fn main() -> i32 {
    let agent_started_ns = Some(boot::now_ns());
    std::panic::set_hook(Box::new(|panic| last_words(&panic.to_string())));
    let name = concat!("microvm-agent ", env!("CARGO_PKG_VERSION")).to_owned();
    let hello = Hello { version: proto::VERSION, name, agent_started_ns };
    match run(hello) {
        Ok(()) => last_words(&format!("power off: {:?}", boot::power_off())),
        Err(error) => last_words(&error.to_string()),
    }
}

fn run(hello: Hello) -> Result<(), Box<dyn std::error::Error>> {
    boot::first()?;
    let doors = Doors {
        sessions: vsock::listen_on(proto::SESSION_PORT)?,
        stdio: vsock::listen_on(proto::STDIO_PORT)?,
    };
    let host = Session::open(vsock::dial_host(proto::READY_PORT)?, &hello)?;
    boot::furnish()?;
    let guest = Guest::new(boot::RUN.as_ref(), boot::CGROUPS.as_ref())?;
    guest.delegate_cgroups()?;
    let mut agent = Agent::new(guest, Box::new(Kernel::default()), hello.clone(), doors, host)?;
    loop {
        match agent.run()? {
            Stop::PowerOff | Stop::HostGone => return Ok(()),
            // The host itself goes on, behind a new transport.
            Stop::HostReset => match vsock::dial_host(proto::READY_PORT) {
                Ok(socket) => agent.host_is_back(Session::open(socket, &hello)?)?,
                Err(_) => return Ok(()),
            },
        }
    }
}

/// PID 1 must not end; when it does, the kernel panics and the VMM reads this line in its log.
fn last_words(text: &str) -> ! {
    kmsg::say(Weight::Critical, text);
    exit(101)
}
