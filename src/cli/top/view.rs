//! The lines that `elida top` shows, and what keys do. Knows no terminal.

use super::feed::{Sample, Update};
use crate::cli::report;
use crate::cli::table::{plain, table};
use crate::ids::{SessionId, Uid};
use crate::session::SessionView;

/// The longest cell, in characters; ids and model names come from clients.
const CELL: usize = 36;

/// Style of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    /// Headings.
    Bold,
    /// A session with an open request.
    Busy,
    /// The selected session.
    Selected,
    /// A question or a warning.
    Alert,
}

/// One line, at most as wide as the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) style: Style,
}

/// Input from the keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Up,
    Down,
    Escape,
    Letter(char),
    /// The screen has a new size.
    Resized,
}

/// What a key does.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    Quit,
    /// Kill the session with this uid.
    Kill(Uid),
}

/// State of the screen.
pub(super) struct View {
    address: String,
    sample: Sample,
    /// The selected session, which stays selected when the order changes.
    selected: Option<Uid>,
    /// The session whose kill must be confirmed.
    asked: Option<(Uid, SessionId)>,
    notice: Option<String>,
    lost: Option<String>,
}

impl View {
    /// Creates an empty view of the control API at `address`.
    pub(super) fn new(address: &str) -> Self {
        let sample = Sample::default();
        Self { address: address.to_owned(), sample, selected: None, asked: None, notice: None, lost: None }
    }

    /// Applies an update.
    pub(super) fn update(&mut self, update: Update) {
        match update {
            Update::Sample(sample) => self.take(sample),
            Update::Lost(why) => self.lost = Some(why),
            Update::Killed(told) => self.notice = Some(told),
        }
    }

    /// Shows a new sample.
    pub(super) fn take(&mut self, sample: Sample) {
        let row = self.selected_row();
        self.sample = sample;
        self.lost = None;
        if !self.sample.sessions.iter().any(|session| Some(session.uid) == self.selected) {
            // The selected session is gone: the one now in its row is selected.
            self.select(row);
        }
    }

    /// Handles a key.
    pub(super) fn press(&mut self, input: Input) -> Action {
        if let Some((uid, _)) = self.asked.take_if(|_| input != Input::Resized) {
            // Any other key means no.
            return if matches!(input, Input::Letter('y' | 'Y')) {
                Action::Kill(uid)
            } else {
                Action::Nothing
            };
        }
        match input {
            Input::Letter('q' | 'Q') => return Action::Quit,
            Input::Letter('k' | 'K') => self.ask(),
            Input::Up => self.select(self.selected_row().saturating_sub(1)),
            Input::Down => self.select(self.selected_row() + 1),
            Input::Escape | Input::Letter(_) => self.notice = None,
            Input::Resized => {}
        }
        Action::Nothing
    }

    fn ask(&mut self) {
        self.notice = None;
        let session = self.sample.sessions.get(self.selected_row());
        self.asked = session.map(|session| (session.uid, session.id.clone()));
    }

    fn selected_row(&self) -> usize {
        let is_selected = |session: &SessionView| Some(session.uid) == self.selected;
        self.sample.sessions.iter().position(is_selected).unwrap_or_default()
    }

    fn select(&mut self, row: usize) {
        let last = self.sample.sessions.len().saturating_sub(1);
        let session = self.sample.sessions.get(row.min(last));
        self.selected = session.map(|session| session.uid);
    }

    /// Returns the whole screen: a title, the sessions around the selected one, and a status line.
    pub(super) fn lines(&self, width: usize, height: usize) -> Vec<Line> {
        let mut lines = vec![line(self.title(), Style::Bold)];
        let room = height.saturating_sub(3);
        let first = self.selected_row().saturating_sub(room.saturating_sub(1));
        let mut rows = report::session_rows(&self.sample.sessions);
        rows.iter_mut().flatten().for_each(shorten);
        // All rows are in the table, so that columns do not move while scrolling.
        let texts = table(&rows, &report::NUMBERS);
        for (i, text) in texts.lines().enumerate() {
            match i.checked_sub(1) {
                None => lines.push(line(format!("  {text}"), Style::Bold)),
                Some(i) if i >= first && i < first + room => lines.push(self.row(i, text)),
                Some(_) => {}
            }
        }
        if self.sample.sessions.is_empty() {
            lines.push(line("  no active sessions", Style::Plain));
        }
        lines.truncate(height.saturating_sub(1));
        lines.resize(height.saturating_sub(1), line("", Style::Plain));
        lines.push(self.status_line());
        for line in &mut lines {
            line.text = line.text.chars().take(width).collect();
        }
        lines
    }

    fn row(&self, i: usize, text: &str) -> Line {
        let is_busy = self.sample.sessions[i].open_legs > 0;
        match (i == self.selected_row(), is_busy) {
            (true, _) => line(format!("> {text}"), Style::Selected),
            (false, true) => line(format!("  {text}"), Style::Busy),
            (false, false) => line(format!("  {text}"), Style::Plain),
        }
    }

    fn title(&self) -> String {
        let stats = &self.sample.stats;
        let (active, open, kills) = (stats.active, stats.open_legs, stats.kills_in_force);
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let shown = self.sample.sessions.len();
        let newest = if active > shown { format!(", the newest {shown} here") } else { String::new() };
        format!(
            "elida top  {}  {active} active{newest}, {open} open request{}, {kills} kill{} in force",
            self.address,
            plural(open),
            plural(kills)
        )
    }

    fn status_line(&self) -> Line {
        match (&self.asked, &self.lost, &self.notice) {
            (Some((_, id)), ..) => line(format!("kill {}? y/n", plain(id.as_str())), Style::Alert),
            (None, Some(why), _) => line(plain(why), Style::Alert),
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
    use crate::cli::testing::{session, uid};
    use crate::session::Stats;

    fn news(ids: &[&str]) -> Sample {
        let view = |id: &&str| {
            session(json!({"id": id, "open_legs": u64::from(*id == "busy"),
                   "identity": {"client": "curl"}, "backends": {"b": 1}, "models": {"m": 1}}))
        };
        let stats = Stats { active: ids.len(), open_legs: 1, kills_in_force: 2, ..Stats::default() };
        Sample { sessions: ids.iter().map(view).collect(), stats }
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
        assert!(lines[2].text.starts_with("> busy") && lines[2].style == Style::Selected, "{lines:?}");
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
        assert_eq!(view.press(Input::Letter('y')), Action::Kill(Uid::parse(&uid("b")).unwrap()));
        view.update(Update::Killed("b killed".into()));
        assert_eq!(texts(&view, 80, 5)[4], "b killed");
        view.update(Update::Lost("no answer".into()));
        assert_eq!(texts(&view, 80, 5)[4], "no answer");
        assert_eq!(view.press(Input::Letter('q')), Action::Quit);
    }
}
