//! Work in pieces, on as many emulated hosts as there are processors for.

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Result;

use super::{Instance, Up};

/// What gives out the next piece.
type Next<'a, T> = &'a (dyn Fn() -> Option<T> + Sync);

/// Has `act` take pieces of `work`, on each host at the same time, until there are none: a host that is
/// free takes the next. Gives what `act` said on each.
pub(crate) fn share<T: Send, R: Send>(
    work: Vec<T>,
    act: impl Fn(&Up, Next<'_, T>) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let hosts = Instance::several(processors.min(work.len()))?;
    let Some((first, others)) = hosts.split_first() else { return Ok(Vec::new()) };
    // Alone, since it may make the image that all have.
    let first = first.up()?;
    let work = Mutex::new(VecDeque::from(work));
    let next = || work.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let (act, next): (_, Next<'_, T>) = (&act, &next);
    thread::scope(|scope| {
        let others: Vec<_> =
            others.iter().map(|host| scope.spawn(move || act(&host.up()?, next))).collect();
        let first = act(&first, next);
        let others =
            others.into_iter().map(|one| one.join().unwrap_or_else(|panic| resume_unwind(panic)));
        std::iter::once(first).chain(others.collect::<Vec<_>>()).collect()
    })
}
