//! The link: whether Redis answers at all, and what is sent to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fred::prelude::*;
use fred::types::InfoKind;
use futures::future::join_all;
use tokio::sync::broadcast::Receiver;

use super::call::{Call, Script, command, is_between_servers};
use super::plan::{Notices, Plan};
use super::servers::Servers;
use super::settings::Settings;
use super::subscription::{Channels, Heard, Subscription};

/// No command waits longer for its answer: a Redis that is slower than this is away.
pub const ANSWER: Duration = Duration::from_millis(250);
/// A connection that answers nothing for this long is made anew.
pub(super) const DEAF: Duration = Duration::from_secs(2);

/// Why a command has no answer, or a bad one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Redis does not answer, or cannot be written to.
    #[error("redis is unavailable: {0}")]
    Away(String),
    /// It answers that this cannot be: a key holds something else than we put there.
    #[error("redis refuses: {0}")]
    Refused(String),
}

impl From<Error> for LinkError {
    fn from(error: Error) -> Self {
        let told = error.details();
        // Answers of the server about a key or a script; all else (loading, read-only, out of memory) passes.
        let about_a_key = ["WRONGTYPE", "ERR "].iter().any(|code| told.starts_with(code))
            && !is_between_servers(told)
            && !is_no_cluster(told);
        match error.kind() {
            ErrorKind::Parse | ErrorKind::NotFound | ErrorKind::InvalidArgument => {
                Self::Refused(error.to_string())
            }
            _ if about_a_key => Self::Refused(told.to_owned()),
            _ => Self::Away(explained(&error)),
        }
    }
}

fn is_no_cluster(told: &str) -> bool {
    told.contains("cluster support disabled")
}

/// What is wrong, and what to do about it where the configuration can.
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
    if said.starts_with("NOPERM") {
        return format!(
            "it refuses this user a right ({said}): give the user of session.redis.username those that \
             docs/operations.md lists"
        );
    }
    if said.contains("NotValidForName") {
        return format!(
            "its certificate is for another name ({said}): write a name that stands in it in session.redis.addr \
             or url"
        );
    }
    if said.contains("InvalidCertificate") {
        return format!(
            "its certificate is not trusted ({said}): name the file of its authority in session.redis.tls.ca_file"
        );
    }
    error.to_string()
}

/// The way to Redis. It is down until [`Link::up`] says otherwise.
pub struct Link {
    servers: Servers,
    subscription: Subscription,
    up: AtomicBool,
    notices: Arc<Notices>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("up", &self.is_up()).finish_non_exhaustive()
    }
}

impl Link {
    /// Connections that are not made yet.
    ///
    /// # Errors
    /// The address or the authorities cannot be used.
    pub fn new(settings: &Settings) -> Result<Arc<Self>, LinkError> {
        let (plan, notices) = (Plan::new(settings)?, Arc::default());
        let servers = Servers::new(&plan, &notices)?;
        let subscription = Subscription::new(plan);
        Ok(Arc::new(Self { servers, subscription, up: AtomicBool::new(false), notices }))
    }

    /// Begins to connect, on this runtime.
    pub fn connect(&self) {
        self.servers.connect(&self.notices);
    }

    /// Ends all connections.
    pub async fn close(&self) {
        self.down();
        let quit = async { (self.servers.quit().await, self.subscription.quit().await) };
        let _ = tokio::time::timeout(ANSWER, quit).await;
    }

    /// True while commands are sent.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// From now on commands are sent.
    pub fn up(&self) {
        self.up.store(true, Ordering::Release);
    }

    /// From now on none is sent; true when that was otherwise until now.
    pub fn down(&self) -> bool {
        self.up.swap(false, Ordering::AcqRel)
    }

    /// What was last wrong with a connection, and what to do about it.
    pub fn fault(&self) -> Option<String> {
        self.notices.fault()
    }

    /// Waits until commands go to another connection or another server than the last time: it may lack what
    /// the old one acknowledged last.
    pub async fn renewed(&self) {
        self.notices.renewed().await;
    }

    /// Whether both kinds of connection answer now, at every server that has keys.
    ///
    /// # Errors
    /// One does not.
    pub async fn ping(&self) -> Result<(), LinkError> {
        let unconnected = |error: Error| match error.details() {
            "not connected" => LinkError::Away(self.fault().unwrap_or_else(|| "not connected".to_owned())),
            _ => error.into(),
        };
        let addresses = self.servers.addresses();
        let (commands, messages) =
            tokio::join!(self.servers.ping(), self.subscription.ping(addresses.as_deref()));
        commands.map_err(unconnected)?;
        Ok(messages?)
    }

    /// What each server that has keys says of itself.
    ///
    /// # Errors
    /// One does not answer.
    pub async fn info(&self, section: InfoKind) -> Result<Vec<String>, LinkError> {
        let pools = self.servers.pools();
        let asked = pools.iter().map(|pool| pool.next_connected().info::<String>(Some(section.clone())));
        Ok(join_all(asked).await.into_iter().collect::<Result<_, _>>()?)
    }

    /// Hears what is published on channels that match the patterns and on those with these names, and nothing
    /// else from now on.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn subscribe(
        &self,
        patterns: Vec<String>,
        names: Vec<String>,
    ) -> Result<Receiver<Heard>, LinkError> {
        let addresses = self.servers.addresses();
        Ok(self.subscription.subscribe(addresses.as_deref(), Channels { patterns, names }).await?)
    }

    /// Publishes a message. Gives how many heard it; in a cluster, how many hear the channel `everybody`, since a
    /// server counts its own subscribers only.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn publish(&self, channel: String, text: String, everybody: &str) -> Result<u64, LinkError> {
        let heard = self.call(Call::new("PUBLISH", [channel, text])).await?.as_u64().unwrap_or(0);
        if let Servers::One(_) = self.servers {
            return Ok(heard);
        }
        let pools = self.servers.all_connected();
        let asked = pools.iter().map(|pool| {
            let asked = vec!["NUMSUB", everybody];
            pool.next_connected().custom::<(String, u64), _>(command("PUBSUB"), asked)
        });
        // The message is out: a count that cannot be had is no fault.
        let counts = join_all(asked).await.into_iter().filter_map(Result::ok).map(|(_, count)| count);
        Ok(heard.max(counts.sum()))
    }

    /// Sends one command.
    ///
    /// # Errors
    /// Redis is away, or a key holds what it should not.
    pub async fn call(&self, call: Call) -> Result<Value, LinkError> {
        let answer = self.servers.send(vec![call]).await?.pop();
        Ok(answer.unwrap_or_else(|| Err(Error::new(ErrorKind::Protocol, "no answer")))?)
    }

    /// Sends several commands at once; each has its own answer.
    ///
    /// # Errors
    /// Redis is away, or was for one of them: then it is unknown which others were carried out.
    pub async fn calls(&self, calls: Vec<Call>) -> Result<Vec<Result<Value, LinkError>>, LinkError> {
        let answers = self.servers.send(calls).await?.into_iter();
        let answers = answers.map(|answer| match answer.map_err(LinkError::from) {
            Err(LinkError::Away(why)) => Err(LinkError::Away(why)),
            answer => Ok(answer),
        });
        answers.collect()
    }

    /// Runs a script.
    ///
    /// # Errors
    /// Redis is away, or a key holds what it should not.
    pub async fn run<R: FromValue>(
        &self,
        script: &Script,
        keys: Vec<String>,
        arguments: Vec<String>,
    ) -> Result<R, LinkError> {
        Ok(self.call(Call::script(script, keys, arguments)).await?.convert()?)
    }
}
