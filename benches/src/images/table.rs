//! The costs of images, as a table for a terminal.

use super::{Cost, Images, Turn};
use crate::report::{line, ms};

/// What a reader must know before believing a number.
const WHAT_IT_DOES_NOT_SHOW: &str = "\
x: microvm's as a multiple of this one's. disk: what the store takes more than an empty one; left: what it still
does when the image is removed. containerd's daemon is up before; microvm and podman start with each command.
What this does not show: a disk that takes time (it is memory with an ext4 without a journal, where to sync costs
next to nothing; microvm has synced what it pulled, the others have not), a network (the registry is on loopback,
and its instructions count for all alike), what several processors would do at the same time, and a processor
that has instructions for SHA-256, which this one has not. One nanosecond is one instruction.

";

/// A line for each image and engine.
pub(crate) fn table(images: &Images) -> String {
    let mut out = "Images pulled and unpacked into an empty store, medians\n\n".to_owned();
    line(
        &mut out,
        format_args!(
            "{:<9}{:>7}{:>11}  {:<11}{:>5}{:>12}{:>7}{:>10}{:>7}{:>11}{:>7}{:>11}{:>9}",
            "",
            "layers",
            "packed MB",
            "",
            "runs",
            "pull ms",
            "x",
            "disk MB",
            "x",
            "again ms",
            "x",
            "remove ms",
            "left MB"
        ),
    );
    for image in &images.images {
        let ours = image.costs.first();
        let mut about =
            format!("{:<9}{:>7}{:>11}", image.name, image.layers, mb(image.packed_bytes));
        for ((engine, _), cost) in images.engines.iter().zip(&image.costs) {
            let of = |what: fn(&Turn) -> u64| cost.of(what).unwrap_or_default();
            let x = |what: fn(&Turn) -> u64| ratio(ours, cost, what);
            line(
                &mut out,
                format_args!(
                    "{about:<27}  {engine:<11}{:>5}{:>12}{:>7}{:>10}{:>7}{:>11}{:>7}{:>11}{:>9}",
                    cost.turns.len(),
                    ms(of(|turn| turn.pull_ns)),
                    x(|turn| turn.pull_ns),
                    mb(of(|turn| turn.stored_bytes)),
                    x(|turn| turn.stored_bytes),
                    ms(of(|turn| turn.again_ns)),
                    x(|turn| turn.again_ns),
                    ms(of(|turn| turn.remove_ns)),
                    mb(of(|turn| turn.left_bytes)),
                ),
            );
            about.clear();
        }
    }
    out.push('\n');
    for (_, version) in &images.engines {
        line(&mut out, format_args!("{version}"));
    }
    out.push_str(WHAT_IT_DOES_NOT_SHOW);
    out
}

/// Ours by theirs; nothing for ours.
fn ratio(ours: Option<&Cost>, theirs: &Cost, what: fn(&Turn) -> u64) -> String {
    let ours = ours.filter(|ours| !std::ptr::eq(*ours, theirs));
    let ratio = || Some(ours?.of(what)? as f64 / theirs.of(what)? as f64);
    ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
}

fn mb(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::super::Image;
    use super::*;
    use crate::report::tests::figures;

    #[test]
    fn a_peers_line_says_how_many_times_its_figures_ours_are() {
        let turn = |pull_ns, stored_bytes| Turn {
            pull_ns,
            again_ns: 10_000_000,
            remove_ns: 20_000_000,
            stored_bytes,
            left_bytes: 100_000,
        };
        let cost = |turns| Cost { turns };
        let images = Images {
            machine: figures().machine,
            engines: ["microvm", "podman"]
                .map(|name| (name.to_owned(), format!("{name} 1")))
                .into(),
            images: vec![Image {
                name: "small".to_owned(),
                layers: 3,
                packed_bytes: 1_500_000,
                costs: vec![
                    cost(vec![
                        turn(90_000_000, 3_000_000),
                        turn(30_000_000, 3_000_000),
                        turn(40_000_000, 3_000_000),
                    ]),
                    cost(vec![turn(80_000_000, 6_000_000)]),
                ],
            }],
        };
        let text = table(&images);
        let rows: Vec<Vec<_>> =
            text.lines().skip(3).map(|line| line.split_whitespace().collect()).collect();
        let ours = [
            "small", "3", "1.5", "microvm", "3", "40.000", "-", "3.0", "-", "10.000", "-",
            "20.000", "0.1",
        ];
        let theirs =
            ["podman", "1", "80.000", "0.50", "6.0", "0.50", "10.000", "1.00", "20.000", "0.1"];
        assert_eq!(rows[0], ours);
        assert_eq!(rows[1], theirs);
    }
}
