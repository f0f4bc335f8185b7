//! A token bucket in whole numbers.
//!
//! The level counts units × milliseconds of the period, so that it falls by `elapsed × count` without a remainder. Every
//! number stays below [`MAX`], because a script in Redis (Lua) calculates with doubles, and must come to the same results.

/// Numbers up to this one are exact in a double.
pub const MAX: u64 = 1 << 53;

/// How much may flow. All products of its numbers are at most [`MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: u64,
    burst: u64,
    period: u64,
}

impl Rate {
    /// `count` units in `period` milliseconds, and at most `burst` at once. `None` if a number is zero, or a product is too
    /// large.
    pub fn new(count: u64, burst: u64, period: u64) -> Option<Self> {
        let is_small =
            |number: u64| number.checked_mul(period).is_some_and(|product| (1..=MAX).contains(&product));
        (is_small(count) && is_small(burst)).then_some(Self { count, burst, period })
    }

    /// Units that flow off in a period.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The period, in milliseconds.
    pub fn period(&self) -> u64 {
        self.period
    }

    /// An equal part of the rate for each of `parts`. `None` if its numbers are too large.
    pub(super) fn part(&self, parts: u64) -> Option<Self> {
        Self::new(self.count, (self.burst / parts).max(1), self.period.checked_mul(parts)?)
    }

    /// The most units at once.
    pub fn burst(&self) -> u64 {
        self.burst
    }

    fn full(&self) -> u64 {
        self.burst * self.period
    }

    /// Returns as many of `units` as one request is charged at most before it is known what it uses. The level stays below
    /// [`MAX`] with them, so that exactly what was added can be given back.
    pub(super) fn chargeable(&self, units: u64) -> u64 {
        units.min((MAX / 4 / self.period).max(self.burst))
    }

    /// Milliseconds until so much has flowed off, rounded up.
    fn time_for(&self, level: u64) -> u64 {
        level.div_ceil(self.count)
    }
}

/// The state of a bucket. A new one is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Units × milliseconds, at the time `at`.
    level: u64,
    /// Milliseconds on the caller's clock.
    at: u64,
}

impl Bucket {
    /// A bucket without room at the time `at`.
    pub(super) fn full(rate: &Rate, at: u64) -> Self {
        Self { level: rate.full(), at }
    }

    /// Sets the level at a time.
    pub(super) fn set(&mut self, level: u64, now: u64) {
        *self = Self { level: level.min(MAX), at: now };
    }

    /// Returns the level, in units × milliseconds.
    pub(super) fn level(&mut self, rate: &Rate, now: u64) -> u64 {
        self.drain(rate, now);
        self.level
    }

    /// Adds units that were taken elsewhere.
    pub(super) fn note(&mut self, rate: &Rate, units: u64, now: u64) {
        self.drain(rate, now);
        self.add(rate, units);
    }
    /// Lets flow off what `now` allows. An earlier time changes nothing: callers read the clock before they wait for a
    /// lock.
    fn drain(&mut self, rate: &Rate, now: u64) {
        let elapsed = now.saturating_sub(self.at);
        self.level = self.level.saturating_sub(elapsed.saturating_mul(rate.count));
        self.at = self.at.max(now);
    }

    /// Returns the milliseconds until there is room for `cost` units.
    pub fn wait_for(&mut self, rate: &Rate, cost: u64, now: u64) -> u64 {
        self.drain(rate, now);
        let room = rate.full() - cost.min(rate.burst) * rate.period;
        rate.time_for(self.level.saturating_sub(room))
    }

    /// Adds `cost` units if there is room for them. More units than fit into an empty bucket need an empty one, and are
    /// added all the same, so that what follows waits for them.
    ///
    /// # Errors
    /// There is no room: the milliseconds until there is.
    pub fn take(&mut self, rate: &Rate, cost: u64, now: u64) -> Result<(), u64> {
        self.take_ahead(rate, cost, now, 0).map(drop)
    }

    /// Like [`Bucket::take`], but also reserves units that become available within `ahead` milliseconds. Returns how long the
    /// caller must wait for them; later callers queue behind the reservation.
    ///
    /// # Errors
    /// There is no room within that time: the milliseconds until there is.
    pub fn take_ahead(&mut self, rate: &Rate, cost: u64, now: u64, ahead: u64) -> Result<u64, u64> {
        let wait = self.wait_for(rate, cost, now);
        if wait > ahead {
            return Err(wait);
        }
        self.add(rate, cost);
        Ok(wait)
    }

    /// Adds units whether there is room or not.
    pub fn add(&mut self, rate: &Rate, units: u64) {
        self.level = self.level.saturating_add(units.saturating_mul(rate.period)).min(MAX);
    }

    /// Takes units out that were added and not used.
    pub fn give_back(&mut self, rate: &Rate, units: u64) {
        self.level = self.level.saturating_sub(units.saturating_mul(rate.period));
    }

    /// Returns how many units there is room for.
    pub fn room(&mut self, rate: &Rate, now: u64) -> u64 {
        self.drain(rate, now);
        rate.full().saturating_sub(self.level) / rate.period
    }

    /// Returns the milliseconds until the bucket is empty.
    pub fn empty_in(&mut self, rate: &Rate, now: u64) -> u64 {
        self.drain(rate, now);
        rate.time_for(self.level)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Rate (count, burst, period), then steps: time, cost, and the answer (`None`: admitted, else the wait).
    pub(in crate::limits) type Case = ((u64, u64, u64), &'static [(u64, u64, Option<u64>)]);

    /// The cases that every implementation of the bucket has to agree on.
    pub(in crate::limits) const CASES: [Case; 6] = [
        // One at a time, ten in a second.
        (
            (10, 1, 1000),
            &[(0, 1, None), (0, 1, Some(100)), (99, 1, Some(1)), (100, 1, None), (150, 1, Some(50))],
        ),
        // A burst, then the rate.
        (
            (1, 3, 1000),
            &[(0, 1, None), (0, 2, None), (1, 1, Some(999)), (1000, 1, None), (1000, 1, Some(1000))],
        ),
        // After a long time it is empty, not more than that.
        ((1, 2, 1000), &[(5, 2, None), (1_000_000, 2, None), (1_000_000, 1, Some(1000))]),
        // More than fits needs an empty bucket, and the next waits for all of it.
        ((10, 10, 1000), &[(0, 25, None), (0, 1, Some(1600)), (2400, 30, Some(100)), (2500, 30, None)]),
        // Nothing costs nothing, unless it is over.
        (
            (1, 1, 1000),
            &[(0, 0, None), (0, 5, None), (0, 0, Some(4000)), (4000, 0, None), (4000, 1, Some(1000))],
        ),
        // The clock of a later caller may be behind.
        ((1, 1, 1000), &[(5000, 1, None), (4000, 1, Some(1000)), (6000, 1, None)]),
    ];

    #[test]
    fn the_table_of_cases() {
        for (case, ((count, burst, period), steps)) in CASES.into_iter().enumerate() {
            let rate = Rate::new(count, burst, period).unwrap();
            let mut bucket = Bucket::default();
            for (now, cost, expected) in steps {
                assert_eq!(bucket.take(&rate, *cost, *now).err(), *expected, "case {case} at {now}");
            }
        }
    }

    #[test]
    fn corrections_room_and_reset() {
        let rate = Rate::new(60, 60, 60_000).unwrap();
        let mut bucket = Bucket::default();
        assert_eq!((bucket.room(&rate, 0), bucket.empty_in(&rate, 0)), (60, 0));
        bucket.take(&rate, 50, 0).unwrap();
        bucket.give_back(&rate, 20);
        assert_eq!((bucket.room(&rate, 0), bucket.empty_in(&rate, 0)), (30, 30_000));
        bucket.add(&rate, 90);
        assert_eq!((bucket.room(&rate, 0), bucket.empty_in(&rate, 0)), (0, 120_000));
        bucket.give_back(&rate, 500);
        assert_eq!(bucket.room(&rate, 1), 60);
    }

    #[test]
    fn numbers_stay_exact() {
        assert_eq!(Rate::new(0, 1, 1000), None);
        assert_eq!(Rate::new(1, 0, 1000), None);
        assert_eq!(Rate::new(MAX, 1, 1000), None);
        let day = 24 * 3_600_000;
        assert!(Rate::new(100_000_000, 100_000_000, day).is_some());
        assert!(Rate::new(200_000_000, 1, day).is_none());
        let rate = Rate::new(1, 1, day).unwrap();
        let mut bucket = Bucket::default();
        bucket.add(&rate, u64::MAX);
        assert_eq!(bucket.take(&rate, 1, u64::MAX / 2), Ok(()), "an old level has flowed off");
        bucket.add(&rate, u64::MAX);
        assert!(bucket.take(&rate, 1, u64::MAX / 2).is_err_and(|wait| wait <= MAX));
    }

    proptest::proptest! {
        /// However requests are spread, in no time span more pass than the burst and what flows off meanwhile.
        #[test]
        fn never_more_than_burst_and_rate(
            count in 1..50_u64, burst in 1..50_u64,
            steps in proptest::collection::vec((0..400_u64, 1..5_u64), 1..200),
        ) {
            let rate = Rate::new(count, burst, 1000).unwrap();
            let (mut bucket, mut now, mut passed) = (Bucket::default(), 0, Vec::new());
            for (pause, cost) in steps {
                now += pause;
                let cost = cost.min(burst);
                if bucket.take(&rate, cost, now).is_ok() {
                    passed.push((now, cost));
                }
            }
            for (first, (begun, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for (at, cost) in &passed[first..] {
                    sum += cost;
                    proptest::prop_assert!(sum * 1000 <= burst * 1000 + (at - begun) * count);
                }
            }
        }

        /// However long requests may wait, none goes on before its time, and they go on in the order in which they came.
        #[test]
        fn who_waits_passes_no_limit(
            count in 1..50_u64, burst in 1..50_u64,
            steps in proptest::collection::vec((0..400_u64, 1..5_u64, 0..2000_u64), 1..200),
        ) {
            let rate = Rate::new(count, burst, 1000).unwrap();
            let (mut bucket, mut now, mut passed) = (Bucket::default(), 0, Vec::new());
            for (pause, cost, ahead) in steps {
                now += pause;
                let cost = cost.min(burst);
                if let Ok(wait) = bucket.take_ahead(&rate, cost, now, ahead) {
                    proptest::prop_assert!(wait <= ahead);
                    passed.push((now + wait, cost));
                }
            }
            proptest::prop_assert!(passed.is_sorted_by_key(|(at, _)| *at));
            for (first, (begun, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for (at, cost) in &passed[first..] {
                    sum += cost;
                    // A wait is rounded up to a millisecond.
                    proptest::prop_assert!(sum * 1000 <= burst * 1000 + (at - begun + 1) * count);
                }
            }
        }

        /// A request that was told to wait is admitted after that time, and not a millisecond earlier.
        #[test]
        fn the_wait_is_exact(count in 1..50_u64, burst in 1..50_u64, taken in 1..200_u64, cost in 1..50_u64) {
            let rate = Rate::new(count, burst, 1000).unwrap();
            let mut bucket = Bucket::default();
            bucket.add(&rate, taken);
            if let Err(wait) = bucket.take(&rate, cost, 0) {
                proptest::prop_assert!(bucket.take(&rate, cost, wait - 1).is_err());
                proptest::prop_assert!(bucket.take(&rate, cost, wait).is_ok());
            }
        }
    }
}
