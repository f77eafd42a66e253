//! Network namespaces of a story's own.

use std::process::Command;

use crate::Outcome;

/// A network namespace with a name. Dropping it takes it away.
pub struct Namespace(String);

impl Namespace {
    /// An empty one, whose loopback is up.
    pub fn new(name: &str) -> Self {
        ip(&format!("netns add {name}"));
        let namespace = Self(name.to_owned());
        namespace.ip("link set lo up");
        namespace
    }

    /// Where it is.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    /// `ip WORDS` in it; what it says.
    #[track_caller]
    pub fn ip(&self, words: &str) -> String {
        ip(&format!("-n {} {words}", self.0))
    }

    /// A command in it, not started yet.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).args(words);
        command
    }

    /// A command in it; what it says.
    #[track_caller]
    pub fn call(&self, words: &[&str]) -> String {
        Outcome::of(&mut self.command(words)).expect_code(0).text()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

/// `ip WORDS` where the story is; what it says.
#[track_caller]
pub fn ip(words: &str) -> String {
    Outcome::of(Command::new("ip").args(words.split_whitespace())).expect_code(0).text()
}
