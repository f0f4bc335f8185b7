//! Sessions that limits count: `sessions`, those that live at the same time, and `session_starts`, how fast new ones begin.
//!
//! A session holds its places from its beginning to its end, also between its requests. Only its first request can be
//! refused.

use std::sync::Arc;

use super::counters::Counter;
use super::limit::{Limit, Refused, Unit};

/// A limit and the counter of a name.
type Counted = (Arc<Limit>, Arc<Counter>);

/// The limits that count the sessions of a caller.
#[derive(Clone, Debug, Default)]
pub struct SessionLimits(Vec<Counted>);

impl SessionLimits {
    pub(super) fn push(&mut self, limit: &Arc<Limit>, counter: Arc<Counter>) {
        self.0.push((Arc::clone(limit), counter));
    }

    /// Whether no limit counts them.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether a session may begin, and counts nothing. `now` in milliseconds.
    ///
    /// # Errors
    /// A limit is used up.
    pub fn check(&self, now: u64) -> Result<(), Refused> {
        self.0.iter().try_for_each(|(limit, counter)| {
            let mut levels = counter.lock();
            if limit.amounts.sessions.is_some_and(|most| levels.sessions >= most) {
                return Err(limit.refused(Unit::Sessions, None));
            }
            let Some((rate, _)) = &limit.amounts.session_starts else { return Ok(()) };
            let wait = levels.session_starts.wait_for(rate, 1, now);
            if wait > 0 { Err(limit.refused(Unit::SessionStarts, Some(wait))) } else { Ok(()) }
        })
    }

    /// Counts a session that begins: by all limits, or by none.
    ///
    /// # Errors
    /// A limit is used up.
    pub fn begin(&self, now: u64) -> Result<SessionPlaces, Refused> {
        let mut places = SessionPlaces::default();
        for counted in &self.0 {
            match take(counted, now) {
                Ok(()) => places.0.push(counted.clone()),
                Err(refused) => {
                    places.give_starts_back();
                    return Err(refused);
                }
            }
        }
        Ok(places)
    }

    /// Counts a session that lives already, on another instance: whether there is room or not.
    pub fn join(&self) -> SessionPlaces {
        self.0.iter().for_each(|(_, counter)| counter.lock().sessions += 1);
        SessionPlaces(self.0.clone())
    }
}

fn take((limit, counter): &Counted, now: u64) -> Result<(), Refused> {
    let mut levels = counter.lock();
    if limit.amounts.sessions.is_some_and(|most| levels.sessions >= most) {
        return Err(limit.refused(Unit::Sessions, None));
    }
    if let Some((rate, _)) = &limit.amounts.session_starts {
        let taken = levels.session_starts.take(rate, 1, now);
        taken.map_err(|wait| limit.refused(Unit::SessionStarts, Some(wait)))?;
    }
    levels.sessions += 1;
    Ok(())
}

/// The places of a live session. Dropping them gives them back.
#[derive(Debug, Default)]
pub struct SessionPlaces(Vec<Counted>);

impl SessionPlaces {
    /// Takes back the start of a session that did not begin, or not under this name.
    pub fn give_starts_back(&self) {
        for (limit, counter) in &self.0 {
            if let Some((rate, _)) = &limit.amounts.session_starts {
                counter.lock().session_starts.give_back(rate, 1);
            }
        }
    }
}

impl Drop for SessionPlaces {
    fn drop(&mut self) {
        for (_, counter) in &self.0 {
            let mut levels = counter.lock();
            levels.sessions = levels.sessions.saturating_sub(1);
        }
    }
}
