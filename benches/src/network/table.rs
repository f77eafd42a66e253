//! The costs of the network, as tables for a terminal.

use super::{CONTAINERS, Network};
use crate::figures::Outcome;
use crate::report::{line, ms};

/// What a reader must know before believing a number.
const WHAT_IT_DOES_NOT_SHOW: &str = "\
x runc: as a multiple of runc's container. packets and exits: of one MiB or one round trip; a packet that is yet to
be cut into segments is one. veth: the container's network namespace has an end of one, whose other end is the
host's. bridge: the network `default`; \"not alone\" there is a container already, and so are the bridge and the
rules.
What this does not show: what several processors would do at the same time (the peer, the VMM and the guest take
turns on one), and what a VM exit costs. One nanosecond is one instruction.

";

/// A line for each way and container, and one for each start.
pub(crate) fn table(network: &Network) -> String {
    let mut out = "TCP between a container and a peer on the host\n\n".to_owned();
    let title = format!("{:>8}  {:<19}{:<17}", "times", "", "");
    line(
        &mut out,
        format_args!(
            "{title}{:>12}{:>12}{:>9}{:>10}{:>9}",
            "ms", "us each", "x runc", "packets", "exits"
        ),
    );
    for talk in &network.talks {
        let mut about = format!("{:>8}  {:<19}", talk.count, talk.way.name());
        let each = |number: u64| number as f64 / talk.count as f64;
        for container in CONTAINERS {
            let (Some(cost), Some(ratio)) = (talk.costs.get(container), talk.ratio(container))
            else {
                continue;
            };
            let exits: u64 = cost.exits.values().sum();
            line(
                &mut out,
                format_args!(
                    "{about:<29}{container:<17}{:>12}{:>12.1}{ratio:>9.2}{:>10.1}{:>9.1}",
                    ms(cost.ns),
                    each(cost.ns) / 1e3,
                    each(cost.packets),
                    each(exits)
                ),
            );
            about.clear();
        }
    }
    out.push_str("\nFrom start to exit of busybox `/bin/true`, medians\n\n");
    line(&mut out, format_args!("{:<29}{:>12}{:>12}{:>12}", "", "min ms", "median ms", "max ms"));
    for series in &network.starts {
        let name = &series.name;
        let times =
            series.spread().map(|spread| [spread.min_ns, spread.median_ns, spread.max_ns].map(ms));
        match (times, &series.outcome) {
            (Some([min, median, max]), _) => {
                line(&mut out, format_args!("{name:<29}{min:>12}{median:>12}{max:>12}"));
            }
            (None, Outcome::Failed(why)) => {
                line(&mut out, format_args!("{name:<29}no figure: {why}"));
            }
            (None, Outcome::ElapsedNs(_)) => {}
        }
    }
    [&out, "\n", WHAT_IT_DOES_NOT_SHOW].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use crate::figures::{Machine, Series};
    use crate::network::{Cost, RUNC, Talk, VETH};
    use crate::talk::Way;

    #[test]
    fn a_line_shows_what_one_costs_and_how_often_runc_s() {
        let cost = |ns, packets, exits: &[(&str, u64)]| Cost {
            ns,
            packets,
            exits: exits.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
        };
        let costs = BTreeMap::from([
            (RUNC.to_owned(), cost(4_000_000, 40, &[])),
            (VETH.to_owned(), cost(10_000_000, 20, &[("hlt", 3), ("npf", 5)])),
        ]);
        let machine =
            Machine { kernel: "6.12".into(), clocksource: "tsc".into(), processor: "some".into() };
        let series =
            |name: &str, outcome| Series { name: name.into(), version: String::new(), outcome };
        let starts = vec![
            series("microvm, none", Outcome::ElapsedNs(vec![5_000_000, 1_000_000, 2_000_000])),
            series("microvm, veth", Outcome::Failed("no tap".into())),
        ];
        let talks = vec![Talk { way: Way::Send, count: 4, costs }];
        let text = table(&Network { machine, talks, starts });
        let find = |start: &str| text.lines().find(|line| line.trim_start().starts_with(start));
        let words = |start| find(start).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words("4  MiB"), "4 MiB to the peer runc, veth 4.000 1000.0 1.00 10.0 0.0");
        assert_eq!(words("microvm, veth  "), "microvm, veth 10.000 2500.0 2.50 5.0 2.0");
        assert_eq!(words("microvm, none"), "microvm, none 1.000 2.000 5.000");
        assert!(text.contains("no figure: no tap"), "{text}");
    }
}
