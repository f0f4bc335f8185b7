//! Limits how fast one client address may start sessions: a token bucket for each address, IPv6 by its /64.
//!
//! Memory is bounded: there are two tables of fixed size, in each of which an address shares its bucket with other
//! addresses of the same hash. A start passes if either bucket has a token, so an unrelated address is delayed only
//! if it shares buckets with busy addresses in both tables. A bucket is one number, the moment at which it is full
//! again (generic cell rate algorithm).

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::Moment;
use crate::ids::ClientNetwork;
use crate::session::settings::StartRate;

/// Buckets in one table.
const BUCKETS: usize = 16_384;
/// Microseconds in a second.
const SECOND: u64 = 1_000_000;

/// The token buckets.
pub(in crate::session) struct StartLimiter {
    tables: [Box<[AtomicU64]>; 2],
    hashers: [RandomState; 2],
}

impl Default for StartLimiter {
    fn default() -> Self {
        let table = || (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        Self { tables: [table(), table()], hashers: [RandomState::new(), RandomState::new()] }
    }
}

impl std::fmt::Debug for StartLimiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Starts")
    }
}

impl StartLimiter {
    /// Takes a token for a session that `address` starts.
    ///
    /// # Errors The time until a token is available.
    pub(in crate::session) fn take(
        &self,
        address: IpAddr,
        rate: StartRate,
        now: Moment,
    ) -> Result<(), Duration> {
        if rate.per_second == 0 {
            return Ok(());
        }
        let network = ClientNetwork::of(address);
        let taken = [0, 1].map(|at| {
            let slot = self.hashers[at].hash_one(network) as usize % BUCKETS;
            pour(&self.tables[at][slot], rate, now)
        });
        match taken {
            [Err(a), Err(b)] => Err(a.min(b)),
            _ => Ok(()),
        }
    }
}

/// Takes a token from one bucket, or returns the time until it has one.
fn pour(bucket: &AtomicU64, rate: StartRate, now: Moment) -> Result<(), Duration> {
    let interval = (SECOND / u64::from(rate.per_second)).max(1);
    let now = now.as_millis().saturating_mul(1000);
    let latest = now.saturating_add(interval.saturating_mul(u64::from(rate.burst.max(1))));
    let next = |full: u64| full.max(now).saturating_add(interval);
    bucket
        .fetch_update(Relaxed, Relaxed, |full| Some(next(full)).filter(|next| *next <= latest))
        .map(drop)
        .map_err(|full| Duration::from_micros(next(full) - latest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: StartRate = StartRate { per_second: 2, burst: 3 };

    fn at(millis: u64) -> Moment {
        Moment::from_millis(1_000_000 + millis)
    }

    fn take(starts: &StartLimiter, address: &str, millis: u64) -> Result<(), u128> {
        starts.take(address.parse().unwrap(), RATE, at(millis)).map_err(|wait| wait.as_millis())
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let starts = StartLimiter::default();
        for _ in 0..3 {
            assert_eq!(take(&starts, "192.0.2.1", 0), Ok(()));
        }
        assert_eq!((take(&starts, "192.0.2.1", 0), take(&starts, "192.0.2.1", 400)), (Err(500), Err(100)));
        assert_eq!(
            (take(&starts, "::ffff:192.0.2.1", 500), take(&starts, "192.0.2.1", 500)),
            (Ok(()), Err(500))
        );
        assert_eq!(take(&starts, "192.0.2.2", 0), Ok(()), "another address has its own");
        let unlimited = StartRate { per_second: 0, burst: 0 };
        assert!((0..100).all(|_| starts.take("192.0.2.1".parse().unwrap(), unlimited, at(0)).is_ok()));
    }

    #[test]
    fn a_prefix_of_64_bits_is_one_address() {
        let starts = StartLimiter::default();
        for host in 1..=3 {
            assert_eq!(take(&starts, &format!("2001:db8:0:1::{host}"), 0), Ok(()));
        }
        assert_eq!(take(&starts, "2001:db8:0:1:ffff::9", 0), Err(500));
        assert_eq!(take(&starts, "2001:db8:0:2::1", 0), Ok(()));
    }

    #[test]
    fn a_crowd_of_busy_addresses_holds_up_few_others() {
        let starts = StartLimiter::default();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        for busy in 0..1000 {
            while starts.take(address(busy), RATE, at(0)).is_ok() {}
        }
        let held_up =
            (1000..11_000).filter(|other| starts.take(address(*other), RATE, at(0)).is_err()).count();
        assert!(held_up < 200, "{held_up}");
    }
}
