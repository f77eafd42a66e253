//! `cargo xtask conformance`: what the field's own suites say of this runtime, and of others beside it.
//!
//! Every case runs alone in an emulated host, on one runtime after the other. A run of everything
//! writes `docs/conformance.md`. It goes wrong if another runtime gets further than this one and nobody
//! has said why, and if somebody has and it does not.

mod exceptions;
mod outcome;
mod report;
mod suites;
mod trial;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::host::{self, Instance};
use crate::{build, paths, step};
use outcome::Answers;
use report::Report;
use suites::{SUITES, Suite};
use trial::{Ask, Trial};

/// Whose conformance it is about.
const OURS: usize = 2;

/// All that are run, in the order of the tables' columns.
const RUNTIMES: [&str; 3] = ["runc", "crun", "microvm"];

/// Which cases, and on which runtimes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// `runtime-tools` or `contest`; without it both, and the results are written down
    suite: Option<String>,
    /// One case of the suite
    case: Option<String>,
    /// One runtime, `runc`, `crun` or `microvm`; one that is named is asked again
    #[arg(long)]
    runtime: Option<String>,
    /// Ask nobody: write down what was said before
    #[arg(long, conflicts_with_all = ["suite", "runtime"])]
    kept: bool,
    /// Where the suites' programs are; else `suites` in the cache
    #[arg(long, value_name = "DIR")]
    suites: Option<PathBuf>,
}

/// What a suite said: of a case, each runtime's answers at its place in [`RUNTIMES`].
type Said = BTreeMap<String, [Option<Answers>; RUNTIMES.len()]>;

/// Runs them, and says at the end where this runtime is behind without a reason.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let suites = chosen(SUITES, args.suite.as_deref(), |suite| suite.name)?;
    let runtimes = chosen(&[0, 1, 2], args.runtime.as_deref(), |&at| RUNTIMES[at])?;
    let programs = suites::install(args.suites.as_deref())?;
    let outputs = build::everything()?;
    let ask = match args.runtime {
        _ if args.kept => Ask::Nobody,
        Some(_) => Ask::Everyone,
        None => Ask::Unknown,
    };
    let up = Instance::of_checkout()?.up()?;
    let trial = Trial::prepare(&up, &outputs, &programs, ask)?;

    let mut said: Vec<(&Suite, Said)> = Vec::new();
    let mut cases = Vec::new();
    for (place, suite) in suites.into_iter().enumerate() {
        let all = suite.cases(&trial)?;
        for case in chosen(&all, args.case.as_deref(), String::as_str)? {
            cases.push((place, suite, case.clone()));
        }
        said.push((suite, Said::new()));
    }
    let heard = host::share(cases, |up, next| {
        let trial = Trial::prepare(up, &outputs, &programs, ask)?;
        let mut heard = Vec::new();
        while let Some((place, suite, case)) = next() {
            let answers = hear(&trial, suite, &case, &runtimes)?;
            heard.push((place, case, answers));
        }
        Ok(heard)
    })?;
    for (place, case, answers) in heard.into_iter().flatten() {
        said[place].1.insert(case, answers);
    }
    if runtimes.len() < RUNTIMES.len() {
        return Ok(ExitCode::SUCCESS);
    }
    let report = Report::new(&said, args.case.is_none());
    if args.suite.is_none() {
        let file = paths::checkout().join("docs/conformance.md");
        let text = report.document(&trial.versions()?);
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        step::say(&format!("written: {}", file.display()));
    }
    print!("{}", report.summary());
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Those of `all` that a person wants: the one of that name, or all.
fn chosen<'a, T>(
    all: &'a [T],
    wanted: Option<&str>,
    name: impl Fn(&T) -> &str,
) -> Result<Vec<&'a T>> {
    let chosen: Vec<_> =
        all.iter().filter(|one| wanted.is_none_or(|wanted| wanted == name(one))).collect();
    ensure!(!chosen.is_empty(), "there is no {}", wanted.unwrap_or("such thing"));
    Ok(chosen)
}

/// Runs a case and prints what it said on each runtime as soon as it has.
fn hear(
    trial: &Trial<'_>,
    suite: &Suite,
    case: &str,
    runtimes: &[&usize],
) -> Result<[Option<Answers>; RUNTIMES.len()]> {
    let mut said = <[Option<Answers>; RUNTIMES.len()]>::default();
    for &&at in runtimes {
        let Some(answers) = trial.run(suite, case, RUNTIMES[at])? else { continue };
        for (name, outcome) in &answers.outcomes {
            println!("{:8} {:14} {name}: {outcome}", RUNTIMES[at], suite.name);
        }
        if let Some(how) = answers.broke {
            println!("{:8} {:14} {case}: {how}", RUNTIMES[at], suite.name);
        }
        said[at] = Some(answers);
    }
    Ok(said)
}
