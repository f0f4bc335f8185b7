//! The tools that an answer of an MCP server lists (`tools/list`), and where they stand in its bytes.

use std::ops::Range;

use crate::protocol::json::whole::{Token, Tokens, unescape};

/// The tools of one unit of an answer: a JSON text, or an event with one.
#[derive(Debug)]
pub struct ToolLists {
    /// The JSON.
    text: Vec<u8>,
    /// Where each byte of it stands in the unit; `None` for line ends that the lines of an event stand for.
    places: Vec<Option<usize>>,
    lists: Vec<Vec<ListedTool>>,
}

/// A tool in a list.
#[derive(Debug, Default)]
struct ListedTool {
    /// Each name that it has: a member may be there twice.
    names: Vec<String>,
    at: Range<usize>,
    /// Where the comma behind it stands.
    comma: Option<usize>,
}

impl ToolLists {
    /// Reads a unit. Names of members are known in any case of their letters, since some clients read them so.
    pub fn read(unit: &[u8], is_event: bool) -> Self {
        let (text, places) = if is_event { data(unit) } else { (unit.to_vec(), Vec::new()) };
        let mut lists = Vec::new();
        let mut tokens = Tokens::new(&text);
        // A batch is an array of answers, of which a unit may have some.
        while let Some(token) = tokens.next() {
            if token == (Token::Open { is_object: true }) {
                each_member(&mut tokens, |key, tokens| {
                    if key.eq_ignore_ascii_case("result") && enters(tokens, true) {
                        each_member(tokens, |key, tokens| {
                            if key.eq_ignore_ascii_case("tools") && enters(tokens, false) {
                                lists.push(list(tokens, &text));
                            }
                        });
                    }
                });
            }
        }
        Self { text, places, lists }
    }

    /// Each tool by each of its names, with its definition as it is written.
    pub fn tools(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let tools = self.lists.iter().flatten();
        tools.flat_map(|tool| tool.names.iter().map(|name| (&**name, &self.text[tool.at.clone()])))
    }

    /// Returns the unit with blanks in the place of these tools, so that no other byte moves; `None` if it has none of them.
    pub fn without(&self, unit: &[u8], is_hidden: impl Fn(&str) -> bool) -> Option<Vec<u8>> {
        let mut blank: Vec<Range<usize>> = Vec::new();
        for list in &self.lists {
            // The last comma that still stands between two tools.
            let mut last = None;
            for tool in list {
                let is_hidden = tool.names.iter().any(|name| is_hidden(name));
                let comma = tool.comma.map(|at| at..at + 1);
                if is_hidden {
                    blank.push(tool.at.clone());
                    blank.extend(comma.or_else(|| last.take()));
                } else {
                    last = comma;
                }
            }
        }
        if blank.is_empty() {
            return None;
        }
        let mut left = unit.to_vec();
        for at in blank.into_iter().flatten() {
            let place = if self.places.is_empty() { Some(at) } else { self.places[at] };
            if let Some(byte) = place.and_then(|place| left.get_mut(place)) {
                *byte = b' ';
            }
        }
        Some(left)
    }
}

/// Returns the data of an event, and where each byte of it stands.
fn data(event: &[u8]) -> (Vec<u8>, Vec<Option<usize>>) {
    let (mut text, mut places) = (Vec::new(), Vec::new());
    let mut at = 0;
    for line in event.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let value = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line).strip_prefix(b"data:");
        if let Some(value) = value.map(|value| value.strip_prefix(b" ").unwrap_or(value)) {
            if !text.is_empty() {
                text.push(b'\n');
                places.push(None);
            }
            let end = at + line.len();
            text.extend_from_slice(value);
            places.extend((end - value.len()..end).map(Some));
        }
        at += line.len() + 1;
    }
    (text, places)
}

/// Passes over the members of the object that was opened; `on` reads the value of one, or leaves it.
fn each_member(tokens: &mut Tokens<'_>, mut on: impl FnMut(&str, &mut Tokens<'_>)) {
    while let Some(Token::Text { raw, is_key: true }) = tokens.next() {
        let begin = tokens.next_position();
        on(&plain(raw), tokens);
        if Tokens::position(tokens) == begin {
            tokens.skip_value();
        }
    }
}

/// Opens the container that follows, if it is one of this kind.
fn enters(tokens: &mut Tokens<'_>, is_object: bool) -> bool {
    let mut ahead = tokens.clone();
    let enters = ahead.next() == Some(Token::Open { is_object });
    if enters {
        *tokens = ahead;
    }
    enters
}

/// Reads the array that was opened, to its end.
fn list(tokens: &mut Tokens<'_>, text: &[u8]) -> Vec<ListedTool> {
    let mut tools = Vec::new();
    loop {
        let begin = tokens.next_position();
        if matches!(text.get(begin), None | Some(b']' | b'}')) {
            tokens.next();
            return tools;
        }
        let mut tool = ListedTool::default();
        let mut inside = tokens.clone();
        if inside.next() == Some(Token::Open { is_object: true }) {
            each_member(&mut inside, |key, inside| {
                if key.eq_ignore_ascii_case("name")
                    && let Some(Token::Text { raw, .. }) = inside.next()
                {
                    tool.names.push(plain(raw));
                }
            });
        }
        tokens.skip_value();
        tool.at = begin..Tokens::position(tokens);
        let behind = tool.at.end;
        let next = tokens.next_position();
        tool.comma = text[behind..next].iter().position(|byte| *byte == b',').map(|comma| behind + comma);
        tools.push(tool);
    }
}

fn plain(raw: &[u8]) -> String {
    let mut text = Vec::with_capacity(raw.len());
    unescape(&mut text, raw);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn answer(tools: &[&str]) -> String {
        let tools: Vec<Value> = tools
            .iter()
            .map(|name| json!({"name": name, "inputSchema": {"properties": {"name": {"x": [1, "]"]}}}}))
            .collect();
        json!({"id": 1, "jsonrpc": "2.0", "result": {"nextCursor": "a", "tools": tools}}).to_string()
    }

    fn names(text: &[u8]) -> Vec<String> {
        let answer: Value = serde_json::from_slice(text).expect("JSON");
        let tools = answer["result"]["tools"].as_array().expect("a list");
        tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_is_left_is_json_of_the_same_length_whichever_are_hidden() {
        let all = ["a", "b", "c", "d"];
        let text = answer(&all);
        for hidden in 0..16_u32 {
            let is_hidden = |name: &str| {
                let at = all.iter().position(|known| *known == name).unwrap();
                hidden & 1 << at != 0
            };
            let kept: Vec<&str> = all.into_iter().filter(|name| !is_hidden(name)).collect();
            let lists = ToolLists::read(text.as_bytes(), false);
            let left = lists.without(text.as_bytes(), is_hidden);
            assert_eq!(left.is_none(), hidden == 0);
            let left = left.unwrap_or_else(|| text.clone().into_bytes());
            assert_eq!(
                (names(&left), left.len()),
                (kept.iter().map(|name| name.to_string()).collect(), text.len())
            );
        }
    }

    #[test]
    fn events_with_several_lines_keep_their_lines() {
        let text =
            serde_json::to_string_pretty(&serde_json::from_str::<Value>(&answer(&["a", "b"])).unwrap());
        for end in ["\n", "\r\n", "\r"] {
            let lines: String =
                text.as_ref().unwrap().lines().map(|line| format!("data:  {line}{end}")).collect();
            let event = format!("id: 7{end}event: message{end}{lines}{end}");
            let lists = ToolLists::read(event.as_bytes(), true);
            let left = lists.without(event.as_bytes(), |name| name == "b").expect("it has b");
            assert_eq!(left.len(), event.len());
            let (data, _) = data(&left);
            assert_eq!(names(&data), ["a"]);
            assert!(left.starts_with(format!("id: 7{end}event: message{end}data: ").as_bytes()));
        }
    }

    #[test]
    fn names_are_found_however_they_are_written() {
        let text = br#"[{"id":1},{"Result":{"t\u006fols":[{"name":"a","NAME":"b"},7,{"name":"d\u0065"}]}}"#;
        let lists = ToolLists::read(text, false);
        assert_eq!(lists.tools().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b", "de"]);
        assert!(lists.tools().all(|(_, definition)| definition.starts_with(b"{\"name\"")));
        for broken in
            ["", "{", r#"{"result":{"tools":[{"name":"#, r#"{"result":{"tools":[}"#, "[[[", r#"{"result" 1}"#]
        {
            let lists = ToolLists::read(broken.as_bytes(), false);
            assert!(lists.without(broken.as_bytes(), |_| true).is_none_or(|left| left.len() == broken.len()));
        }
    }
}
