//! Finds the addresses of names, without blocking a thread that serves requests.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// How long addresses are used before the name is looked up again.
const TTL: Duration = Duration::from_secs(30);
/// The most names that are remembered.
const MOST_KNOWN: usize = 4096;
/// The most look-ups at the same time: each holds a thread until the resolver answers.
const MOST_ASKED: usize = 64;

type Found = Arc<[IpAddr]>;
/// Names with their addresses, and until when these hold.
type Known = HashMap<Box<str>, (Instant, Found)>;
type LookUp = dyn Fn(Box<str>) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync;

/// Looks names up, and remembers their addresses for a short time.
pub struct Resolver {
    look_up: Box<LookUp>,
    known: Arc<Mutex<Known>>,
    asking: Arc<Semaphore>,
}

impl Default for Resolver {
    /// Asks the resolver of the system.
    fn default() -> Self {
        Self::with(|name| {
            Box::pin(async move {
                let found = tokio::net::lookup_host((&*name, 0)).await?;
                Ok(found.map(|address| address.ip()).collect())
            })
        })
    }
}

impl Resolver {
    fn with(
        look_up: impl Fn(Box<str>) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync + 'static,
    ) -> Self {
        let asking = Arc::new(Semaphore::new(MOST_ASKED));
        Self { look_up: Box::new(look_up), known: Arc::default(), asking }
    }

    /// Returns the addresses of a name, at least one.
    ///
    /// # Errors
    /// The resolver's error.
    pub async fn resolve(&self, name: &str) -> io::Result<Found> {
        if let Some((until, found)) = self.known.lock().get(name)
            && Instant::now() < *until
        {
            return Ok(Arc::clone(found));
        }
        let permit = Arc::clone(&self.asking).acquire_owned().await.map_err(io::Error::other)?;
        let (known, name) = (Arc::clone(&self.known), Box::<str>::from(name));
        let asked = (self.look_up)(name.clone());
        // A task of its own: a look-up holds its thread also when the request that wants it is gone.
        let looking = tokio::spawn(async move {
            let _permit = permit;
            let mut found = asked.await?;
            found.iter_mut().for_each(|address| *address = address.to_canonical());
            let mut seen = Vec::new();
            found.retain(|address| {
                !seen.contains(address) && {
                    seen.push(*address);
                    true
                }
            });
            if found.is_empty() {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
            }
            let found: Found = found.into();
            remember(&known, name, &found);
            Ok(found)
        });
        looking.await.map_err(io::Error::other)?
    }
}

fn remember(known: &Mutex<HashMap<Box<str>, (Instant, Found)>>, name: Box<str>, found: &Found) {
    let (now, mut known) = (Instant::now(), known.lock());
    if known.len() >= MOST_KNOWN {
        known.retain(|_, (until, _)| now < *until);
    }
    // A client that invents names must not fill the memory.
    if known.len() < MOST_KNOWN {
        known.insert(name, (now + TTL, Arc::clone(found)));
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A resolver whose first answer is `first`, and each later one `later`; and how often it was asked.
    pub(in crate::forward) fn changing(first: &str, later: &str) -> (Resolver, Arc<AtomicUsize>) {
        let [first, later] =
            [first, later].map(|list| list.split(' ').map(|ip| ip.parse().unwrap()).collect::<Vec<_>>());
        let asked = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&asked);
        let resolver = Resolver::with(move |_| {
            let answer = if counted.fetch_add(1, Ordering::Relaxed) == 0 { &first } else { &later };
            let answer = answer.clone();
            Box::pin(async move { Ok(answer) })
        });
        (resolver, asked)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[tokio::test]
    async fn a_name_is_looked_up_once_in_a_while() {
        let (resolver, asked) = testing::changing("192.0.2.1 ::ffff:192.0.2.1 192.0.2.2", "192.0.2.3");
        for _ in 0..3 {
            let found = resolver.resolve("a.test").await.unwrap();
            assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.1", "192.0.2.2"]);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        for number in 0..2 * MOST_KNOWN {
            resolver.resolve(&format!("{number}.test")).await.unwrap();
        }
        assert!(resolver.known.lock().len() <= MOST_KNOWN);
    }
}
