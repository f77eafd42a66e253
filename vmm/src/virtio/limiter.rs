//! How fast a device may be.
//!
//! A bucket for bytes and one for requests, each filling at its rate up to its burst. A request that finds what
//! it costs in both takes it; one that costs more than a bucket can hold waits for a full one, and leaves it in
//! debt. Knows no clock: the time is told, as it has passed since some moment.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vmm_sys_util::timerfd::TimerFd;

use crate::event_loop::{Interest, Watch};
use crate::spec::{Limits, Rate};
use crate::sync::lock;
use crate::virtio::device::borrow;

const NS: u128 = 1_000_000_000;

/// A limiter and its clock, for all queues that share it.
#[derive(Debug)]
pub struct Gate {
    limiter: Mutex<Limiter>,
    since: Instant,
}

impl Gate {
    /// One that begins with full buckets, unless nothing is limited.
    pub fn new(limits: &Limits) -> Option<Self> {
        let limiter = Mutex::new(Limiter::new(limits)?);
        Some(Self { limiter, since: Instant::now() })
    }

    fn admit(&self, bytes: usize) -> Result<(), Duration> {
        lock(&self.limiter).admit(self.since.elapsed(), bytes as u64)
    }
}

/// A queue's way through a gate, and what tells when it is worth asking again.
pub struct TimedGate {
    gate: Arc<Gate>,
    timer: TimerFd,
}

impl TimedGate {
    /// One whose timer the subscriber hears of as `token`.
    pub fn new(gate: Arc<Gate>, token: u32, watch: &Watch) -> io::Result<Self> {
        let timer = TimerFd::new()?;
        watch.add(borrow(&timer), token, Interest::Readable)?;
        Ok(Self { gate, timer })
    }

    /// Whether what moves `bytes` may pass, which is paid for then. If not, the timer will say when to ask again.
    pub fn admits(&mut self, bytes: usize) -> bool {
        let Err(wait) = self.gate.admit(bytes) else { return true };
        // A timer of no time at all would never go off. One that cannot be set is none of ours.
        let _ = self.timer.reset(wait.max(Duration::from_nanos(1)), None);
        false
    }

    /// The timer has gone off.
    pub fn opens(&mut self) {
        // Without reading: it may have been set anew since, and would be waited for.
        let _ = self.timer.clear();
    }
}

/// The buckets.
#[derive(Debug)]
struct Limiter {
    bytes: Option<Bucket>,
    requests: Option<Bucket>,
}

impl Limiter {
    /// Full ones, unless nothing is limited.
    fn new(limits: &Limits) -> Option<Self> {
        let [bytes, requests] = [limits.bytes, limits.requests].map(|rate| rate.map(Bucket::new));
        (bytes.is_some() || requests.is_some()).then_some(Self { bytes, requests })
    }

    /// Takes what a request that moves `bytes` costs, or says how long it is until it can be had.
    fn admit(&mut self, now: Duration, bytes: u64) -> Result<(), Duration> {
        let mut wait = Duration::ZERO;
        for (bucket, cost) in self.costs(bytes) {
            bucket.fill(now);
            wait = wait.max(bucket.missing(cost));
        }
        if !wait.is_zero() {
            return Err(wait);
        }
        self.costs(bytes).for_each(|(bucket, cost)| bucket.level -= Bucket::level_of(cost));
        Ok(())
    }

    fn costs(&mut self, bytes: u64) -> impl Iterator<Item = (&mut Bucket, u64)> {
        let bytes = self.bytes.as_mut().map(|bucket| (bucket, bytes));
        bytes.into_iter().chain(self.requests.as_mut().map(|bucket| (bucket, 1)))
    }
}

/// What can be spent. Counted in billionths, so that a rate has no rest over any number of nanoseconds.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    level: i128,
    filled: Duration,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self { rate, level: Self::level_of(rate.burst), filled: Duration::ZERO }
    }

    fn level_of(cost: u64) -> i128 {
        i128::from(cost) * NS as i128
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled);
        // After 580 years it is full whatever its size.
        let more = passed.as_nanos().min(u128::from(u64::MAX)) * u128::from(self.rate.per_second);
        let more = i128::try_from(more).unwrap_or(i128::MAX);
        self.level = self.level.saturating_add(more).min(Self::level_of(self.rate.burst));
        self.filled = self.filled.max(now);
    }

    /// How long it is until there is enough for `cost`.
    fn missing(&self, cost: u64) -> Duration {
        let wanted = Self::level_of(cost.min(self.rate.burst));
        let missing = u128::try_from(wanted - self.level).unwrap_or(0);
        let ns = missing.div_ceil(u128::from(self.rate.per_second));
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn limiter(bytes: Option<(u64, u64)>, requests: Option<(u64, u64)>) -> Limiter {
        let rate = |(per_second, burst)| Rate { per_second, burst };
        Limiter::new(&Limits { bytes: bytes.map(rate), requests: requests.map(rate) }).unwrap()
    }

    /// How many requests of `bytes` are through after `seconds`, asked again whenever it says so.
    fn through(limiter: &mut Limiter, bytes: u64, seconds: u64) -> u64 {
        let (mut now, mut count) = (Duration::ZERO, 0);
        while now <= Duration::from_secs(seconds) {
            match limiter.admit(now, bytes) {
                Ok(()) => count += 1,
                Err(wait) => {
                    assert!(!wait.is_zero());
                    now += wait;
                }
            }
        }
        count
    }

    #[test]
    fn what_is_not_limited_has_no_limiter() {
        assert!(Limiter::new(&Limits::default()).is_none());
    }

    #[test]
    fn the_burst_is_through_at_once_and_the_rate_from_then_on() {
        assert_eq!(through(&mut limiter(None, Some((100, 10))), 4096, 0), 10);
        assert_eq!(through(&mut limiter(None, Some((100, 10))), 4096, 20), 10 + 20 * 100);
        // A rate that does not divide a second.
        assert_eq!(through(&mut limiter(Some((7 * 512, 1024)), None), 512, 100), 2 + 100 * 7);
    }

    #[test]
    fn the_tighter_of_two_limits_counts_and_a_refusal_costs_nothing() {
        let mut both = limiter(Some((1000, 1000)), Some((1, 100)));
        assert_eq!(both.admit(Duration::ZERO, 1000), Ok(()));
        assert_eq!(both.admit(Duration::ZERO, 1000), Err(1000 * MS));
        assert_eq!(both.admit(400 * MS, 1000), Err(600 * MS));
        // 99 requests are left, however often the bytes were refused; those without bytes are through.
        for _ in 0..99 {
            assert_eq!(both.admit(400 * MS, 0), Ok(()));
        }
        assert_eq!(both.admit(400 * MS, 0), Err(600 * MS));
    }

    #[test]
    fn a_request_larger_than_any_burst_waits_for_a_full_bucket_and_is_paid_for_later() {
        let mut bytes = limiter(Some((1000, 100)), None);
        assert_eq!(bytes.admit(Duration::ZERO, 50), Ok(()));
        assert_eq!(bytes.admit(Duration::ZERO, 1_000_000), Err(50 * MS));
        assert_eq!(bytes.admit(50 * MS, 1_000_000), Ok(()));
        // 999,900 in debt, and then as much as is wanted.
        assert_eq!(bytes.admit(50 * MS, 1), Err(999_901 * MS));
    }

    #[test]
    fn nobody_saves_more_than_the_burst_and_no_number_overflows() {
        let mut slow = limiter(Some((10, 20)), None);
        assert_eq!(slow.admit(Duration::ZERO, 20), Ok(()));
        assert_eq!(slow.admit(Duration::MAX, 20), Ok(()));
        assert_eq!(slow.admit(Duration::MAX, 1), Err(100 * MS));
        // A clock that goes back gives nothing.
        assert_eq!(slow.admit(Duration::ZERO, 1), Err(100 * MS));
        let mut fast = limiter(Some((u64::MAX, u64::MAX)), Some((u64::MAX, u64::MAX)));
        assert_eq!(fast.admit(Duration::MAX, u64::MAX), Ok(()));
        let mut slowest = limiter(Some((1, u64::MAX)), None);
        assert_eq!(slowest.admit(Duration::ZERO, u64::MAX), Ok(()));
        assert!(slowest.admit(Duration::ZERO, u64::MAX).is_err());
    }
}
