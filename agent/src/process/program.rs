//! Finding a program and becoming it.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use proto::message::{Fault, FaultKind};
use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;

use crate::sys;
use crate::words::words;

/// Where programs are looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a program does not run.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExecError {
    #[error("exec: \"{program}\": executable file not found in $PATH")]
    NotInPath { program: String },
    #[error("exec {path}: {reason}")]
    NotThere { path: String, reason: String },
    #[error("exec {path}: {reason}")]
    NotExecutable { path: String, reason: String },
    #[error("exec {path}: {}", words(*.errno))]
    Refused { path: String, errno: Errno },
    #[error("process.{field} holds a zero byte")]
    ZeroByte { field: &'static str },
    #[error("process.args is empty")]
    NoArgs,
}

impl From<ExecError> for Fault {
    fn from(error: ExecError) -> Self {
        let kind = match error {
            ExecError::NotInPath { .. } | ExecError::NotThere { .. } => FaultKind::ProgramNotFound,
            ExecError::NotExecutable { .. } => FaultKind::ProgramNotExecutable,
            ExecError::Refused { .. } => FaultKind::System,
            ExecError::ZeroByte { .. } | ExecError::NoArgs => FaultKind::InvalidSpec,
        };
        Self { kind, message: error.to_string() }
    }
}

/// Program, arguments and environment in the form `execve` takes, made before the process is held so
/// that a bad one is refused early.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    args: Vec<CString>,
    env: Vec<CString>,
    path: String,
}

impl Program {
    /// `home` is for an environment that has none.
    pub(crate) fn new(args: &[String], env: &[String], home: &str) -> Result<Self, ExecError> {
        let name = args.first().ok_or(ExecError::NoArgs)?.clone();
        let mut env = env.to_vec();
        if !env.iter().any(|entry| entry.starts_with("HOME=")) {
            env.push(format!("HOME={home}"));
        }
        let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
        let path = path.unwrap_or(DEFAULT_PATH).to_owned();
        let (args, env) = (c_strings("args", args)?, c_strings("env", &env)?);
        Ok(Self { name, args, env, path })
    }

    /// Whether there is such a program for this user. Engines want to know before they let it go.
    pub(crate) fn look(&self) -> Result<(), ExecError> {
        let path = self.find()?.path;
        rustix::fs::accessat(CWD, &path, Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(|errno| refusal(&path, errno))
    }

    /// Looks the program up.
    pub(crate) fn find(&self) -> Result<Found<'_>, ExecError> {
        let path = find(&self.name, &self.path)?;
        let file = CString::new(path.as_os_str().as_bytes());
        let file = file.map_err(|_| ExecError::ZeroByte { field: "args" })?;
        Ok(Found { program: self, path, file })
    }
}

/// A program and the file it was found in.
pub(crate) struct Found<'a> {
    program: &'a Program,
    path: PathBuf,
    file: CString,
}

impl Found<'_> {
    /// Becomes the program. Comes back only with the reason why not.
    pub(crate) fn run(&self) -> ExecError {
        let Program { args, env, .. } = self.program;
        refusal(&self.path, sys::execve(&self.file, args, env))
    }
}

pub(super) fn c_strings(
    field: &'static str,
    strings: &[String],
) -> Result<Vec<CString>, ExecError> {
    let strings = strings.iter().map(|string| CString::new(string.as_bytes()));
    strings.collect::<Result<_, _>>().map_err(|_| ExecError::ZeroByte { field })
}

/// The file a program's name stands for. With a slash it is the name itself, without it the first
/// file in `path` that may be executed; one that may not is the answer only if there is no better.
fn find(name: &str, path: &str) -> Result<PathBuf, ExecError> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let mut forbidden = None;
    let directories = path.split(':').map(|dir| if dir.is_empty() { "." } else { dir });
    for candidate in directories.map(|dir| Path::new(dir).join(OsStr::new(name))) {
        if name.is_empty() || !is_file(&candidate) {
            continue;
        }
        match rustix::fs::accessat(CWD, &candidate, Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) => return Ok(candidate),
            Err(errno) => drop(forbidden.get_or_insert((candidate, errno))),
        }
    }
    Err(match forbidden {
        Some((path, errno)) => refusal(&path, errno),
        None => ExecError::NotInPath { program: name.to_owned() },
    })
}

fn is_file(path: &Path) -> bool {
    rustix::fs::stat(path)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

/// What an errno of `execve` says about the file.
fn refusal(file: &Path, errno: Errno) -> ExecError {
    let path = file.display().to_string();
    let mut reason = words(errno);
    match errno {
        Errno::NOENT => {
            if file.exists() {
                reason.push_str(" (the file is there, the interpreter it asks for is not)");
            }
            ExecError::NotThere { path, reason }
        }
        Errno::ACCESS if file.is_dir() => {
            ExecError::NotExecutable { path, reason: "is a directory".to_owned() }
        }
        Errno::ACCESS
        | Errno::PERM
        | Errno::NOEXEC
        | Errno::NOTDIR
        | Errno::ISDIR
        | Errno::LOOP
        | Errno::NAMETOOLONG
        | Errno::LIBBAD
        | Errno::TXTBSY => ExecError::NotExecutable { path, reason },
        errno => ExecError::Refused { path, errno },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_in_the_first_directory_that_has_it() {
        assert_eq!(find("sh", "/nonexistent:/bin:/usr/bin"), Ok(PathBuf::from("/bin/sh")));
        assert_eq!(find("./sh", "/bin"), Ok(PathBuf::from("./sh")));
    }

    #[test]
    fn what_is_missing_forbidden_or_no_program_is_said_as_people_know_it() {
        assert_eq!(
            find("nope", "/bin").unwrap_err().to_string(),
            "exec: \"nope\": executable file not found in $PATH"
        );
        let refused = |path: &str| {
            let args = [path.to_owned()];
            Program::new(&args, &[], "/").unwrap().find().unwrap().run()
        };
        assert_eq!(refused("/nope/sh").to_string(), "exec /nope/sh: no such file or directory");
        assert!(matches!(refused("/nope/sh"), ExecError::NotThere { .. }));
        assert_eq!(refused("/etc").to_string(), "exec /etc: is a directory");
        assert_eq!(refused("/etc/passwd").to_string(), "exec /etc/passwd: permission denied");
        assert!(matches!(refused("/etc/passwd"), ExecError::NotExecutable { .. }));
        assert_eq!(refused("/bin/sh/x").to_string(), "exec /bin/sh/x: not a directory");
    }

    #[test]
    fn home_is_added_only_where_there_is_none() {
        let home = |env: &[String]| {
            let program = Program::new(&["x".to_owned()], env, "/home/ann").unwrap();
            program.env.iter().map(|e| e.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(home(&[]), ["HOME=/home/ann"]);
        assert_eq!(home(&["HOME=/x".to_owned()]), ["HOME=/x"]);
    }

    #[test]
    fn nothing_to_run_and_zero_bytes_are_refused_by_field() {
        assert_eq!(Program::new(&[], &[], "/").unwrap_err(), ExecError::NoArgs);
        let zero = Program::new(&["a\0".to_owned()], &[], "/").unwrap_err();
        assert_eq!(zero.to_string(), "process.args holds a zero byte");
    }
}
