//! The answers side by side, with reasons: as a document, and as a few lines for a terminal.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::exceptions::{EXCEPTIONS, Exception, RACES};
use super::outcome::{Answers, Outcome};
use super::suites::Suite;
use super::{OURS, RUNTIMES, Said};

/// Of a test that a runtime was not asked yet.
const NOT_RUN: Outcome = Outcome::Broke("not run");

/// A test and what became of it, in the order of [`RUNTIMES`].
struct Row {
    test: String,
    outcomes: [Outcome; RUNTIMES.len()],
    /// Whether another runtime gets further than ours, and why.
    behind: Option<Option<&'static Exception>>,
}

/// All that is to be said.
pub(super) struct Report<'a> {
    tables: Vec<(&'a Suite, Vec<Row>)>,
    /// Reasons for tests that were run and are not behind.
    stale: Vec<&'static Exception>,
    /// Cases of which not every answer is known.
    unknown: usize,
}

impl<'a> Report<'a> {
    /// Compares. Unless the suites are `whole`, a reason that is not used says nothing.
    pub(super) fn new(said: &'a [(&'a Suite, Said)], whole: bool) -> Self {
        let cases = said.iter().flat_map(|(_, said)| said.values());
        let unknown = cases.filter(|answers| answers.iter().any(Option::is_none)).count();
        let tables: Vec<_> = said.iter().map(|(suite, said)| (*suite, rows(suite, said))).collect();
        let is_used = |exception: &&Exception| {
            let mut rows = tables.iter().flat_map(|(_, rows)| rows);
            rows.any(|row| row.behind.flatten().is_some_and(|used| std::ptr::eq(used, *exception)))
        };
        let was_run =
            |exception: &&Exception| tables.iter().any(|(suite, _)| suite.name == exception.suite);
        let is_race = |exception: &&Exception| RACES.contains(&(exception.suite, exception.test));
        let stale = EXCEPTIONS
            .iter()
            .filter(|one| whole && unknown == 0 && was_run(one) && !is_used(one) && !is_race(one));
        Self { stale: stale.collect(), unknown, tables }
    }

    /// Whether every difference has a reason and every reason a difference.
    pub(super) fn holds(&self) -> bool {
        self.unexplained().next().is_none() && self.stale.is_empty() && self.unknown == 0
    }

    fn unexplained(&self) -> impl Iterator<Item = (&Suite, &Row)> {
        let all =
            self.tables.iter().flat_map(|(suite, rows)| rows.iter().map(move |row| (*suite, row)));
        all.filter(|(_, row)| matches!(row.behind, Some(None)))
    }

    /// For a terminal: totals, and what is wrong.
    pub(super) fn summary(&self) -> String {
        let mut text = self.totals();
        if self.unknown > 0 {
            let _ = writeln!(text, "of {} cases an answer is missing", self.unknown);
        }
        for (suite, row) in self.unexplained() {
            let _ = writeln!(text, "unexplained: {} {}", suite.name, row.test);
        }
        for Exception { suite, test, .. } in &self.stale {
            let _ = writeln!(text, "a reason for what is not behind: {suite} {test}");
        }
        text
    }

    /// For people: a page in Markdown.
    pub(super) fn document(&self, versions: &[String]) -> String {
        let mut text = INTRODUCTION.to_owned();
        for version in versions {
            let _ = writeln!(text, "* {version}");
        }
        for (suite, _) in &self.tables {
            let _ = writeln!(text, "* [{}]({}) at `{}`", suite.name, suite.home, suite.commit);
        }
        let _ = write!(text, "\n## Totals\n\n{}", self.totals());
        if self.unknown > 0 {
            let _ = writeln!(
                text,
                "\n**Not all was run: of {} cases an answer is missing.**",
                self.unknown
            );
        }
        text.push_str(
            "\nA test that does not pass on ours and gets further elsewhere is behind.\n",
        );
        for (suite, rows) in &self.tables {
            let behind: Vec<_> = rows.iter().filter(|row| row.behind.is_some()).collect();
            if !behind.is_empty() {
                let _ = writeln!(text, "\n## {}: what is behind, and why\n", suite.name);
                text.push_str("| test | why |\n| --- | --- |\n");
            }
            for row in behind {
                let why = row.behind.flatten().map_or("**unexplained**", |found| found.reason);
                let _ = writeln!(text, "| {} | {why} |", row.test);
            }
        }
        for (suite, rows) in &self.tables {
            let _ = writeln!(text, "\n## {}: all tests\n", suite.name);
            let _ = writeln!(text, "But those of `{}…`.\n", suite.version_1);
            text.push_str(&head("test"));
            for Row { test, outcomes, .. } in rows {
                let [first, second, third] = outcomes;
                let _ = writeln!(text, "| {test} | {first} | {second} | {third} |");
            }
        }
        text
    }

    /// How many tests pass, and how far ours is from that.
    fn totals(&self) -> String {
        let mut text = head("suite");
        for (suite, rows) in &self.tables {
            // Counts of different tests would say nothing beside each other.
            let rows: Vec<_> = rows.iter().filter(|row| !row.outcomes.contains(&NOT_RUN)).collect();
            let _ = write!(text, "| {}, {} tests |", suite.name, rows.len());
            for at in 0..RUNTIMES.len() {
                let passed = rows.iter().filter(|row| row.outcomes[at] == Outcome::Passed).count();
                let _ = write!(text, " {passed} pass");
                if at == OURS {
                    let behind = rows.iter().filter(|row| row.behind.is_some()).count();
                    let _ = write!(text, ", {behind} behind");
                }
                text.push_str(" |");
            }
            text.push('\n');
        }
        text
    }
}

const INTRODUCTION: &str = "\
# Conformance

`cargo xtask conformance` has written this. It runs two suites of the field, a case at a time, on runc, on
crun and on microvm, in the same emulated host: Debian 13 with version 2 of cgroups and no AppArmor. Many
tests fail on every runtime, because they ask for what the host does not have or what the specification
no longer says; so a count alone means little, and the tables are there to compare. Cases that are only
about version 1 of cgroups are not run. The suites' patience of seconds is too short for an emulated host:
`xtask/host/patient` and `xtask/host/unhurried` have them wait longer, on every runtime. Of microvm's templates
one case uses what another has made.

What was run:

";

fn head(of: &str) -> String {
    let [first, second, third] = RUNTIMES;
    format!("| {of} | {first} | {second} | {third} |\n| --- | --- | --- | --- |\n")
}

/// Every test that any runtime has answered. A case that broke off on one has broken its tests there;
/// one that broke off on all has none, and stands for itself.
fn rows(suite: &Suite, said: &Said) -> Vec<Row> {
    let mut rows = Vec::new();
    for (case, answers) in said {
        let names = answers.iter().flatten().flat_map(|answers| answers.outcomes.keys());
        let mut names: BTreeSet<_> = names.collect();
        if names.is_empty() {
            names.insert(case);
        }
        for test in names {
            let outcomes = answers.each_ref().map(|answers| outcome(answers.as_ref(), test));
            let behind = answers[OURS].is_some()
                && outcomes.iter().any(|theirs| outcomes[OURS].is_behind(*theirs));
            let reason = || {
                let fits = |one: &&Exception| [case, test].iter().any(|name| *name == one.test);
                EXCEPTIONS.iter().filter(|one| one.suite == suite.name).find(fits)
            };
            rows.push(Row { test: test.clone(), outcomes, behind: behind.then(reason) });
        }
    }
    rows
}

fn outcome(answers: Option<&Answers>, test: &str) -> Outcome {
    let Some(answers) = answers else { return NOT_RUN };
    let broke = || Outcome::Broke(answers.broke.unwrap_or("no answer"));
    answers.outcomes.get(test).copied().unwrap_or_else(broke)
}
