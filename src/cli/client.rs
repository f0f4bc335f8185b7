//! The client of the control API.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::{Agent, Error, RequestBuilder};
use url::Url;

use crate::control::api::error::ProblemDetails;

/// Timeout of a request.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The largest answer that is read, in bytes: a list of 100,000 sessions fits.
const MAX_ANSWER: u64 = 256 << 20;

/// How to reach the control API.
#[derive(Args, Clone, Debug)]
pub(super) struct ControlArgs {
    /// Address of the control API
    #[arg(long, value_name = "URL", env = "ELIDA_CONTROL", default_value = "http://127.0.0.1:9090")]
    control: String,
    /// File with the control token, or with a key that has a role [env: ELIDA_CONTROL_TOKEN_FILE, or ELIDA_CONTROL_TOKEN]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// The JSON of an answer.
#[derive(Debug)]
pub(super) struct Answer(Value);

impl Answer {
    /// The JSON as it came, which may have members that this version does not know.
    pub(super) fn json(&self) -> &Value {
        &self.0
    }

    /// Reads the answer as its type.
    ///
    /// # Errors
    /// It does not have this form: the gateway is of another version.
    pub(super) fn read<T: DeserializeOwned>(self) -> anyhow::Result<T> {
        serde_json::from_value(self.0).context(
            "this version of elida cannot read the answer; use the version of the gateway, or --json",
        )
    }
}

/// A client of one control API.
pub(super) struct Client {
    agent: Agent,
    base: Url,
    authorization: Option<String>,
}

impl Client {
    /// Reads the token and checks the address; connects to nothing yet.
    pub(super) fn new(arguments: &ControlArgs) -> anyhow::Result<Self> {
        let token = match &arguments.token_file {
            Some(file) => Some(read_token(file)?),
            None => match variable("ELIDA_CONTROL_TOKEN")? {
                Some(token) => Some(token),
                None => variable("ELIDA_CONTROL_TOKEN_FILE")?
                    .map(|file| read_token(Path::new(&file)))
                    .transpose()?,
            },
        };
        Self::with_token(&arguments.control, token.as_deref())
    }

    /// Like [`Client::new`], with the token itself.
    pub(super) fn with_token(address: &str, token: Option<&str>) -> anyhow::Result<Self> {
        let base = Url::parse(address).ok().filter(|url| url.scheme() == "http" && url.has_host());
        let Some(base) = base else {
            bail!("'{address}' is not an http:// URL; write --control http://HOST:PORT");
        };
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            // The token is for ELIDA, not for the proxy in HTTP_PROXY, nor for the target of a redirect.
            .proxy(None)
            .max_redirects(0)
            .build()
            .new_agent();
        Ok(Self { agent, base, authorization: token.map(|token| format!("Bearer {token}")) })
    }

    /// `GET` of a path made of segments, with a query.
    pub(super) fn get(&self, path: &[&str], query: &impl Serialize) -> anyhow::Result<Answer> {
        let url = self.url(path, query)?;
        let request = self.authorised(self.agent.get(url.as_str()));
        self.answer(request.call())
    }

    /// `GET` of a path whose answer may be large and slow: written to `sink` as it arrives.
    pub(super) fn download(
        &self,
        path: &[&str],
        query: &impl Serialize,
        sink: &mut dyn Write,
    ) -> anyhow::Result<u64> {
        let url = self.url(path, query)?;
        let request = self.authorised(self.agent.get(url.as_str()).config().timeout_global(None).build());
        let mut response = request.call().map_err(|error| self.unreachable(error))?;
        if !response.status().is_success() {
            return self.answer(Ok(response)).and_then(|_| bail!("{} refused", self.address()));
        }
        std::io::copy(&mut response.body_mut().as_reader(), sink).context("the response ended early")
    }

    /// `POST` of a JSON body, with a query.
    pub(super) fn post(
        &self,
        path: &[&str],
        query: &impl Serialize,
        body: &impl Serialize,
    ) -> anyhow::Result<Answer> {
        let url = self.url(path, query)?;
        let request =
            self.authorised(self.agent.post(url.as_str()).header("content-type", "application/json"));
        self.answer(request.send(serde_json::to_string(body)?))
    }

    /// `DELETE` of a path.
    pub(super) fn delete(&self, path: &[&str]) -> anyhow::Result<Answer> {
        let url = self.url(path, &())?;
        let request = self.authorised(self.agent.delete(url.as_str()));
        self.answer(request.call())
    }

    /// `GET` of a path whatever the status: the status, and the body when it is JSON.
    pub(super) fn probe(&self, path: &[&str]) -> anyhow::Result<(u16, Option<Answer>)> {
        let url = self.url(path, &())?;
        let mut response = self.agent.get(url.as_str()).call().map_err(|error| self.unreachable(error))?;
        let status = response.status().as_u16();
        Ok((status, response.body_mut().read_json().ok().map(Answer)))
    }

    fn authorised<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.authorization {
            Some(value) => request.header("authorization", value),
            None => request,
        }
    }

    fn url(&self, path: &[&str], query: &impl Serialize) -> anyhow::Result<Url> {
        let mut url = self.base.clone();
        // Segment by segment, so that an id with a slash stays one segment.
        url.path_segments_mut()
            .map_err(|()| anyhow!("the control URL has no path"))?
            .pop_if_empty()
            .extend(path);
        let query = pairs(query)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    fn answer(&self, result: Result<ureq::http::Response<ureq::Body>, Error>) -> anyhow::Result<Answer> {
        let mut response = result.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let text = response.body_mut().with_config().limit(MAX_ANSWER).read_to_string();
        let text = text.map_err(|error| self.unreachable(error))?;
        let body: Option<Value> = serde_json::from_str(&text).ok();
        if status.is_success() {
            return body.map(Answer).with_context(|| {
                format!("{} did not answer in JSON; is it the control API of ELIDA?", self.address())
            });
        }
        let problem: ProblemDetails =
            body.and_then(|body| serde_json::from_value(body).ok()).unwrap_or_default();
        let detail = [&*problem.detail, &*problem.title].into_iter().find(|text| !text.is_empty());
        let detail = detail.map(super::table::plain);
        match (status.as_u16(), detail) {
            (401, detail) if self.authorization.is_some() => bail!(
                "{} refused the token or key: {}; give another with --token-file FILE or ELIDA_CONTROL_TOKEN",
                self.address(),
                detail.unwrap_or_else(|| status.to_string())
            ),
            (401, detail) => bail!(
                "{} refused: {}; give --token-file FILE or set ELIDA_CONTROL_TOKEN",
                self.address(),
                detail.unwrap_or_else(|| status.to_string())
            ),
            (_, Some(detail)) => bail!("{detail}{}", uids(&problem)),
            (_, None) => bail!("{} answered {status}; is it the control API of ELIDA?", self.address()),
        }
    }

    fn unreachable(&self, error: Error) -> anyhow::Error {
        anyhow!(
            "no answer from the control API at {}: {error}; is ELIDA running there? \
             Another address: --control URL or ELIDA_CONTROL",
            self.address()
        )
    }

    /// The address of the control API.
    pub(super) fn address(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }
}

/// Returns the value of a variable that is set and not empty. A value that is not UTF-8 is an error: skipping it would
/// look as if there were no token.
fn variable(name: &str) -> anyhow::Result<Option<String>> {
    match std::env::var_os(name).filter(|value| !value.is_empty()) {
        None => Ok(None),
        Some(value) => match value.into_string() {
            Ok(text) => Ok(Some(text)),
            Err(_) => bail!("{name} is not UTF-8 text; set it again"),
        },
    }
}

/// Returns a query struct as pairs; absent parameters are left out.
fn pairs(query: &impl Serialize) -> anyhow::Result<Vec<(String, String)>> {
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(match serde_json::to_value(query)? {
        Value::Object(members) => members
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, text(value)))
            .collect(),
        _ => Vec::new(),
    })
}

/// Returns the uids to choose from, when an id was ambiguous.
fn uids(problem: &ProblemDetails) -> String {
    let uids: Vec<String> = problem.uids.iter().flatten().map(|uid| super::table::plain(uid)).collect();
    if uids.is_empty() { String::new() } else { format!(": {}", uids.join(", ")) }
}

fn read_token(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file);
    let text = text.with_context(|| format!("cannot read the control token in {}", file.display()))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    /// Answers one request and gives what it got.
    fn server(answer: &'static str) -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !String::from_utf8_lossy(&request).contains("\r\n\r\n") {
                let length = stream.read(&mut buffer).unwrap();
                request.extend_from_slice(&buffer[..length]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request).into_owned()
        });
        (address, thread)
    }

    #[test]
    fn a_request_carries_token_and_query_and_keeps_an_id_whole() {
        let (address, thread) = server("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{\"a\": 1}");
        let client = Client::with_token(&address, Some("secret-token")).unwrap();
        let answer = client.get(&["control", "sessions", "a/b c"], &serde_json::json!({"q": "x&y"})).unwrap();
        assert_eq!(answer.json()["a"], 1);
        let request = thread.join().unwrap();
        assert!(request.starts_with("GET /control/sessions/a%2Fb%20c?q=x%26y HTTP/1.1\r\n"), "{request}");
        assert!(request.to_lowercase().contains("authorization: bearer secret-token"), "{request}");
    }

    #[test]
    fn problems_are_told_in_the_words_of_the_api() {
        let (address, thread) = server("HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnope");
        let error = Client::with_token(&address, None).unwrap().get(&["x"], &()).unwrap_err();
        thread.join().unwrap();
        let expected = format!("{address} answered 404 Not Found; is it the control API of ELIDA?");
        assert_eq!(error.to_string(), expected);

        let (address, thread) = server(
            "HTTP/1.1 409 Conflict\r\ncontent-length: 37\r\n\r\n{\"detail\":\"two\",\"uids\":[\"s_1\",\"s_2\"]}",
        );
        let client = Client::with_token(&address, None).unwrap();
        assert_eq!(client.post(&["x"], &(), &Value::Null).unwrap_err().to_string(), "two: s_1, s_2");
        thread.join().unwrap();

        let (address, thread) = server("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n");
        let error = Client::with_token(&address, None).unwrap().get(&["x"], &()).unwrap_err();
        thread.join().unwrap();
        assert_eq!(
            error.to_string(),
            format!("{address} refused: 401 Unauthorized; give --token-file FILE or set ELIDA_CONTROL_TOKEN")
        );
    }

    #[test]
    fn an_address_where_nobody_is_is_named_with_the_remedy() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let client = Client::with_token(&format!("http://127.0.0.1:{port}"), None).unwrap();
        let error = client.get(&["control", "stats"], &()).unwrap_err().to_string();
        let start = format!("no answer from the control API at http://127.0.0.1:{port}: ");
        assert!(error.starts_with(&start), "{error}");
        assert!(
            error.ends_with("is ELIDA running there? Another address: --control URL or ELIDA_CONTROL"),
            "{error}"
        );
        let error = Client::with_token("localhost:9090", None).map(drop).unwrap_err();
        assert_eq!(
            error.to_string(),
            "'localhost:9090' is not an http:// URL; write --control http://HOST:PORT"
        );
    }
}
