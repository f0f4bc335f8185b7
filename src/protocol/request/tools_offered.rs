//! Where the APIs name the tools that a request offers the model.

use crate::protocol::facts::tools_offered::ToolsOffered;
use crate::protocol::json::scan::{Value, Want};

/// Where the APIs name the tools: Anthropic and responses, chat and Ollama, the older chat.
pub(super) const PATHS: [&str; 3] = ["tools[].name", "tools[].function.name", "functions[].name"];

/// Where else tools are named, and those that have no name: the provider's own, by the member that asks for them. Looked for
/// where callers may use some tools only.
pub(super) const BESIDE: [(&str, Beside); 50] = [
    ("tools", Beside::List(0)),
    ("functions", Beside::List(1)),
    ("toolConfig", Beside::List(2)),
    ("toolConfig.tools", Beside::List(3)),
    ("tools[]", Beside::Element),
    ("tools[]", Beside::Name),
    ("tools[].type", Beside::Type),
    ("tools[].functionDeclarations[]", Beside::Inner),
    ("tools[].functionDeclarations[].name", Beside::InnerName),
    ("tools[].function_declarations[]", Beside::Inner),
    ("tools[].function_declarations[].name", Beside::InnerName),
    // A list of one element may be written as the element (protobuf's JSON).
    ("tools[].functionDeclarations.name", Beside::Elsewhere),
    ("tools[].function_declarations.name", Beside::Elsewhere),
    ("tools.functionDeclarations", Beside::Inside),
    ("tools.function_declarations", Beside::Inside),
    ("tools.function", Beside::Inside),
    ("tools.name", Beside::Elsewhere),
    ("tools[].tools[]", Beside::Inner),
    ("tools[].tools[].name", Beside::InnerName),
    ("toolConfig.tools[]", Beside::Inner),
    ("toolConfig.tools[].toolSpec.name", Beside::InnerName),
    ("toolConfig.tools[].systemTool.name", Beside::InnerName),
    ("toolConfig.tools[].cachePoint", Beside::InnerMark),
    ("cachedContent", Beside::Elsewhere),
    ("cached_content", Beside::Elsewhere),
    ("prompt.id", Beside::Elsewhere),
    ("plugins[].id", Beside::Name),
    ("connectors[].id", Beside::Name),
    ("mcp_servers", Beside::Member("mcp_servers")),
    ("web_search_options", Beside::Member("web_search")),
    ("search_parameters", Beside::Member("web_search")),
    ("tools[].googleSearch", Beside::Member("google_search")),
    ("tools[].google_search", Beside::Member("google_search")),
    ("tools[].googleSearchRetrieval", Beside::Member("google_search_retrieval")),
    ("tools[].google_search_retrieval", Beside::Member("google_search_retrieval")),
    ("tools[].enterpriseWebSearch", Beside::Member("enterprise_web_search")),
    ("tools[].enterprise_web_search", Beside::Member("enterprise_web_search")),
    ("tools[].codeExecution", Beside::Member("code_execution")),
    ("tools[].code_execution", Beside::Member("code_execution")),
    ("tools[].urlContext", Beside::Member("url_context")),
    ("tools[].url_context", Beside::Member("url_context")),
    ("tools[].googleMaps", Beside::Member("google_maps")),
    ("tools[].google_maps", Beside::Member("google_maps")),
    ("tools[].computerUse", Beside::Member("computer_use")),
    ("tools[].computer_use", Beside::Member("computer_use")),
    ("tools[].fileSearch", Beside::Member("file_search")),
    ("tools[].file_search", Beside::Member("file_search")),
    ("tools[].mcpServers", Beside::Member("mcp_servers")),
    ("tools[].mcp_servers", Beside::Member("mcp_servers")),
    ("tools[].retrieval", Beside::Member("retrieval")),
];

/// Types and members that bring tools which the request does not name.
const OPEN: [&str; 3] = ["mcp", "mcp_toolset", "mcp_servers"];

/// Returns whether a path is in an element of `tools`.
pub(super) fn is_in_tools(path: &str) -> bool {
    path.starts_with("tools[].")
}

/// What names a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beside {
    /// The value is its name.
    Name,
    /// The value is its type, which names it unless the caller defines the tool.
    Type,
    /// The member is there; this names it.
    Member(&'static str),
    /// A whole tool, which should have had a name.
    Element,
    /// The same in a list inside a tool or another member, and what names it: its name, or a member of what is no tool.
    Inner,
    InnerName,
    InnerMark,
    /// A list of tools, which should be there once.
    List(u8),
    /// Tools come from where they are not seen, or are in this object or list.
    Elsewhere,
    Inside,
}

impl Beside {
    /// Returns what the scanner is to report of the value.
    pub(super) fn want(self) -> Want {
        match self {
            Self::Member(_)
            | Self::Element
            | Self::Inner
            | Self::InnerMark
            | Self::List(_)
            | Self::Inside => Want::End,
            Self::Name | Self::Type | Self::InnerName | Self::Elsewhere => Want::Scalar,
        }
    }

    /// Returns the name of the tool; `None` if the value names none.
    pub(super) fn name<'v>(self, value: &'v Value<'_>) -> Option<&'v str> {
        match (self, value) {
            (Self::Type, Value::Str(kind)) => {
                Some(&**kind).filter(|kind| !matches!(*kind, "function" | "custom"))
            }
            (Self::Name | Self::InnerName, Value::Str(name)) => Some(name),
            (Self::Member(name), Value::End) => Some(name),
            _ => None,
        }
    }
}

impl ToolsOffered {
    /// Notes the value at a path of [`BESIDE`].
    pub(super) fn take_at(&mut self, (place, beside): (&str, Beside), value: &Value<'_>) {
        match beside {
            Beside::Element => self.end_element(),
            Beside::Inner => self.count_inner(1),
            Beside::InnerMark => self.count_inner(-1),
            // A server may read an object as a list, or as one element of it.
            Beside::List(_) if matches!(value, Value::Raw(_)) => self.come_from_elsewhere(),
            Beside::List(number) => self.end_list(number),
            Beside::Inside => self.come_from_elsewhere(),
            Beside::Elsewhere if matches!(value, Value::Str(_)) => self.come_from_elsewhere(),
            Beside::Name | Beside::Type | Beside::Member(_) | Beside::InnerName | Beside::Elsewhere => {}
        }
        let Some(name) = beside.name(value) else { return };
        self.take_beside(name);
        if is_in_tools(place) {
            self.name_element();
        }
        if beside == Beside::InnerName {
            self.count_inner(-1);
        }
        if beside != Beside::Name && OPEN.contains(&name) {
            self.come_from_elsewhere();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::body::{RequestPaths, RequestScan};
    use crate::protocol::facts::tools_offered::{NAME_MAX, NAMES_MAX, ToolsOffered};

    fn offer(body: &str, size: usize) -> ToolsOffered {
        let mut scan = RequestScan::new(&RequestPaths::new(&[]));
        body.as_bytes().chunks(size).for_each(|chunk| scan.feed(chunk));
        scan.finish().tools_offered
    }

    #[test]
    fn tools_are_named_by_every_api() {
        let cases = [
            r#"{"tools":[{"name":"a","input_schema":{"name":"x"}},{"type":"custom","name":"b"}]}"#,
            r#"{"tools":[{"type":"function","function":{"parameters":{"name":{}},"name":"a"}},{"function":{"name":"b"}}]}"#,
            r#"{"functions":[{"name":"a"},{"name":"b"}],"messages":[{"tools":[{"name":"x"}]}]}"#,
        ];
        for body in cases {
            let whole = offer(body, body.len());
            assert_eq!((whole.names(), whole.count()), (&["a".into(), "b".into()][..], 2), "{body}");
            assert_eq!(whole.token_estimate(), (body.len() as u64).div_ceil(4));
            for size in 1..20 {
                assert_eq!(offer(body, size), whole, "{body} in chunks of {size}");
            }
        }
        assert_eq!(offer(r#"{"tools":null,"functions":"x"}"#, 5).count(), 0);
    }

    #[test]
    fn names_are_bounded_and_counted() {
        let tools = vec![format!(r#"{{"name":"{}"}}"#, "é".repeat(100)); 300].join(",");
        let many = offer(&format!(r#"{{"tools":[{tools}]}}"#), 1000);
        assert_eq!((many.names().len(), many.count()), (NAMES_MAX, 300));
        assert!(many.names().iter().all(|name| name.len() == NAME_MAX));
    }

    #[test]
    fn tools_of_the_provider_are_named_by_type_or_member_where_they_are_looked_for() {
        let all = |body: &str, size: usize| -> Vec<String> {
            let mut scan = RequestScan::new(&RequestPaths::with_others(&["x.y".to_owned()], true));
            body.as_bytes().chunks(size).for_each(|chunk| scan.feed(chunk));
            let offered = scan.finish().tools_offered;
            offered.all_names().expect("all of them").map(str::to_owned).collect()
        };
        let cases: [(&str, &[&str]); 7] = [
            (r#"{"tools":["a",{"name":"b"}]}"#, &["b", "a"]),
            (
                r#"{"tools":[{"type":"function","name":"a"},{"type":"web_search"},{"TYPE":"mcp"}]}"#,
                &["a", "web_search", "mcp"],
            ),
            (
                r#"{"tools":[{"type":"bash_1","name":"bash"}],"mcp_servers":[{"name":"x"}]}"#,
                &["bash", "bash_1", "mcp_servers"],
            ),
            (
                r#"{"tools":[{"functionDeclarations":[{"name":"a"},{"name":"b"}]},{"googleSearch":{}}]}"#,
                &["a", "b", "google_search"],
            ),
            (
                r#"{"tools":[{"function_declarations":[{"name":"a"}]},{"code_execution":{"x":[{}]}}]}"#,
                &["a", "code_execution"],
            ),
            (
                r#"{"toolConfig":{"tools":[{"toolSpec":{"name":"a"}},{"systemTool":{"name":"b"}}]}}"#,
                &["a", "b"],
            ),
            (r#"{"plugins":[{"id":"web","model":"m"}],"models":["n"],"x":{"y":"z"}}"#, &["web"]),
        ];
        for (body, names) in cases {
            for size in [1, 5, body.len()] {
                assert_eq!(all(body, size), names, "{body} in chunks of {size}");
            }
        }
        for body in [
            r#"{"tools":[{"newBuiltin":{}}]}"#,
            r#"{"functions":[{"name":"a"}],"tools":[{"x":{"name":"a"}}]}"#,
            r#"{"tools":[{"name":"a"},{}]}"#,
            r#"{"tools":[{"type":"function"}]}"#,
            r#"{"tools":[{"name":7}]}"#,
        ] {
            for size in [1, 5, body.len()] {
                let mut scan = RequestScan::new(&RequestPaths::with_others(&[], true));
                body.as_bytes().chunks(size).for_each(|chunk| scan.feed(chunk));
                assert!(scan.finish().tools_offered.all_names().is_none(), "{body}: a tool without a name");
            }
        }
        let cut = |body: &str| offer(body, body.len()).all_names().is_none();
        assert!(cut(&format!(r#"{{"tools":[{{"name":"{}"}}]}}"#, "a".repeat(NAME_MAX + 1))));
        assert!(!cut(&format!(r#"{{"tools":[{{"name":"{}"}}]}}"#, "a".repeat(NAME_MAX))));
        assert!(cut(&format!(r#"{{"tools":[{}]}}"#, vec![r#"{"name":"a"}"#; NAMES_MAX + 1].join(","))));
    }
}
