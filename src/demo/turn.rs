//! One turn of a conversation, the same for every dialect: what was asked, what is answered.

use std::sync::Arc;

use serde_json::Value;

use super::body::Event;
use super::script::{Extra, Script, ToolWish};

/// The echo stops after this many words …
const ECHO_WORDS: usize = 256;
/// … and cuts a word after this many bytes, since bodies may be of any size.
const ECHO_WORD_BYTES: usize = 256;

/// The events of a streamed answer, made one by one as they are sent.
pub(super) type Events = Box<dyn Iterator<Item = Event> + Send>;

/// How one dialect reads a request and writes an answer.
pub(super) struct Dialect {
    /// Reads a request body; the error is a message for the caller.
    pub(super) ask: fn(&Value) -> Result<Ask, String>,
    /// A whole answer.
    pub(super) whole: fn(&Reply) -> Value,
    /// A streamed answer.
    pub(super) events: fn(Arc<Reply>) -> Events,
    /// The content type of a streamed answer.
    pub(super) stream_type: &'static str,
    /// An error body.
    pub(super) fault: fn(u16, &str) -> Value,
}

/// Makes an error body of a status and a message.
type Fault = Box<dyn Fn(u16, &str) -> Value + Send>;

/// How one request is answered, whatever its words.
pub(super) struct Manner {
    /// The content type of a streamed answer.
    pub(super) stream_type: &'static str,
    /// A streamed answer.
    pub(super) events: Box<dyn FnOnce(Arc<Reply>) -> Events + Send>,
    /// A whole answer.
    pub(super) whole: Box<dyn FnOnce(&Reply) -> Value + Send>,
    /// An error body.
    pub(super) fault: Fault,
}

impl Dialect {
    /// This dialect's manner, the same for all its requests.
    pub(super) fn manner(&self) -> Manner {
        Manner {
            stream_type: self.stream_type,
            events: Box::new(self.events),
            whole: Box::new(self.whole),
            fault: Box::new(self.fault),
        }
    }
}

/// What a request asks for.
#[derive(Clone, Debug, Default)]
pub(super) struct Ask {
    pub(super) model: String,
    pub(super) stream: bool,
    /// The last text of the user.
    pub(super) text: String,
    /// A tool answered after that text.
    pub(super) tool_answered: bool,
    /// The names of the tools offered.
    pub(super) tools: Vec<String>,
    /// Words in the whole prompt.
    pub(super) input_tokens: usize,
    /// The stream shall end with the usage (OpenAI's `stream_options.include_usage`).
    pub(super) stream_usage: bool,
}

/// What the provider answers.
#[derive(Debug)]
pub(super) struct Reply {
    /// Sixteen hex digits, the same for the same request.
    pub(super) id: String,
    pub(super) model: String,
    words: Words,
    pub(super) tool: Option<ToolWish>,
    pub(super) extra: Extra,
    pub(super) input_tokens: usize,
    pub(super) stream_usage: bool,
}

#[derive(Debug)]
enum Words {
    Echo(Vec<String>),
    Counted(usize),
}

impl Reply {
    /// The answer to `ask`, and how to give it.
    pub(super) fn to(ask: &Ask, id: String) -> (Self, Script) {
        let (mut script, rest) = Script::read(&ask.text);
        let tool = script.tool.take().filter(|wish| !ask.tool_answered && ask.tools.contains(&wish.name));
        let words = match script.words {
            Some(count) => Words::Counted(count),
            None => Words::Echo(echo(&rest)),
        };
        let reply = Self {
            id,
            model: ask.model.clone(),
            words,
            tool,
            extra: script.extra,
            input_tokens: ask.input_tokens,
            stream_usage: ask.stream_usage,
        };
        (reply, script)
    }

    /// How many words the text has.
    pub(super) fn word_count(&self) -> usize {
        match &self.words {
            Words::Echo(words) => words.len(),
            Words::Counted(count) => *count,
        }
    }

    /// The piece of text that the word at `index` adds, with the space before it.
    pub(super) fn piece(&self, index: usize) -> String {
        let space = if index == 0 { "" } else { " " };
        match &self.words {
            Words::Echo(words) => format!("{space}{}", words[index]),
            Words::Counted(_) => format!("{space}word{}", index + 1),
        }
    }

    /// The whole text.
    pub(super) fn text(&self) -> String {
        (0..self.word_count()).map(|index| self.piece(index)).collect()
    }

    /// Output tokens: the words of the text, or of the tool's arguments, at least one, and the reasoning.
    pub(super) fn output_tokens(&self) -> usize {
        let said = match &self.tool {
            Some(wish) => count_words(&wish.arguments.to_string()).max(1),
            None => self.word_count(),
        };
        said + self.extra.reasoning
    }

    /// Input tokens with those of the prompt cache, as all but Anthropic count.
    pub(super) fn all_input_tokens(&self) -> usize {
        self.input_tokens + self.extra.cached + self.extra.written
    }
}

fn echo(text: &str) -> Vec<String> {
    let words: Vec<String> = text.split_whitespace().take(ECHO_WORDS).map(shorten).collect();
    match words.is_empty() {
        true => ["Hello", "from", "the", "demo", "provider."].map(str::to_owned).to_vec(),
        false => words,
    }
}

fn shorten(word: &str) -> String {
    word[..word.floor_char_boundary(ECHO_WORD_BYTES)].to_owned()
}

/// Words between white space: the provider's idea of a token.
pub(super) fn count_words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// The text of a message's content: a string, or the parts of an array that have a `text`.
/// Claude Code puts its reminders beside the user's words; they are not the user's.
pub(super) fn content_text(content: &Value) -> Option<String> {
    match content {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part["text"].as_str())
            .rfind(|text| !text.trim_start().starts_with("<system-reminder>"))
            .map(str::to_owned),
        _ => None,
    }
}

/// The words of every string below `value`, other than keys.
pub(super) fn words_below(value: &Value) -> usize {
    match value {
        Value::String(text) => count_words(text),
        Value::Array(items) => items.iter().map(words_below).sum(),
        Value::Object(members) => members.values().map(words_below).sum(),
        _ => 0,
    }
}

/// The text member `key`, or `fallback`.
pub(super) fn text_or(body: &Value, key: &str, fallback: &str) -> String {
    body[key].as_str().unwrap_or(fallback).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ask(text: &str) -> Ask {
        Ask { text: text.to_owned(), tools: vec!["now".to_owned()], ..Ask::default() }
    }

    #[test]
    fn the_echo_has_the_words_of_the_text_and_not_the_directives() {
        let (reply, _) = Reply::to(&ask("say  it [[pace 1ms]]\nagain"), String::new());
        assert_eq!(reply.text(), "say it again");
        assert_eq!(reply.output_tokens(), 3);
    }

    #[test]
    fn a_huge_text_gives_a_short_echo() {
        let (reply, _) = Reply::to(&ask(&"é".repeat(1 << 20)), String::new());
        assert_eq!(reply.text(), "é".repeat(ECHO_WORD_BYTES / 2));
    }

    #[test]
    fn a_tool_is_called_once_and_only_when_offered() {
        let called = |ask: &Ask| Reply::to(ask, String::new()).0.tool.is_some();
        assert!(called(&ask("[[tool now]]")));
        assert!(!called(&ask("[[tool other]]")));
        assert!(!called(&Ask { tool_answered: true, ..ask("[[tool now]]") }));
    }

    #[test]
    fn reminders_are_not_the_users_text() {
        let content = json!([{"type": "text", "text": "hi"}, {"type": "text", "text": "<system-reminder>x"}]);
        assert_eq!(content_text(&content).as_deref(), Some("hi"));
    }
}
