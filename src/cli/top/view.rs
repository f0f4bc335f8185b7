//! What `elida top` shows, as lines of text, and what keys do to it. Knows no terminal.

use serde_json::Value;

use super::feed::{Sample, Update};
use crate::cli::report;
use crate::cli::table::{plain, table};

/// A longer cell is cut: ids and lists of models come from clients.
const CELL: usize = 36;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    /// Headings.
    Bold,
    /// A session with an open request.
    Busy,
    /// The chosen session.
    Chosen,
    /// Asks or warns.
    Loud,
}

/// One line, not longer than the screen is wide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) style: Style,
}

/// What came from the keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Up,
    Down,
    Escape,
    Letter(char),
    /// The screen has another size now.
    Resized,
}

/// What the view wants done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    Quit,
    /// Kill the session with this uid.
    Kill(String),
}

/// All there is to see.
pub(super) struct View {
    address: String,
    news: Sample,
    /// The uid of the chosen session: it stays chosen when the order changes.
    chosen: Option<String>,
    /// The uid and id of the session that is asked about.
    asked: Option<(String, String)>,
    notice: Option<String>,
    lost: Option<String>,
}

impl View {
    /// A view of the control API at `address`, with nothing seen yet.
    pub(super) fn new(address: &str) -> Self {
        let news = Sample::default();
        Self { address: address.to_owned(), news, chosen: None, asked: None, notice: None, lost: None }
    }

    /// Shows what was told.
    pub(super) fn update(&mut self, update: Update) {
        match update {
            Update::Sample(news) => self.take(news),
            Update::Lost(why) => self.lost = Some(why),
            Update::Killed(told) => self.notice = Some(told),
        }
    }

    /// Shows another look at the gateway.
    pub(super) fn take(&mut self, news: Sample) {
        let place = self.place();
        self.news = news;
        self.lost = None;
        if !self.news.sessions.iter().any(|session| session["uid"].as_str() == self.chosen.as_deref()) {
            // The chosen one is gone: who stands in its place is chosen.
            self.choose(place);
        }
    }

    /// Does what a key means.
    pub(super) fn press(&mut self, input: Input) -> Action {
        if let Some((uid, _)) = self.asked.take_if(|_| input != Input::Resized) {
            // Anything but a clear yes is a no.
            return if matches!(input, Input::Letter('y' | 'Y')) {
                Action::Kill(uid)
            } else {
                Action::Nothing
            };
        }
        match input {
            Input::Letter('q' | 'Q') => return Action::Quit,
            Input::Letter('k' | 'K') => self.ask(),
            Input::Up => self.choose(self.place().saturating_sub(1)),
            Input::Down => self.choose(self.place() + 1),
            Input::Escape | Input::Letter(_) => self.notice = None,
            Input::Resized => {}
        }
        Action::Nothing
    }

    fn ask(&mut self) {
        self.notice = None;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let session = self.news.sessions.get(self.place());
        self.asked = session.and_then(|session| Some((text(&session["uid"])?, text(&session["id"])?)));
    }

    fn place(&self) -> usize {
        let is_chosen = |session: &Value| session["uid"].as_str() == self.chosen.as_deref();
        self.news.sessions.iter().position(is_chosen).unwrap_or_default()
    }

    fn choose(&mut self, place: usize) {
        let last = self.news.sessions.len().saturating_sub(1);
        let session = self.news.sessions.get(place.min(last));
        self.chosen = session.and_then(|session| session["uid"].as_str()).map(str::to_owned);
    }

    /// The whole screen: a title, the sessions around the chosen one, and a line to talk in.
    pub(super) fn lines(&self, width: usize, height: usize) -> Vec<Line> {
        let mut lines = vec![line(self.title(), Style::Bold)];
        let room = height.saturating_sub(3);
        let first = self.place().saturating_sub(room.saturating_sub(1));
        let mut rows = report::session_rows(&self.news.sessions);
        rows.iter_mut().flatten().for_each(shorten);
        // All rows are in the table, so that columns do not jump while one scrolls.
        let texts = table(&rows, &report::NUMBERS);
        for (i, text) in texts.lines().enumerate() {
            match i.checked_sub(1) {
                None => lines.push(line(format!("  {text}"), Style::Bold)),
                Some(i) if i >= first && i < first + room => lines.push(self.row(i, text)),
                Some(_) => {}
            }
        }
        if self.news.sessions.is_empty() {
            lines.push(line("  no active sessions", Style::Plain));
        }
        lines.truncate(height.saturating_sub(1));
        lines.resize(height.saturating_sub(1), line("", Style::Plain));
        lines.push(self.talk());
        for line in &mut lines {
            line.text = line.text.chars().take(width).collect();
        }
        lines
    }

    fn row(&self, i: usize, text: &str) -> Line {
        let is_busy = self.news.sessions[i]["open_legs"].as_u64() > Some(0);
        match (i == self.place(), is_busy) {
            (true, _) => line(format!("> {text}"), Style::Chosen),
            (false, true) => line(format!("  {text}"), Style::Busy),
            (false, false) => line(format!("  {text}"), Style::Plain),
        }
    }

    fn title(&self) -> String {
        let number = |key: &str| self.news.stats[key].as_u64().unwrap_or_default();
        let (active, open, kills) = (number("active"), number("open_legs"), number("kills_in_force"));
        let plural = |count: u64| if count == 1 { "" } else { "s" };
        let shown = self.news.sessions.len() as u64;
        let newest = if active > shown { format!(", the newest {shown} here") } else { String::new() };
        format!(
            "elida top  {}  {active} active{newest}, {open} open request{}, {kills} kill{} in force",
            self.address,
            plural(open),
            plural(kills)
        )
    }

    fn talk(&self) -> Line {
        match (&self.asked, &self.lost, &self.notice) {
            (Some((_, id)), ..) => line(format!("kill {}? y/n", plain(id)), Style::Loud),
            (None, Some(why), _) => line(plain(why), Style::Loud),
            (None, None, Some(told)) => line(plain(told), Style::Bold),
            (None, None, None) => line("q quit   k kill   up/down select", Style::Plain),
        }
    }
}

fn line(text: impl Into<String>, style: Style) -> Line {
    Line { text: text.into(), style }
}

fn shorten(cell: &mut String) {
    if cell.chars().count() > CELL {
        *cell = cell.chars().take(CELL - 1).chain(['…']).collect();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn news(ids: &[&str]) -> Sample {
        let session = |id: &&str| {
            json!({"id": id, "uid": format!("s_{id}"), "state": "active", "open_legs": u64::from(*id == "busy"),
                   "identity": {"client": "curl"}, "backends": {"b": 1}, "models": {"m": 1}})
        };
        let stats = json!({"active": ids.len(), "open_legs": 1, "kills_in_force": 2});
        Sample { sessions: ids.iter().map(session).collect(), stats }
    }

    fn texts(view: &View, width: usize, height: usize) -> Vec<String> {
        view.lines(width, height).into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn a_screen_has_a_title_the_sessions_and_a_line_to_talk_in() {
        let mut view = View::new("http://h:1");
        view.take(news(&["busy", "b\u{1b}[2J"]));
        let lines = view.lines(200, 6);
        assert_eq!(lines.len(), 6);
        assert_eq!(lines[0].text, "elida top  http://h:1  2 active, 1 open request, 2 kills in force");
        assert!(lines[1].text.starts_with("  ID"), "{lines:?}");
        assert!(lines[2].text.starts_with("> busy") && lines[2].style == Style::Chosen, "{lines:?}");
        assert!(lines[3].text.starts_with("  b\u{fffd}[2J") && lines[3].style == Style::Plain, "{lines:?}");
        assert_eq!(lines[5].text, "q quit   k kill   up/down select");
        assert!(texts(&view, 10, 4).iter().all(|line| line.chars().count() <= 10));
        for height in 0..4 {
            assert_eq!(view.lines(80, height).len(), height.max(1));
        }
    }

    #[test]
    fn the_choice_stays_with_its_session_and_the_list_scrolls_to_it() {
        let mut view = View::new("");
        view.take(news(&["a", "b", "c", "d", "e"]));
        for _ in 0..3 {
            view.press(Input::Down);
        }
        let shown = texts(&view, 80, 5);
        assert!(shown[2].starts_with("  c") && shown[3].starts_with("> d"), "{shown:?}");
        view.take(news(&["d", "a", "b", "c"]));
        assert!(texts(&view, 80, 8)[2].starts_with("> d"));
        view.take(news(&["x", "y"]));
        assert!(texts(&view, 80, 8)[2].starts_with("> x"), "who stands in the place of one that ended");
        view.press(Input::Up);
        view.press(Input::Down);
        view.press(Input::Down);
        assert!(texts(&view, 80, 8)[3].starts_with("> y"), "there is none below the last");
    }

    #[test]
    fn a_kill_needs_a_clear_yes() {
        let mut view = View::new("");
        assert_eq!(view.press(Input::Letter('k')), Action::Nothing);
        assert_eq!(view.press(Input::Letter('y')), Action::Nothing, "nobody is chosen");
        view.take(news(&["a", "b"]));
        view.press(Input::Down);
        view.press(Input::Letter('k'));
        assert_eq!(texts(&view, 80, 5)[4], "kill b? y/n");
        view.take(news(&["b", "a"]));
        assert_eq!(view.press(Input::Letter('q')), Action::Nothing, "q means no here");
        view.press(Input::Letter('k'));
        assert_eq!(view.press(Input::Resized), Action::Nothing);
        assert_eq!(view.press(Input::Letter('y')), Action::Kill("s_b".into()));
        view.update(Update::Killed("b killed".into()));
        assert_eq!(texts(&view, 80, 5)[4], "b killed");
        view.update(Update::Lost("no answer".into()));
        assert_eq!(texts(&view, 80, 5)[4], "no answer");
        assert_eq!(view.press(Input::Letter('q')), Action::Quit);
    }
}
