//! `elida demo`: the gateway with a bundled provider, so that it can be tried without an API key.

use std::fs::Permissions;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::{Server, ShutdownWatch};
use pingora::services::background::{BackgroundService, background_service};
use tempfile::TempDir;

use super::descriptors;
use super::services::{self, Extra};
use super::signals::{Signal, Signals};
use crate::config::{Flags, Sources};
use crate::demo::{BACKENDS, Backend, Provider, client_example, play};

/// Time between two events, slow enough for a person to watch a response and kill it.
const EVENT_INTERVAL: Duration = Duration::from_millis(40);

/// Runs the gateway in front of the bundled provider until it is asked to shut down. Without `data_dir`, its state is in a
/// new folder that is removed at the end. With `plays` some agents use it at once.
///
/// # Errors
/// A port cannot be bound, or the temporary folder cannot be created.
pub fn demo(
    listen: String,
    control_listen: String,
    data_dir: Option<PathBuf>,
    plays: bool,
) -> anyhow::Result<()> {
    let signals = Signals::install().context("cannot handle signals")?;
    let state = State::new(data_dir)?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no free port for the demo provider")?;
    listener.set_nonblocking(true)?;
    let provider = listener.local_addr()?;
    let sources = sources(listen, control_listen, state.folder(), provider);
    let config = sources.load()?;
    println!("{}", welcome(config.listen, config.control.listen(), &state, plays));
    if plays {
        play(config.listen);
    }
    let service = Demo(Mutex::new(Some(listener)));
    let extra: Extra = Box::new(move |server: &mut Server| {
        server.add_service(background_service("demo provider", service));
    });
    services::serve(sources, config, signals, vec![extra])
}

/// Runs only the bundled provider, for a gateway in another process, until it is asked to shut down.
///
/// # Errors
/// The port cannot be bound.
pub fn demo_provider(address: SocketAddr) -> anyhow::Result<()> {
    let signals = Signals::install().context("cannot handle signals")?;
    descriptors::raise();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
        println!("ELIDA demo provider on {}. End with Ctrl-C.", listener.local_addr()?);
        Provider::paced(EVENT_INTERVAL).serve(listener, shutdown_requested(&signals)).await?;
        Ok(())
    })
}

/// Waits for a signal to shut down; a provider ignores reloads and upgrades.
async fn shutdown_requested(signals: &Signals) {
    while !matches!(signals.next().await, Some(Signal::Drain | Signal::Stop) | None) {}
}

/// Returns the configuration of the demo: one backend per dialect, all of them the bundled provider. Environment variables
/// are ignored, so that the demo is the same everywhere.
fn sources(listen: String, control_listen: String, data_dir: &Path, provider: SocketAddr) -> Sources {
    let backends: String = BACKENDS.iter().map(|backend| written(backend, provider)).collect();
    let text = format!("data_dir: {data_dir:?}\nbackends:\n{backends}");
    let flags = Flags { listen: Some(listen), control_listen: Some(control_listen), ..Flags::default() };
    Sources::of_text(text, flags)
}

/// One line of `backends:`.
fn written(backend: &Backend, provider: SocketAddr) -> String {
    let Backend { name, kind, is_default, models } = backend;
    let default = if *is_default { ", default: true" } else { "" };
    let models = if models.is_empty() { String::new() } else { format!(", models: {models:?}") };
    format!("  {name}: {{ url: 'http://{provider}', type: {kind}{default}{models} }}\n")
}

/// Where the demo keeps its history and keys.
enum State {
    /// In a folder that nobody else can have made before, removed when this is dropped.
    Temporary(TempDir),
    /// In the folder of `--data-dir`, which stays.
    Kept(PathBuf),
}

impl State {
    fn new(data_dir: Option<PathBuf>) -> anyhow::Result<Self> {
        if let Some(folder) = data_dir {
            return Ok(Self::Kept(folder));
        }
        let mut folder = tempfile::Builder::new();
        folder.prefix("elida-demo-").permissions(Permissions::from_mode(0o700));
        let folder = folder.tempdir().with_context(|| {
            let parent = std::env::temp_dir();
            let parent = parent.display();
            format!(
                "no folder can be created in {parent}: set TMPDIR to one that is writable, or use --data-dir"
            )
        })?;
        Ok(Self::Temporary(folder))
    }

    fn folder(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Kept(folder) => folder,
        }
    }
}

fn welcome(listen: SocketAddr, control: SocketAddr, state: &State, plays: bool) -> String {
    let port = listen.port();
    let folder = state.folder().display();
    let kept = match state {
        State::Temporary(_) => {
            format!("State is in {folder} and is removed at the end (--data-dir keeps it).")
        }
        State::Kept(_) => format!("State is kept in {folder}."),
    };
    format!(
        "Dashboard: http://{control}/{}\n\n\
         ELIDA demo: proxy on {listen}, control on {control}, a demo provider behind it. Try:\n\n\
         \x20 curl -N http://localhost:{port}/v1/messages -H 'X-Session-ID: my-first' \\\n\
         \x20   -d '{{\"model\":\"claude-demo\",\"max_tokens\":99,\"stream\":true,\"messages\":\
         [{{\"role\":\"user\",\"content\":\"[[words 500]]\"}}]}}'\n\n\
         and while it streams, in another terminal:\n\n\
         \x20 curl http://{control}/control/sessions\n\
         \x20 curl -X POST http://{control}/control/sessions/my-first/kill\n\n\
         {}\n\
         {kept}\n\
         End with Ctrl-C. The log follows.\n",
        if plays {
            "   (some agents play; one runs away: find it and kill it)"
        } else {
            "   (--play lets some agents run)"
        },
        client_example(port)
    )
}

struct Demo(Mutex<Option<TcpListener>>);

#[async_trait]
impl BackgroundService for Demo {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let listener = self.0.lock().take();
        let Some(Ok(listener)) = listener.map(tokio::net::TcpListener::from_std) else {
            return;
        };
        let ended = async move {
            let _ = shutdown.wait_for(|ended| *ended).await;
        };
        if let Err(error) = Provider::paced(EVENT_INTERVAL).serve(listener, ended).await {
            tracing::error!(%error, "the demo provider ended");
        }
    }
}
