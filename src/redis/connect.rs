//! The connections: a pool for commands, one more for messages, and whether Redis answers at all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fred::clients::SubscriberClient;
use fred::prelude::*;
use fred::rustls::crypto::ring as provider;
use fred::rustls::pki_types::CertificateDer;
use fred::rustls::{ClientConfig, RootCertStore};
use fred::types::config::{ReconnectError, TlsConnector};
use fred::types::{ClusterHash, CustomCommand};
use rustls_pki_types::pem::PemObject;
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;

use super::settings::Settings;

/// No command waits longer for its answer: a Redis that is slower than this is away.
pub const ANSWER: Duration = Duration::from_millis(250);
/// A connection that answers nothing for this long is made anew.
const DEAF: Duration = Duration::from_secs(2);
/// Messages that wait to be heeded before some are missed and everything is looked at: more than the events of
/// several instances that arrive in one moment.
const MESSAGES: usize = 8192;
/// Between attempts to connect, in milliseconds.
const RETRY: (u32, u32) = (50, 1000);

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
        let about_a_key = ["WRONGTYPE", "ERR "].iter().any(|code| told.starts_with(code));
        match error.kind() {
            ErrorKind::Parse | ErrorKind::NotFound | ErrorKind::InvalidArgument => {
                Self::Refused(error.to_string())
            }
            _ if about_a_key => Self::Refused(told.to_owned()),
            _ => Self::Away(explained(&error)),
        }
    }
}

/// What is wrong, and what to do about it where the configuration can.
fn explained(error: &Error) -> String {
    let said = error.details();
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

/// A script that runs inside Redis, whole or not at all.
#[derive(Debug)]
pub struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    /// A script with the digest it is called by.
    pub fn new(text: &'static str) -> Self {
        Self { text, hash: fred::util::sha1_hash(text) }
    }
}

/// One command.
#[derive(Debug)]
pub struct Call {
    command: CustomCommand,
    arguments: Vec<String>,
}

impl Call {
    /// A command whose first argument is its key.
    pub fn new(name: &'static str, arguments: impl IntoIterator<Item = String>) -> Self {
        let command = CustomCommand::new_static(name, ClusterHash::FirstKey, false);
        Self { command, arguments: arguments.into_iter().collect() }
    }

    /// A script that Redis knows already.
    pub fn script(script: &Script, keys: Vec<String>, arguments: Vec<String>) -> Self {
        // The digest and the number of keys stand before the first key.
        let command = CustomCommand::new_static("EVALSHA", ClusterHash::Offset(2), false);
        let mut all = vec![script.hash.clone(), keys.len().to_string()];
        all.extend(keys);
        all.extend(arguments);
        Self { command, arguments: all }
    }
}

/// The way to Redis. It is down until [`Link::up`] says otherwise.
pub struct Link {
    pool: Pool,
    subscriber: SubscriberClient,
    up: AtomicBool,
    renewed: Arc<Notify>,
    /// Why there is no connection.
    fault: Arc<Mutex<Option<String>>>,
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
        let mut config = Config::from_url(settings.url.reveal())?;
        // The first connection is as patient as all others.
        config.fail_fast = false;
        if let Some(username) = &settings.username {
            config.username = Some(username.clone());
        }
        if let Some(password) = &settings.password {
            config.password = Some(password.reveal().to_owned());
        }
        if let Some(pem) = &settings.ca_pem {
            config.tls = Some(trusting(pem)?.into());
        }
        let mut builder = Builder::from_config(config);
        builder
            .set_policy(ReconnectPolicy::new_exponential(0, RETRY.0, RETRY.1, 2))
            .with_performance_config(|performance| performance.default_command_timeout = ANSWER)
            .with_connection_config(|connection| {
                connection.connection_timeout = DEAF;
                connection.internal_command_timeout = DEAF;
                connection.max_command_attempts = 1;
                connection.unresponsive.max_timeout = Some(DEAF);
                connection.unresponsive.interval = DEAF / 4;
                connection.reconnect_on_auth_error = true;
                connection.tcp.nodelay = Some(true);
                // After a failover the old master is read-only: its sentinel or cluster knows the new one.
                connection.reconnect_errors =
                    vec![ReconnectError::ReadOnly, ReconnectError::Loading, ReconnectError::ClusterDown];
            });
        let pool = builder.build_pool(settings.pool)?;
        builder.with_performance_config(|performance| performance.broadcast_channel_capacity = MESSAGES);
        let subscriber = builder.build_subscriber_client()?;
        Ok(Arc::new(Self {
            pool,
            subscriber,
            up: AtomicBool::new(false),
            renewed: Arc::default(),
            fault: Arc::default(),
        }))
    }

    /// Begins to connect, on this runtime.
    pub fn connect(&self) {
        // The tasks end with the runtime.
        for client in self.pool.clients() {
            let (mut made, mut errors) = (client.reconnect_rx(), client.error_rx());
            let (renewed, fault) = (Arc::clone(&self.renewed), Arc::clone(&self.fault));
            let note = move |what| *fault.lock().unwrap_or_else(PoisonError::into_inner) = what;
            tokio::spawn(async move {
                let mut is_first = true;
                loop {
                    tokio::select! {
                        made = made.recv() => match made {
                            Err(RecvError::Closed) => return,
                            // Nothing was sent over another one before.
                            _ if std::mem::take(&mut is_first) => {}
                            _ => renewed.notify_one(),
                        },
                        Ok((error, _)) = errors.recv() => note(Some(explained(&error))),
                    }
                }
            });
        }
        drop(self.pool.connect_pool());
        drop(self.subscriber.connect());
        drop(self.subscriber.manage_subscriptions());
    }

    /// Ends all connections.
    pub async fn close(&self) {
        self.down();
        let _ =
            tokio::time::timeout(ANSWER, async { (self.pool.quit().await, self.subscriber.quit().await) })
                .await;
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
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a connection has been made anew since the last time: it may lead to another server, which
    /// lacks what the old one acknowledged last.
    pub async fn renewed(&self) {
        self.renewed.notified().await;
    }

    /// Whether both kinds of connection answer now.
    ///
    /// # Errors
    /// One does not.
    pub async fn ping(&self) -> Result<(), LinkError> {
        if self.pool.clients().iter().all(|client| client.state() != ClientState::Connected) {
            return Err(LinkError::Away(self.fault().unwrap_or_else(|| "not connected".to_owned())));
        }
        let (commands, messages) =
            tokio::join!(self.pool.next_connected().ping::<()>(None), self.subscriber.ping::<()>(None));
        commands.and(messages).map_err(LinkError::from)
    }

    /// One of the connections; commands on the same one keep their order.
    pub fn client(&self) -> &Client {
        self.pool.next_connected()
    }

    /// The connection for messages.
    pub fn subscriber(&self) -> &SubscriberClient {
        &self.subscriber
    }

    /// Sends one command.
    ///
    /// # Errors
    /// Redis is away, or a key holds what it should not.
    pub async fn call(&self, call: Call) -> Result<Value, LinkError> {
        Ok(self.client().custom(call.command, call.arguments).await?)
    }

    /// Sends several commands at once; each has its own answer.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn calls(&self, calls: Vec<Call>) -> Result<Vec<Result<Value, LinkError>>, LinkError> {
        let (batch, count) = (self.client().pipeline(), calls.len());
        for call in calls {
            batch.custom::<(), _>(call.command, call.arguments).await?;
        }
        let answers = batch.try_all::<Value>().await;
        match answers.len() == count {
            true => Ok(answers.into_iter().map(|answer| answer.map_err(LinkError::from)).collect()),
            // One fault for all of them.
            false => Err(answers.into_iter().find_map(Result::err).map_or_else(
                || LinkError::Away("not every command was answered".to_owned()),
                LinkError::from,
            )),
        }
    }

    /// Runs a script; by its digest, and with its text when Redis does not know it yet.
    ///
    /// # Errors
    /// Redis is away, or a key holds what it should not.
    pub async fn run<R: FromValue>(
        &self,
        script: &Script,
        keys: Vec<String>,
        arguments: Vec<String>,
    ) -> Result<R, LinkError> {
        let client = self.client();
        let done = client.evalsha(script.hash.as_str(), keys.clone(), arguments.clone()).await;
        match done {
            Err(error) if error.details().starts_with("NOSCRIPT") => {
                Ok(client.eval(script.text, keys, arguments).await?)
            }
            done => Ok(done?),
        }
    }
}

/// TLS that trusts these authorities only.
fn trusting(pem: &[u8]) -> Result<TlsConnector, LinkError> {
    let bad = |why: String| LinkError::Refused(format!("session.redis.tls.ca_file: {why}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(|why| bad(why.to_string()))?).map_err(|why| bad(why.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("holds no certificate".to_owned()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|why| bad(why.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config.into())
}
