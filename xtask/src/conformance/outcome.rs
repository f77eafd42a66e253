//! What a case says, and how it is read.

use std::collections::BTreeMap;
use std::fmt;

/// What became of a test on a runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    /// So many of its assertions held, and so many did not.
    Failed {
        ok: u32,
        not_ok: u32,
    },
    /// It says that it cannot run here.
    Skipped,
    /// The program that had it to run ended early, or never.
    Broke(&'static str),
}

impl Outcome {
    /// Whether `other` gets further than this one.
    pub(super) fn is_behind(self, other: Self) -> bool {
        let held = |outcome| match outcome {
            Self::Failed { ok, .. } => ok,
            Self::Passed | Self::Skipped | Self::Broke(_) => 0,
        };
        match (self, other) {
            (Self::Passed, _) => false,
            (_, Self::Passed) => true,
            (ours, theirs) => held(ours) < held(theirs),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Passed => write!(f, "pass"),
            Self::Failed { ok: 0, not_ok: _ } => write!(f, "fail"),
            Self::Failed { ok, not_ok } => write!(f, "fail ({ok} of {})", ok + not_ok),
            Self::Skipped => write!(f, "skipped"),
            Self::Broke(how) => write!(f, "{how}"),
        }
    }
}

/// What a case said on a runtime.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answers {
    /// Its tests by name.
    pub(super) outcomes: BTreeMap<String, Outcome>,
    /// That it did not come to its end, and nothing is known of the tests that are missing.
    pub(super) broke: Option<&'static str>,
}

/// How `timeout` ends a program: by asking, by force.
const TIMED_OUT: [i32; 2] = [124, 137];

/// That a program did not come to its end.
fn broke(code: i32) -> &'static str {
    if TIMED_OUT.contains(&code) { "timed out" } else { "broke off" }
}

/// A program of runtime-tools is one test. It prints lines of TAP; what it quotes is indented. One that
/// asserts nothing says what went wrong in what it quotes, or by its exit code.
pub(super) fn of_tap(case: &str, text: &str, code: i32) -> Answers {
    let (mut ok, mut not_ok, mut skipped) = (0, 0, 0);
    for line in text.lines() {
        if line.starts_with("ok ") && line.to_lowercase().contains("# skip") {
            skipped += 1;
        } else if line.starts_with("ok ") {
            ok += 1;
        } else if line.starts_with("not ok ") {
            not_ok += 1;
        }
    }
    let outcome = match (code, ok, not_ok) {
        (code, ..) if TIMED_OUT.contains(&code) => Outcome::Broke(broke(code)),
        (0, 0, 0) if skipped > 0 => Outcome::Skipped,
        (0, 0, 0) if !text.contains("\"error\":") => Outcome::Passed,
        (0, 1.., 0) => Outcome::Passed,
        // What ended the program counts as an assertion that did not hold.
        (_, ok, not_ok) => Outcome::Failed { ok, not_ok: not_ok.max(1) },
    };
    Answers { outcomes: [(case.to_owned(), outcome)].into(), broke: None }
}

/// A group of contest prints `2 / 7 : name : ok` for each of its tests, between two lines of its own.
pub(super) fn of_contest(case: &str, text: &str, code: i32) -> Answers {
    let mut outcomes = BTreeMap::new();
    for line in text.lines() {
        let mut parts = line.splitn(4, " : ").skip(1);
        let (Some(name), Some(word)) = (parts.next(), parts.next()) else { continue };
        let outcome = match word.trim() {
            "ok" => Outcome::Passed,
            "not ok" => Outcome::Failed { ok: 0, not_ok: 1 },
            "skipped" => Outcome::Skipped,
            _ => continue,
        };
        outcomes.insert(format!("{case}::{name}"), outcome);
    }
    let ended = text.lines().any(|line| line == format!("# End group {case}"));
    Answers { outcomes, broke: (!ended).then(|| broke(code)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap(text: &str, code: i32) -> Outcome {
        of_tap("kill", text, code).outcomes["kill"]
    }

    #[test]
    fn a_program_passes_if_nothing_that_it_asserts_or_reports_is_wrong() {
        assert_eq!(tap("TAP version 13\nok 1 - a\nok 2 - b\n1..2\n", 0), Outcome::Passed);
        let reports = "TAP version 13\n  ---\n  {\n    \"error\": \"late\"\n  }\n  ...\n1..0\n";
        assert_eq!(tap(reports, 0), Outcome::Failed { ok: 0, not_ok: 1 });
        assert_eq!(tap("TAP version 13\n1..0\n", 0), Outcome::Passed);
        assert_eq!(tap("ok 1 # SKIP no cgroups\n", 0), Outcome::Skipped);
    }

    #[test]
    fn a_program_that_ends_early_fails_with_what_held_before() {
        assert_eq!(tap("ok 1 - a\nnot found\n", 1), Outcome::Failed { ok: 1, not_ok: 1 });
        assert_eq!(tap("ok 1 - a\n", 124), Outcome::Broke("timed out"));
    }

    #[test]
    fn what_a_program_quotes_is_not_its_own() {
        let text = "  ---\n  stdout: |\n    not ok 1 - b\n  ...\nok 1 - a\n";
        assert_eq!(tap(text, 0), Outcome::Passed);
    }

    #[test]
    fn tests_of_a_group_have_their_own_outcomes() {
        let text = "\
# Start group kill
1 / 3 : a : ok
2 / 3 : b : not ok
\tno : such : container
3 / 3 : c : skipped
\tnot here
# End group kill
";
        let answers = of_contest("kill", text, 0);
        let expected = [
            ("kill::a".into(), Outcome::Passed),
            ("kill::b".into(), Outcome::Failed { ok: 0, not_ok: 1 }),
            ("kill::c".into(), Outcome::Skipped),
        ];
        assert_eq!(answers, Answers { outcomes: expected.into(), broke: None });
        assert_eq!(of_contest("kill", "thread panicked", 101).broke, Some("broke off"));
    }

    #[test]
    fn one_that_fails_later_is_ahead_of_one_that_fails_at_once() {
        let failed = |ok| Outcome::Failed { ok, not_ok: 1 };
        assert!(failed(1).is_behind(failed(2)));
        assert!(Outcome::Skipped.is_behind(Outcome::Passed));
        assert!(!failed(0).is_behind(Outcome::Skipped));
        assert!(!Outcome::Passed.is_behind(Outcome::Passed));
    }
}
