//! What has to be taken back when a start does not come to its end.

/// Steps that undo what was done, run newest first when the list is dropped.
///
/// An undo cannot report an error to anybody who could act on it, so each does its best and says
/// nothing: what it leaves behind is what the next sweep of the state directory finds.
#[derive(Default)]
pub(crate) struct Undo {
    steps: Vec<Box<dyn FnOnce() + Send>>,
}

impl Undo {
    /// Remembers how to take back what was just done.
    pub(crate) fn push(&mut self, step: impl FnOnce() + Send + 'static) {
        self.steps.push(Box::new(step));
    }

    /// What was done stays: nothing is taken back.
    pub(crate) fn keep(mut self) {
        self.steps.clear();
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        while let Some(step) = self.steps.pop() {
            step();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn list_of(names: &[&'static str]) -> (Undo, Arc<Mutex<Vec<&'static str>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut undo = Undo::default();
        for &name in names {
            let seen = Arc::clone(&seen);
            undo.push(move || seen.lock().unwrap().push(name));
        }
        (undo, seen)
    }

    #[test]
    fn the_newest_step_is_taken_back_first() {
        let (undo, seen) = list_of(&["directory", "lock", "socket"]);
        drop(undo);
        assert_eq!(*seen.lock().unwrap(), ["socket", "lock", "directory"]);
    }

    #[test]
    fn what_is_kept_is_not_taken_back() {
        let (undo, seen) = list_of(&["directory"]);
        undo.keep();
        assert!(seen.lock().unwrap().is_empty());
    }
}
