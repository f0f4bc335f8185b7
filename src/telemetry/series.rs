//! The last hour in steps of a minute, out of the counters: they are read once per step, so a request costs nothing more.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use super::metrics::{Metrics, Sample};

/// The length of a step.
pub const STEP: Duration = Duration::from_secs(60);
/// The steps that are kept, without the one that has not ended.
pub const STEPS: usize = 60;
/// The counters are not read again within this time, however many ask.
const FRESH_MS: i64 = 500;

/// What happened in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// When the step began, in milliseconds since 1970.
    pub at_ms: i64,
    /// Requests answered.
    pub requests: u64,
    /// Requests with a status of 400 or above, or without an answer.
    pub errors: u64,
    /// Tokens.
    pub tokens: u64,
    /// Cost in US dollars.
    pub cost_usd: f64,
    /// Kills.
    pub kills: u64,
    /// The time in ELIDA, in seconds, that 95 of 100 requests did not exceed; `None` without a request.
    pub overhead_p95: Option<f64>,
}

/// The steps of the last hour.
#[derive(Debug, Default)]
pub struct SeriesOfHour(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ended: VecDeque<Point>,
    /// When the step that has not ended began, and the counters at that time.
    begun: Option<(i64, Sample)>,
    /// The step that has not ended, and when it was read.
    running: Option<(i64, Point)>,
}

impl SeriesOfHour {
    /// Ends the running step and begins the next one.
    pub fn step(&self, metrics: &Metrics, now_ms: i64) {
        let sample = metrics.sample();
        let mut inner = self.0.lock();
        if let Some((at_ms, before)) = &inner.begun {
            let point = between(*at_ms, before, &sample);
            inner.ended.push_back(point);
        }
        while inner.ended.len() > STEPS {
            inner.ended.pop_front();
        }
        (inner.begun, inner.running) = (Some((now_ms, sample)), None);
    }

    /// Returns the steps, the oldest first; the last one has not ended.
    pub fn points(&self, metrics: &Metrics, now_ms: i64) -> Vec<Point> {
        let mut inner = self.0.lock();
        let is_fresh = |(read_ms, _): &(i64, Point)| (0..FRESH_MS).contains(&(now_ms - read_ms));
        if inner.running.as_ref().is_none_or(|running| !is_fresh(running))
            && let Some((at_ms, before)) = &inner.begun
        {
            let point = between(*at_ms, before, &metrics.sample());
            inner.running = Some((now_ms, point));
        }
        inner.ended.iter().copied().chain(inner.running.map(|(_, point)| point)).collect()
    }
}

/// Returns what happened between two readings.
fn between(at_ms: i64, before: &Sample, after: &Sample) -> Point {
    // Counters grow only, and are whole numbers but for the cost.
    let grown = |before: f64, after: f64| (after - before).max(0.0).round() as u64;
    Point {
        at_ms,
        requests: grown(before.requests, after.requests),
        errors: grown(before.errors, after.errors),
        tokens: grown(before.tokens, after.tokens),
        cost_usd: (after.cost_usd - before.cost_usd).max(0.0),
        kills: grown(before.kills, after.kills),
        overhead_p95: quantile(0.95, &before.overhead, &after.overhead),
    }
}

/// Returns the upper bound of the bucket in which a quantile of the new observations lies, in proportion within it.
fn quantile(quantile: f64, before: &[(f64, u64)], after: &[(f64, u64)]) -> Option<f64> {
    let counted = |at: usize| {
        let earlier = before.get(at).map_or(0, |(_, count)| *count);
        after.get(at).map_or(0, |(_, count)| count.saturating_sub(earlier)) as f64
    };
    let all = counted(after.len().checked_sub(1)?);
    if all == 0.0 {
        return None;
    }
    let wanted = quantile * all;
    let at = (0..after.len()).find(|at| counted(*at) >= wanted)?;
    let (low, below) = match at.checked_sub(1) {
        Some(lower) => (after.get(lower)?.0, counted(lower)),
        None => (0.0, 0.0),
    };
    let high = after.get(at)?.0;
    match high.is_finite() {
        true => Some(low + (high - low) * (wanted - below) / (counted(at) - below)),
        false => Some(low),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::{Served, TokenKind};

    #[test]
    fn an_hour_is_kept_in_steps_and_the_running_one_is_shown() {
        let metrics = Metrics::new().unwrap();
        let backend = metrics.backend("one");
        let series = SeriesOfHour::default();
        assert!(series.points(&metrics, 0).is_empty(), "nothing was counted before the first step");
        series.step(&metrics, 0);
        for code in [200, 200, 403, 0] {
            backend.finished(Served::Refused, "POST", code, Duration::from_millis(5));
            metrics.overhead(Duration::from_micros(80));
        }
        backend.tokens("m", &[(TokenKind::Input, 7), (TokenKind::Output, 5), (TokenKind::Reasoning, 4)]);
        backend.cost("m", 0.25);
        metrics.session_killed("control");
        let points = series.points(&metrics, 1000);
        let [point] = points[..] else { panic!("{points:?}") };
        let p95 = point.overhead_p95.unwrap();
        assert!((0.00005..=0.0001).contains(&p95), "{p95}");
        let wanted = Point {
            at_ms: 0,
            requests: 4,
            errors: 2,
            tokens: 12,
            cost_usd: 0.25,
            kills: 1,
            overhead_p95: Some(p95),
        };
        assert_eq!(point, wanted);
        for step in 1..=STEPS as i64 + 5 {
            series.step(&metrics, step * 60_000);
        }
        let points = series.points(&metrics, 66 * 60_000);
        assert_eq!(points.len(), STEPS + 1);
        assert_eq!(points[0].at_ms, 5 * 60_000, "the oldest of an hour");
        assert!(points.iter().all(|point| point.requests == 0 && point.overhead_p95.is_none()));
    }
}
