//! The timeline of a start as a picture: a bar for each step, as long as it took.

use std::fmt::Write;

use crate::figures::Moment;

/// Pixels.
const WIDTH: f64 = 900.0;
const LABEL: f64 = 190.0;
const ROW: f64 = 20.0;
const HEAD: f64 = 44.0;

/// Room for a duration behind the longest bar.
const TAIL: f64 = 70.0;

/// Who noted the moment that ends a step, and the step's colour.
const COLOURS: [(&str, &str); 3] =
    [("runtime", "#4878a8"), ("vmm", "#c07840"), ("stopwatch", "#888888")];

/// Draws what lies between one moment and the next; a step is called by the moment that ends it.
pub(crate) fn timeline(moments: &[Moment]) -> String {
    let end_ns = moments.last().map_or(1, |moment| moment.at_ns.max(1));
    let scale = (WIDTH - LABEL - TAIL) / end_ns as f64;
    let steps: Vec<_> = moments.windows(2).collect();
    let height = HEAD + ROW * steps.len() as f64 + 10.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"18\" font-size=\"14\">microvm run of busybox /bin/true: {} ms</text>\n",
        ms(end_ns)
    );
    for (at, (who, colour)) in (0..).zip(COLOURS) {
        let x = LABEL + 110.0 * f64::from(at);
        line(
            &mut out,
            &format!("<rect x=\"{x}\" y=\"26\" width=\"10\" height=\"10\" fill=\"{colour}\"/>"),
        );
        line(&mut out, &format!("<text x=\"{}\" y=\"35\">{who}</text>", x + 15.0));
    }
    for (at, step) in steps.iter().enumerate() {
        let [from, to] = step else { continue };
        let y = HEAD + ROW * at as f64;
        let took_ns = to.at_ns.saturating_sub(from.at_ns);
        let (x, width) = (LABEL + from.at_ns as f64 * scale, (took_ns as f64 * scale).max(1.0));
        let colour =
            COLOURS.iter().find(|(who, _)| *who == to.source).map_or("black", |(_, it)| it);
        line(
            &mut out,
            &format!(
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LABEL - 8.0,
                y + 13.0,
                escaped(&to.name)
            ),
        );
        line(
            &mut out,
            &format!(
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"14\" fill=\"{colour}\"/>",
                y + 2.0
            ),
        );
        line(
            &mut out,
            &format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#444444\">{}</text>",
                x + width + 5.0,
                y + 13.0,
                ms(took_ns)
            ),
        );
    }
    out.push_str("</svg>\n");
    out
}

fn ms(ns: u64) -> String {
    format!("{:.2}", ns as f64 / 1e6)
}

/// As text stands in XML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn line(out: &mut String, text: &str) {
    // Writing to a string cannot be refused.
    let _ = writeln!(out, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_as_long_as_it_took_and_called_by_its_end() {
        let moment = |name: &str, at_ns| Moment { name: name.into(), source: "vmm".into(), at_ns };
        let moments = [moment("exec", 0), moment("a<b", 1_000_000), moment("exit", 4_000_000)];
        let picture = timeline(&moments);
        let bars: Vec<f64> = picture
            .lines()
            .filter(|line| line.contains("height=\"14\""))
            .map(|line| line.split("width=\"").nth(1).unwrap().split('"').next().unwrap())
            .map(|width| width.parse().unwrap())
            .collect();
        assert_eq!(bars, [160.0, 480.0]);
        assert!(picture.contains(">a&lt;b<") && picture.contains(">3.00<"), "{picture}");
        assert!(picture.ends_with("</svg>\n"));
    }

    #[test]
    fn no_moments_are_an_empty_picture() {
        assert!(timeline(&[]).starts_with("<svg "));
    }
}
