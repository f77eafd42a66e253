//! How far a pull is: a bar for each layer on a terminal, a line for each elsewhere. On standard error, because
//! standard output is for what can be worked with.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use image::{Digest, News, Reference, Watcher};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::exit::Failure;
use crate::state::record::SHORT_ID_LEN;

/// What is shown while one image is pulled.
pub(super) struct Progress {
    image: String,
    way: Way,
    layers: Mutex<BTreeMap<Digest, Layer>>,
}

enum Way {
    Quiet,
    Lines,
    Bars(MultiProgress),
}

struct Layer {
    bytes: u64,
    /// On a terminal.
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn new(image: &Reference, quiet: bool) -> Self {
        let way = match quiet {
            true => Way::Quiet,
            false if io::stderr().is_terminal() => Way::Bars(MultiProgress::new()),
            false => Way::Lines,
        };
        let progress = Self { image: image.to_string(), way, layers: Mutex::default() };
        progress.say(&format!("pulling {}", progress.image));
        progress
    }

    /// The bars stay as they are, and what follows begins on a line of its own.
    pub(super) fn end(&self) {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let bars: Vec<_> = layers.values().filter_map(|layer| layer.bar.as_ref()).collect();
        bars.iter().for_each(|bar| bar.abandon());
        if !bars.is_empty() {
            let _ = writeln!(io::stderr());
        }
    }

    fn say(&self, line: &str) {
        // With nobody to read it there is nothing to do about it.
        let _ = match &self.way {
            Way::Quiet => Ok(()),
            Way::Lines => writeln!(io::stderr(), "{line}"),
            Way::Bars(bars) => bars.println(line),
        };
    }

    fn begin(&self, layers: &[(Digest, u64)]) {
        let bar = |digest: Digest, bytes| {
            let Way::Bars(bars) = &self.way else { return None };
            let style = "{prefix}  {bar:30}  {bytes:>10} of {total_bytes:<10}  {msg}";
            let style = ProgressStyle::with_template(style).ok()?.progress_chars("=> ");
            let bar =
                bars.add(ProgressBar::new(bytes).with_style(style).with_prefix(short(digest)));
            // Drawn now, and not when the first byte comes.
            bar.tick();
            Some(bar)
        };
        let layer = |&(digest, bytes): &(Digest, u64)| {
            let bar = bar(digest, bytes);
            (digest, Layer { bytes, bar })
        };
        let mut known = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        *known = layers.iter().map(layer).collect();
    }

    fn arrived(&self, layer: Digest, bytes: u64) {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Layer { bar: Some(bar), .. }) = layers.get(&layer) {
            bar.set_position(bytes);
        }
    }

    fn whole(&self, digest: Digest, already: bool) {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(layer) = layers.get(&digest) else { return };
        let word = if already { "there" } else { "pulled" };
        match &layer.bar {
            Some(bar) => {
                bar.set_position(layer.bytes);
                bar.finish_with_message(word);
            }
            None => {
                let megabytes = layer.bytes as f64 / 1e6;
                self.say(&format!("layer {}: {word}, {megabytes:.1} MB", short(digest)));
            }
        }
    }
}

impl Watcher for Progress {
    fn hear(&self, news: News<'_>) {
        match news {
            News::PassedOver { mirror, why } => {
                self.say(&format!("not from mirror {mirror}: {}", Failure::of(why).message));
            }
            News::Layers(layers) => self.begin(layers),
            News::Arrived { layer, bytes } => self.arrived(layer, bytes),
            News::Whole { layer, already } => self.whole(layer, already),
            News::Unpacking => self.say(&format!("unpacking {}", self.image)),
        }
    }
}

fn short(digest: Digest) -> String {
    digest.hex().chars().take(SHORT_ID_LEN).collect()
}
