//! What a guest takes for true of each file: so that an open can tell it what it has missed, and can leave
//! it the pages that are still right.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a guest may believe what it was told of names, directories and files.
pub(super) const MAX_AGE: Duration = Duration::from_secs(1);

/// More files than a guest can know at once: the server has a descriptor for each. One that forgets a file and asks for
/// it at the same time leaves something behind here.
const MOST: usize = 2 << 20;

/// A state of a file. Two states have two stamps, unless both are of one tick of the clock of whoever keeps
/// the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    size: i64,
    /// Since 1970.
    modified: Duration,
    changed: Duration,
    /// No name leads to it any more.
    is_gone: bool,
}

impl Stamp {
    pub(super) fn of(stat: &libc::stat64) -> Self {
        let since = |seconds: i64, nanoseconds: i64| {
            let nanoseconds = u32::try_from(nanoseconds).unwrap_or(0);
            Duration::new(u64::try_from(seconds).unwrap_or(0), nanoseconds)
        };
        Self {
            size: stat.st_size,
            modified: since(stat.st_mtime, stat.st_mtime_nsec),
            changed: since(stat.st_ctime, stat.st_ctime_nsec),
            is_gone: stat.st_nlink == 0,
        }
    }

    /// Whether who reads and knows the one state has what it needs of the other. Owners, modes and names
    /// change without that: a guest does so itself, and an overlay file system in it takes no refusal.
    fn reads_like(&self, other: &Self) -> bool {
        (self.size, self.modified, self.is_gone) == (other.size, other.modified, other.is_gone)
    }

    /// Whether another state from `now` on, since 1970, would have another stamp. A whole [`MAX_AGE`] is
    /// more than any tick, and something for a clock of another machine.
    fn is_settled(&self, now: Duration) -> bool {
        now.saturating_sub(self.changed) > MAX_AGE
    }
}

/// What a guest takes for true of one file.
#[derive(Debug, Default)]
struct Belief {
    /// The state that it was told of; nothing if it is going to ask before it believes anything.
    told: Option<Stamp>,
    /// The state that no page it has is older than.
    pages: Option<Stamp>,
    /// An open was refused: the next goes through whatever has changed again meanwhile.
    refused: Option<Refusal>,
    /// Nothing is believed of it: who opens it does not come by its name, by which it could be looked up.
    is_asked_for: bool,
}

/// An open that was refused, and has not come again.
#[derive(Debug, Default)]
struct Refusal {
    /// The guest was told of the file since then, of which it believes nothing.
    told: bool,
}

/// What becomes of an open.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// The guest knows the file as it was, and has to look it up again.
    Stale,
    /// It knows it as it is, or asks before it believes anything.
    Known {
        /// And so are the pages that it has.
        keeps_pages: bool,
    },
    /// It was refused once and knows no better: whoever opened it did not come by its name. What it reads it has to
    /// ask for, whatever it believes.
    Unknown,
}

/// What the guest believes of all the files that it knows.
#[derive(Debug, Default)]
pub(super) struct Beliefs(Mutex<BTreeMap<u64, Belief>>);

impl Beliefs {
    /// The guest is about to be told of `inode`. Gives how long it may believe it.
    pub(super) fn told(&self, inode: u64, stamp: Stamp) -> Duration {
        self.with(|beliefs| {
            if beliefs.len() >= MOST {
                beliefs.clear();
            }
            let belief = beliefs.entry(inode).or_default();
            belief.told = Some(stamp);
            if belief.is_asked_for {
                return Duration::ZERO;
            }
            // It is told once more when it has opened the file: no refusal will come then.
            belief.refused.as_mut().map_or(MAX_AGE, |refusal| {
                refusal.told = true;
                Duration::ZERO
            })
        })
    }

    /// From here on the guest believes nothing of `inode`.
    pub(super) fn ask_for(&self, inode: u64) {
        self.with(|beliefs| beliefs.entry(inode).or_default().is_asked_for = true);
    }

    /// The guest has written to `inode`, or wanted to, and asks for its size and times before it believes them.
    pub(super) fn written(&self, inode: u64) {
        // One that it does not know is nothing to be remembered: it can name any number.
        self.with(|beliefs| beliefs.get_mut(&inode).map(|belief| belief.told = None));
    }

    /// The guest may have forgotten `inode`. If it has not, its next open of it is refused once.
    pub(super) fn forget(&self, inode: u64) {
        self.with(|beliefs| beliefs.remove(&inode));
    }

    /// The guest opens `inode`, which is `found` at `now`, since 1970.
    pub(super) fn open(&self, inode: u64, found: Stamp, now: Duration) -> Opening {
        self.with(|beliefs| {
            let Some(belief) = beliefs.get_mut(&inode) else {
                let refused = Some(Refusal::default());
                beliefs.insert(inode, Belief { refused, ..Belief::default() });
                return Opening::Stale;
            };
            let refused = belief.refused.take();
            let is_stale =
                !belief.is_asked_for && belief.told.is_some_and(|told| !told.reads_like(&found));
            if is_stale && refused.is_none() {
                belief.refused = Some(Refusal::default());
                return Opening::Stale;
            }
            let keeps_pages = belief.pages == Some(found) && refused.is_none();
            belief.pages = found.is_settled(now).then_some(found);
            match refused {
                Some(Refusal { told: false }) if is_stale => Opening::Unknown,
                _ => Opening::Known { keeps_pages },
            }
        })
    }

    fn with<T>(&self, what: impl FnOnce(&mut BTreeMap<u64, Belief>) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: u64 = 7;
    const NOW: Duration = Duration::from_secs(1_000_000);

    /// A state of `size` bytes, changed so long ago.
    fn stamp(size: i64, age: Duration) -> Stamp {
        let changed = NOW.checked_sub(age).unwrap();
        Stamp { size, modified: changed, changed, is_gone: false }
    }

    fn old(size: i64) -> Stamp {
        stamp(size, Duration::from_secs(60))
    }

    fn known(keeps_pages: bool) -> Opening {
        Opening::Known { keeps_pages }
    }

    #[test]
    fn who_missed_a_change_looks_the_file_up_again_and_then_opens_it() {
        let beliefs = Beliefs::default();
        assert_eq!(beliefs.told(FILE, old(1)), MAX_AGE);
        assert_eq!(beliefs.open(FILE, stamp(2, Duration::ZERO), NOW), Opening::Stale);
        assert_eq!(beliefs.told(FILE, stamp(2, Duration::ZERO)), Duration::ZERO);
        // It goes on changing: nobody is refused twice, and what was told meanwhile is not believed.
        assert_eq!(beliefs.open(FILE, stamp(3, Duration::ZERO), NOW), known(false));
        assert_eq!(beliefs.told(FILE, stamp(3, Duration::ZERO)), MAX_AGE);
        assert_eq!(beliefs.open(FILE, stamp(4, Duration::ZERO), NOW), Opening::Stale);
    }

    #[test]
    fn who_opens_a_file_without_its_name_reads_it_as_it_is_all_the_same() {
        let beliefs = Beliefs::default();
        beliefs.told(FILE, old(1));
        assert_eq!(beliefs.open(FILE, stamp(2, Duration::ZERO), NOW), Opening::Stale);
        assert_eq!(beliefs.open(FILE, stamp(2, Duration::ZERO), NOW), Opening::Unknown);
        // What it has been told since then is no older than it says.
        beliefs.told(FILE, stamp(2, Duration::ZERO));
        assert_eq!(beliefs.open(FILE, stamp(2, Duration::ZERO), NOW), known(false));
    }

    #[test]
    fn a_file_of_which_nothing_is_believed_is_opened_at_once() {
        let beliefs = Beliefs::default();
        beliefs.ask_for(FILE);
        assert_eq!(beliefs.told(FILE, old(1)), Duration::ZERO);
        assert_eq!(beliefs.open(FILE, old(2), NOW), known(false));
        assert_eq!(beliefs.open(FILE, old(2), NOW), known(true));
        assert_eq!(beliefs.open(FILE, stamp(3, Duration::ZERO), NOW), known(false));
    }

    #[test]
    fn a_file_in_whose_place_is_another_is_looked_up_and_one_of_another_name_is_not() {
        let beliefs = Beliefs::default();
        beliefs.told(FILE, old(1));
        let renamed = Stamp { changed: NOW, ..old(1) };
        assert_eq!(beliefs.open(FILE, renamed, NOW), known(false));
        let replaced = Stamp { is_gone: true, ..renamed };
        assert_eq!(beliefs.open(FILE, replaced, NOW), Opening::Stale);
    }

    #[test]
    fn who_has_written_asks_by_itself() {
        let beliefs = Beliefs::default();
        beliefs.told(FILE, old(1));
        beliefs.written(FILE);
        assert_eq!(beliefs.open(FILE, stamp(2, Duration::ZERO), NOW), known(false));
    }

    #[test]
    fn pages_are_kept_of_what_cannot_have_changed_unseen() {
        let beliefs = Beliefs::default();
        beliefs.told(FILE, old(1));
        assert_eq!(beliefs.open(FILE, old(1), NOW), known(false));
        assert_eq!(beliefs.open(FILE, old(1), NOW), known(true));
        // One more write in the same tick would look like this one.
        let fresh = stamp(1, Duration::from_millis(5));
        beliefs.told(FILE, fresh);
        assert_eq!(beliefs.open(FILE, fresh, NOW), known(false));
        assert_eq!(beliefs.open(FILE, fresh, NOW + 2 * MAX_AGE), known(false));
        assert_eq!(beliefs.open(FILE, fresh, NOW + 2 * MAX_AGE), known(true));
    }

    #[test]
    fn pages_of_a_file_whose_time_was_set_back_are_dropped() {
        let beliefs = Beliefs::default();
        let (first, second) = (old(1), Stamp { changed: NOW - 2 * MAX_AGE, ..old(1) });
        for _ in 0..2 {
            beliefs.told(FILE, first);
            beliefs.open(FILE, first, NOW);
        }
        // The guest, which compares times of modification only, sees no difference.
        beliefs.told(FILE, second);
        assert_eq!(beliefs.open(FILE, second, NOW), known(false));
        assert_eq!(beliefs.open(FILE, second, NOW), known(true));
    }

    #[test]
    fn a_file_that_nobody_was_told_of_is_not_remembered() {
        let beliefs = Beliefs::default();
        beliefs.written(FILE);
        assert!(beliefs.0.lock().unwrap().is_empty());
    }

    #[test]
    fn of_a_file_that_is_perhaps_forgotten_nothing_is_taken_for_known() {
        let beliefs = Beliefs::default();
        beliefs.told(FILE, old(1));
        beliefs.forget(FILE);
        assert_eq!(beliefs.open(FILE, old(1), NOW), Opening::Stale);
        assert_eq!(beliefs.open(FILE, old(1), NOW), known(false));
    }
}
