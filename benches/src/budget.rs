//! Goals, and whether figures keep them. The goals stand in `benches/budget.json`.

use serde::Deserialize;

use crate::crowd::Crowd;
use crate::figures::Figures;
use crate::start::{BOOTING, LARGE, OURS, life};

/// One goal.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Goal {
    /// What it is about, for a person.
    pub(crate) goal: String,
    pub(crate) measure: Measure,
    /// In the measure's unit.
    pub(crate) at_most: f64,
}

/// What is held against a goal.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    /// The median of our runs, in milliseconds.
    MedianMs,
    /// The median of our runs that boot, in milliseconds.
    MedianOfBootingMs,
    /// The median of our runs by that of the named peer, in the same race.
    RatioTo(String),
    /// The same of `create`, `start` and `delete` together.
    LifeRatioTo(String),
    /// The median of our runs of a large image, as a multiple of that of a small one.
    LargeRatio,
    /// Something about many at once.
    Crowd(CrowdMeasure),
    /// From one moment of the timeline to a later one, in milliseconds.
    BetweenMs(String, String),
    /// VM exits of a run.
    Exits,
}

/// A goal with what was measured for it.
pub(crate) struct Verdict<'a> {
    pub(crate) goal: &'a Goal,
    /// `None` if there is no such figure.
    pub(crate) measured: Option<f64>,
}

impl Verdict<'_> {
    /// What was not measured is not kept.
    pub(crate) fn is_kept(&self) -> bool {
        self.measured.is_some_and(|measured| measured <= self.goal.at_most)
    }
}

/// What of many at once is held against a goal.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CrowdMeasure {
    /// What a container that does nothing has in memory to itself, in MiB.
    PrivateMib,
    /// What the slowest but one in a hundred takes to start, as a multiple of one alone, when each has a
    /// processor.
    P99,
}

/// Holds figures against those goals that they are about.
pub(crate) fn judge<'a>(goals: &'a [Goal], figures: &Figures) -> Vec<Verdict<'a>> {
    let of_starts = goals.iter().filter(|goal| !matches!(goal.measure, Measure::Crowd(_)));
    of_starts.map(|goal| Verdict { goal, measured: measured(&goal.measure, figures) }).collect()
}

/// The same for a crowd.
pub(crate) fn judge_crowd<'a>(goals: &'a [Goal], crowd: &Crowd) -> Vec<Verdict<'a>> {
    let verdict = |goal: &'a Goal| {
        let measured = match &goal.measure {
            Measure::Crowd(CrowdMeasure::PrivateMib) => Some(crowd.private_mib()),
            Measure::Crowd(CrowdMeasure::P99) => crowd.p99_ratio(),
            _ => return None,
        };
        Some(Verdict { goal, measured })
    };
    goals.iter().filter_map(verdict).collect()
}

fn measured(measure: &Measure, figures: &Figures) -> Option<f64> {
    let ours = || figures.median_ns(OURS).map(|ns| ns as f64);
    match measure {
        Measure::MedianMs => Some(ours()? / 1e6),
        Measure::MedianOfBootingMs => Some(figures.median_ns(BOOTING)? as f64 / 1e6),
        Measure::RatioTo(peer) => Some(ours()? / figures.median_ns(peer)? as f64),
        Measure::LifeRatioTo(peer) => {
            let [ours, theirs] = [OURS, peer].map(|name| figures.median_ns(&life(name)));
            Some(ours? as f64 / theirs? as f64)
        }
        Measure::LargeRatio => Some(figures.median_ns(LARGE)? as f64 / ours()?),
        Measure::BetweenMs(from, to) => {
            let ns = figures.moment_ns(to)?.checked_sub(figures.moment_ns(from)?)?;
            Some(ns as f64 / 1e6)
        }
        Measure::Exits => Some(figures.exits()? as f64),
        Measure::Crowd(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::figures;

    fn kept(goal: &str) -> (Option<f64>, bool) {
        let goals = [serde_json::from_str::<Goal>(goal).unwrap()];
        let verdicts = judge(&goals, &figures());
        (verdicts[0].measured, verdicts[0].is_kept())
    }

    #[test]
    fn each_measure_is_held_against_its_figure() {
        let of = |measure: &str, at_most: f64| {
            kept(&format!(r#"{{"goal":"x","measure":{measure},"at_most":{at_most}}}"#))
        };
        assert_eq!(of(r#""median_ms""#, 200.0), (Some(200.0), true));
        assert_eq!(of(r#""median_ms""#, 199.9), (Some(200.0), false));
        assert_eq!(of(r#"{"ratio_to":"runc"}"#, 2.5), (Some(2.5), true));
        assert_eq!(
            of(r#"{"between_ms":["vcpus running","guest ready"]}"#, 25.0),
            (Some(30.0), false)
        );
        assert_eq!(of(r#""exits""#, 10.0), (Some(12.0), false));
    }

    #[test]
    fn a_goal_without_a_figure_is_missed() {
        let goal = r#"{"goal":"x","measure":{"ratio_to":"firecracker"},"at_most":1}"#;
        assert_eq!(kept(goal), (None, false));
    }

    #[test]
    fn the_goals_of_this_house_can_be_read() {
        let goals: Vec<Goal> = serde_json::from_str(include_str!("../budget.json")).unwrap();
        assert!(!goals.is_empty());
    }
}
