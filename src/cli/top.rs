//! `elida top`: live sessions in the terminal, refreshed each second; two keys kill one.
//!
//! `feed` polls the control API on a thread of its own; `view` computes the lines to show and knows no terminal;
//! `screen` draws them, and restores the terminal whatever happens.

mod feed;
mod screen;
mod view;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use self::feed::Feed;
use self::screen::Screen;
use self::view::{Action, View};
use super::client::Client;
use super::commands::PlainArgs;
use super::{is_dumb, print, report};

/// How long a key or a signal can go unnoticed.
const POLL: Duration = Duration::from_millis(100);

/// Shows live sessions until `q`; prints them once where there is no terminal.
pub(super) fn top(arguments: &PlainArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.control)?;
    // Before the screen is touched, so that an error is printed as by every other command.
    let first = feed::ask(&client)?;
    let is_watched = io::stdout().is_terminal() && io::stdin().is_terminal() && !is_dumb();
    if arguments.json {
        print(&format!("{}\n", json!({"sessions": first.sessions, "stats": first.stats})));
    } else if !is_watched {
        print(&report::sessions(&first.into_page()));
    } else {
        let mut view = View::new(client.address());
        view.take(first);
        watch(view, Feed::start(client))?;
    }
    Ok(())
}

fn watch(mut view: View, feed: Feed) -> anyhow::Result<()> {
    let ended = signals().context("cannot handle signals")?;
    let mut screen = Screen::open().context("cannot use this terminal")?;
    let mut changed = true;
    while !ended.load(Ordering::Relaxed) {
        if changed {
            screen.draw(|width, height| view.lines(width, height))?;
        }
        changed = false;
        if let Some(input) = screen.input(POLL)? {
            changed = true;
            match view.press(input) {
                Action::Quit => break,
                Action::Kill(uid) => feed.kill(uid),
                Action::Nothing => {}
            }
        }
        while let Some(update) = feed.next() {
            changed = true;
            view.update(update);
        }
    }
    Ok(())
}

/// Returns a flag that becomes true at the first signal to end.
fn signals() -> io::Result<Arc<AtomicBool>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let inside = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    drop(inside);
    let ended = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ended);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
                _ = interrupt.recv() => {}
                _ = quit.recv() => {}
            }
        });
        flag.store(true, Ordering::Relaxed);
    });
    Ok(ended)
}
