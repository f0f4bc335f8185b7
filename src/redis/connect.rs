//! The link to Redis: whether it answers, and commands sent to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fred::prelude::*;
use fred::types::InfoKind;
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use tokio::sync::broadcast::Receiver;

use super::call::{Call, Script, command, is_between_servers};
use super::plan::{Notices, Plan};
use super::servers::Servers;
use super::settings::Settings;
use super::subscription::{Channels, Delivery, Subscription};

/// The longest time a command waits for its answer: a slower Redis counts as unavailable.
pub const ANSWER: Duration = Duration::from_millis(250);
/// A connection without any answer for this long is replaced.
pub(super) const UNRESPONSIVE: Duration = Duration::from_secs(2);

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Redis does not answer, or takes no writes.
    #[error("redis is unavailable: {0}")]
    Away(String),
    /// Redis answered with an error about this key or command: a key holds a foreign value.
    #[error("redis refuses: {0}")]
    Refused(String),
}

impl From<Error> for LinkError {
    fn from(error: Error) -> Self {
        let told = error.details();
        // Errors about a key or a script; others (loading, read-only, out of memory) are temporary.
        let about_a_key = ["WRONGTYPE", "ERR "].iter().any(|code| told.starts_with(code))
            && !is_between_servers(told)
            && !is_no_cluster(told);
        match error.kind() {
            ErrorKind::Parse | ErrorKind::NotFound | ErrorKind::InvalidArgument => {
                Self::Refused(error.to_string())
            }
            _ if about_a_key && !lacks_a_right(told) => Self::Refused(told.to_owned()),
            _ => Self::Away(explained(&error)),
        }
    }
}

fn is_no_cluster(told: &str) -> bool {
    told.contains("cluster support disabled")
}

/// Describes an error, with the configuration key that would fix it.
pub(super) fn explained(error: &Error) -> String {
    let said = error.details();
    if said.starts_with("MOVED ") {
        return format!(
            "it is a cluster ({said}): write redis-cluster://HOST:PORT, or rediss-cluster, in session.redis.url"
        );
    }
    if is_no_cluster(said) {
        return format!(
            "it is no cluster ({said}): write redis://HOST:PORT, or rediss, in session.redis.url"
        );
    }
    if *error.kind() == ErrorKind::Auth || said.starts_with("NOAUTH") {
        return format!(
            "it refuses this user and password ({said}): correct session.redis.username and password, or \
             password_file"
        );
    }
    if said.starts_with("NOPERM") || lacks_a_right(said) {
        return format!(
            "it refuses this user a right ({said}): give the user of session.redis.username those that \
             docs/operations.md lists"
        );
    }
    if said.contains("NotValidForName") {
        return format!(
            "its certificate is for another name ({said}): use a name from it in session.redis.addr \
             or url"
        );
    }
    if said.contains("InvalidCertificate") {
        return format!(
            "its certificate is not trusted ({said}): set session.redis.tls.ca_file to the file of its CA"
        );
    }
    if said.starts_with("OOM") {
        return format!(
            "its memory is full and it takes no writes ({said}): raise maxmemory, or remove other data from it"
        );
    }
    if said.starts_with("MISCONF") {
        return format!("it takes no writes because it cannot save to its disk ({said})");
    }
    error.to_string()
}

/// True for the answer to a script that uses a command or key for which the user lacks a right. It names neither.
fn lacks_a_right(said: &str) -> bool {
    said.contains("The user executing the script") || said.contains("ACL failure in script")
}

/// The link to Redis. It is down until [`Link::up`] is called.
///
/// Its futures are boxed: those of `fred` are so large that the compiler would need half a minute to prove them `Send` in
/// each caller (docs/building.md).
pub struct Link {
    servers: Servers,
    subscription: Subscription,
    user: String,
    up: AtomicBool,
    notices: Arc<Notices>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("up", &self.is_up()).finish_non_exhaustive()
    }
}

impl Link {
    /// Creates a link without connecting.
    ///
    /// # Errors The address or the CA certificates cannot be used.
    pub fn new(settings: &Settings) -> Result<Arc<Self>, LinkError> {
        let (plan, notices) = (Plan::new(settings)?, Arc::default());
        let user = plan.user().to_owned();
        let servers = Servers::new(&plan, &notices)?;
        let subscription = Subscription::new(plan);
        Ok(Arc::new(Self { servers, subscription, user, up: AtomicBool::new(false), notices }))
    }

    /// Starts connecting, on the current runtime.
    pub fn connect(&self) {
        self.servers.connect(&self.notices);
    }

    /// Closes all connections.
    pub fn close(&self) -> BoxFuture<'_, ()> {
        async {
            self.down();
            let quit = async { (self.servers.quit().await, self.subscription.quit().await) };
            let _ = tokio::time::timeout(ANSWER, quit).await;
        }
        .boxed()
    }

    /// True while commands are sent.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Commands are sent from now on.
    pub fn up(&self) {
        self.up.store(true, Ordering::Release);
    }

    /// No commands are sent from now on; true if that is a change.
    pub fn down(&self) -> bool {
        self.up.swap(false, Ordering::AcqRel)
    }

    /// The user of the connections.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// True if a connection for commands exists, whether Redis answers on it or not.
    pub fn is_connected(&self) -> bool {
        self.servers.is_connected()
    }

    /// The last problem of a connection, and what to do about it.
    pub fn fault(&self) -> Option<String> {
        self.notices.fault()
    }

    /// Waits until commands use another connection or another server than before. That server may lack the latest
    /// writes.
    pub async fn renewed(&self) {
        self.notices.renewed().await;
    }

    /// Checks that connections for commands and messages answer, at every server that owns keys.
    ///
    /// # Errors A connection does not answer.
    pub fn ping(&self) -> BoxFuture<'_, Result<(), LinkError>> {
        async {
            let unconnected = |error: Error| match error.details() {
                "not connected" => {
                    LinkError::Away(self.fault().unwrap_or_else(|| "not connected".to_owned()))
                }
                _ => error.into(),
            };
            let addresses = self.servers.addresses();
            let (commands, messages) =
                tokio::join!(self.servers.ping(), self.subscription.ping(addresses.as_deref()));
            commands.map_err(unconnected)?;
            Ok(messages?)
        }
        .boxed()
    }

    /// The `INFO` of each server that owns keys.
    ///
    /// # Errors A server does not answer.
    pub fn info(&self, section: InfoKind) -> BoxFuture<'_, Result<Vec<String>, LinkError>> {
        async move {
            let pools = self.servers.pools();
            let asked = pools.iter().map(|pool| pool.next_connected().info::<String>(Some(section.clone())));
            Ok(join_all(asked).await.into_iter().collect::<Result<_, _>>()?)
        }
        .boxed()
    }

    /// Subscribes to channels that match the patterns and to channels with these names, in place of earlier
    /// subscriptions.
    ///
    /// # Errors Redis does not answer.
    pub fn subscribe(
        &self,
        patterns: Vec<String>,
        names: Vec<String>,
    ) -> BoxFuture<'_, Result<Receiver<Delivery>, LinkError>> {
        async move {
            let addresses = self.servers.addresses();
            Ok(self.subscription.subscribe(addresses.as_deref(), Channels { patterns, names }).await?)
        }
        .boxed()
    }

    /// Publishes a message. Returns how many received it; in a cluster, how many are subscribed to the channel
    /// `everybody`, because a server only counts its own subscribers.
    ///
    /// # Errors Redis is unavailable.
    pub fn publish<'a>(
        &'a self,
        channel: String,
        text: String,
        everybody: &'a str,
    ) -> BoxFuture<'a, Result<u64, LinkError>> {
        async move {
            let heard = self.call(Call::new("PUBLISH", [channel, text])).await?.as_u64().unwrap_or(0);
            if let Servers::One(_) = self.servers {
                return Ok(heard);
            }
            let pools = self.servers.all_connected();
            let asked = pools.iter().map(|pool| {
                let asked = vec!["NUMSUB", everybody];
                pool.next_connected().custom::<(String, u64), _>(command("PUBSUB"), asked)
            });
            // The message is sent; a missing count is not an error.
            let counts = join_all(asked).await.into_iter().filter_map(Result::ok).map(|(_, count)| count);
            Ok(heard.max(counts.sum()))
        }
        .boxed()
    }

    /// Sends one command.
    ///
    /// # Errors Redis is unavailable, or a key holds a foreign value.
    pub fn call(&self, call: Call) -> BoxFuture<'_, Result<Value, LinkError>> {
        async move {
            let answer = self.servers.send(vec![call]).await?.pop();
            Ok(answer.unwrap_or_else(|| Err(Error::new(ErrorKind::Protocol, "no answer")))?)
        }
        .boxed()
    }

    /// Sends several commands at once; each has its own result.
    ///
    /// # Errors Redis is unavailable, possibly for one command only: it is then unknown which others were carried
    /// out.
    pub fn calls(&self, calls: Vec<Call>) -> BoxFuture<'_, Result<Vec<Result<Value, LinkError>>, LinkError>> {
        async move {
            let answers = self.servers.send(calls).await?.into_iter();
            let answers = answers.map(|answer| match answer.map_err(LinkError::from) {
                Err(LinkError::Away(why)) => Err(LinkError::Away(why)),
                answer => Ok(answer),
            });
            answers.collect()
        }
        .boxed()
    }

    /// Runs a script.
    ///
    /// # Errors Redis is unavailable, or a key holds a foreign value.
    pub async fn run<R: FromValue>(
        &self,
        script: &Script,
        keys: Vec<String>,
        arguments: Vec<String>,
    ) -> Result<R, LinkError> {
        Ok(self.call(Call::script(script, keys, arguments)).await?.convert()?)
    }
}
