//! `microvm`: runs OCI containers, each in a virtual machine of its own.
//!
//! One file is everything: the command line, the supervisor of a container in the background and the
//! VM's process, which are this program again behind a hidden first word. `docs/architecture.md` has
//! the picture.

mod attend;
mod birth;
mod bpf;
mod cli;

mod descriptors;
mod detach;
mod dial;
mod doctor;
mod exit;
mod files;
mod host;
mod kvm;
mod labels;
mod log;
mod mount;
mod network;
mod oci;
mod orders;
mod plan;
mod platform;
mod relay;
mod run;
mod sandbox;
mod session;
mod settings;
mod shares;
mod signals;
mod state;
mod storage;
mod template;
mod terminal;
mod threads;
mod timeline;
mod undo;
mod visit;
mod vm;
mod volumes;
mod wishes;

use std::env;
use std::process::ExitCode;

use crate::exit::Failure;

fn main() -> ExitCode {
    let end = match env::args_os().nth(1).as_deref().and_then(|word| word.to_str()) {
        Some(vm::VERB) => return vm::be_the_vm(env::args_os().nth(2).as_deref()),
        Some(shares::VERB) => return shares::be_the_server(),
        Some(detach::VERB) => detach::supervise(),
        Some(oci::supervise::VERB) => oci::supervise::main(env::args().skip(2)),
        _ => cli::main(),
    };
    match end {
        Ok(code) => code.into(),
        Err(Failure { message, code }) => {
            if !message.is_empty() {
                eprintln!("microvm: error: {message}");
            }
            code.into()
        }
    }
}
