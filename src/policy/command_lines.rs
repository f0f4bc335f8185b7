//! The command lines in a call's arguments: programs take them as lists of words, and patterns are written as they read.

use super::json::Json;

/// Members that name a program whose words are in a list beside them.
const PROGRAM: [&str; 5] = ["cmd", "command", "program", "executable", "file"];

/// Tells each list of texts, joined by blanks, and the program before it if a member beside the list names it.
pub fn command_lines(args: &[u8], on: &mut dyn FnMut(&str)) {
    // Without a list there is nothing to join.
    if args.contains(&b'[')
        && let Some(json) = Json::read(args)
    {
        lines(&json, on);
    }
}

fn lines(json: &Json, on: &mut dyn FnMut(&str)) {
    match json {
        Json::List(items) => {
            if let Some(line) = joined(items) {
                on(&line);
            }
            items.iter().for_each(|item| lines(item, on));
        }
        Json::Object(members) => {
            let programs = members.iter().filter_map(|(name, value)| match value {
                Json::Text(text) if PROGRAM.iter().any(|known| name.eq_ignore_ascii_case(known)) => {
                    Some(text)
                }
                _ => None,
            });
            for program in programs {
                for (_, value) in members {
                    if let Json::List(items) = value
                        && let Some(line) = joined(items)
                    {
                        on(&format!("{program} {line}"));
                    }
                }
            }
            members.iter().for_each(|(_, value)| lines(value, on));
        }
        _ => {}
    }
}

/// Joins the texts of a list; `None` if it has none. What is no text stands between words, too.
fn joined(items: &[Json]) -> Option<String> {
    let words: Vec<&str> = items
        .iter()
        .filter_map(|item| match item {
            Json::Text(text) => Some(&**text),
            _ => None,
        })
        .collect();
    (!words.is_empty()).then(|| words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(args: &str) -> Vec<String> {
        let mut told = Vec::new();
        command_lines(args.as_bytes(), &mut |line| told.push(line.to_owned()));
        told
    }

    #[test]
    fn lists_of_words_read_as_a_shell_would_show_them() {
        assert_eq!(told(r#"{"command":["rm","-rf","/"]}"#), ["rm -rf /"]);
        assert_eq!(told(r#"{"args":["-rf","\u002f"],"cmd":"rm"}"#), ["rm -rf /", "-rf /"]);
        assert_eq!(told(r#"{"steps":[{"argv":["git","push"]},["ls",1,"-l"]]}"#), ["git push", "ls -l"]);
        assert_eq!(told(r#"{"command":"rm -rf /"}"#), [""; 0]);
        assert_eq!(told("[[[ no JSON"), [""; 0]);
    }
}
