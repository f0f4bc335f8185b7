//! The terminal: raw mode, alternate screen, hidden cursor; restored at the end, even after a panic.

use std::io::{self, Stdout, Write};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::style::{Attribute, SetAttribute};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use crossterm::{cursor, queue};

use super::view::{Input, Line, Style};
use crate::cli::is_plain;

// Colours of the terminal's palette (ECMA-48 SGR), which its user can read on its background.
const GREEN: &[u8] = b"\x1b[32m";
const YELLOW: &[u8] = b"\x1b[33m";

/// The terminal; restored when dropped.
pub(super) struct Screen<W: Write> {
    out: W,
    /// False: NO_COLOR is set.
    has_colours: bool,
}

impl Screen<Stdout> {
    /// Takes over the terminal.
    pub(super) fn open() -> io::Result<Self> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // First, so that the message does not go to the alternate screen and get lost.
            restore(&mut io::stdout());
            before(panic);
        }));
        enable_raw_mode()?;
        Self::on(io::stdout(), !is_plain())
    }

    /// Draws the lines that `lines` returns for this width and height.
    pub(super) fn draw(&mut self, lines: impl FnOnce(usize, usize) -> Vec<Line>) -> io::Result<()> {
        let (width, height) = size()?;
        self.paint(&lines(width.into(), height.into()))
    }

    /// Returns the input received within `timeout`.
    pub(super) fn input(&self, timeout: Duration) -> io::Result<Option<Input>> {
        if !event::poll(timeout)? {
            return Ok(None);
        }
        Ok(match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => input(key),
            Event::Resize(..) => Some(Input::Resized),
            _ => None,
        })
    }
}

impl<W: Write> Screen<W> {
    fn on(mut out: W, has_colours: bool) -> io::Result<Self> {
        queue!(out, EnterAlternateScreen, cursor::Hide)?;
        out.flush()?;
        Ok(Self { out, has_colours })
    }

    /// Draws line by line over the old content; clearing the screen first would flicker.
    fn paint(&mut self, lines: &[Line]) -> io::Result<()> {
        let mut frame = Vec::new();
        for (row, line) in lines.iter().enumerate() {
            queue!(frame, cursor::MoveTo(0, u16::try_from(row).unwrap_or(u16::MAX)))?;
            match line.style {
                Style::Plain => {}
                Style::Bold => queue!(frame, SetAttribute(Attribute::Bold))?,
                Style::Selected => queue!(frame, SetAttribute(Attribute::Reverse))?,
                Style::Busy if self.has_colours => frame.extend_from_slice(GREEN),
                Style::Alert if self.has_colours => frame.extend_from_slice(YELLOW),
                Style::Busy | Style::Alert => {}
            }
            frame.extend_from_slice(line.text.as_bytes());
            queue!(frame, SetAttribute(Attribute::Reset), Clear(ClearType::UntilNewLine))?;
        }
        queue!(frame, Clear(ClearType::FromCursorDown))?;
        self.out.write_all(&frame)?;
        self.out.flush()
    }
}

impl<W: Write> Drop for Screen<W> {
    fn drop(&mut self) {
        restore(&mut self.out);
    }
}

/// Restores the terminal. Harmless when called twice; errors of a terminal that is gone are ignored.
fn restore(out: &mut impl Write) {
    let _ = queue!(out, SetAttribute(Attribute::Reset), cursor::Show, LeaveAlternateScreen);
    let _ = out.flush();
    let _ = disable_raw_mode();
}

fn input(key: KeyEvent) -> Option<Input> {
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        // In raw mode the terminal sends no SIGINT.
        KeyCode::Char('c' | 'd') if is_control => Some(Input::Letter('q')),
        KeyCode::Char(letter) if !is_control => Some(Input::Letter(letter)),
        KeyCode::Up => Some(Input::Up),
        KeyCode::Down => Some(Input::Down),
        KeyCode::Esc => Some(Input::Escape),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Paper {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn a_panic_gives_the_terminal_back() {
        let paper = Paper::default();
        let inner = paper.clone();
        let outcome = std::panic::catch_unwind(move || {
            let _screen = Screen::on(inner, true).unwrap();
            panic!("while it is ours");
        });
        assert!(outcome.is_err());
        let text = paper.text();
        assert!(text.starts_with("\u{1b}[?1049h\u{1b}[?25l"), "{text:?}");
        assert!(text.ends_with("\u{1b}[?25h\u{1b}[?1049l"), "{text:?}");
    }

    #[test]
    fn no_colour_means_none() {
        let lines =
            [Style::Busy, Style::Alert, Style::Selected].map(|style| Line { text: "x".into(), style });
        let painted = |has_colours| {
            let paper = Paper::default();
            Screen::on(paper.clone(), has_colours).unwrap().paint(&lines).unwrap();
            paper.text()
        };
        assert!(painted(true).contains("\u{1b}[32mx"), "{:?}", painted(true));
        assert!(!["\u{1b}[32m", "\u{1b}[33m"].iter().any(|colour| painted(false).contains(colour)));
        assert!(painted(false).contains("\u{1b}[7mx"), "the chosen one is still seen");
    }
}
