//! WebSockets: OpenAI Realtime, and the responses API as Codex speaks it.
//!
//! Directives work as over HTTP: they are in the text of the user's last item.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use http::header::UPGRADE;
use http::request::Parts;
use serde_json::{Value, json};

use super::ledger::Open;
use super::script::Twist;
use super::turn::{Ask, Reply, content_text, words_below};
use super::{openai, responses};

/// The messages of a streamed answer; the flag says whether one carries a word.
type Messages = Box<dyn Iterator<Item = (Value, bool)> + Send>;

/// The API of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    /// `/v1/realtime`.
    Realtime,
    /// `/v1/responses`.
    Responses,
}

/// What this handshake asks to speak; `None` when it is none, or asks for something else.
pub(super) fn language(head: &Parts) -> Option<Language> {
    let path = head.uri.path();
    match head.headers.contains_key(UPGRADE) {
        true if path.ends_with("/v1/realtime") => Some(Language::Realtime),
        true if path.ends_with("/v1/responses") => Some(Language::Responses),
        _ => None,
    }
}

/// Takes the handshake and converses until the client goes.
pub(super) async fn accept(mut head: Parts, language: Language, pace: Duration, open: Open) -> Response {
    let query = head.uri.query().unwrap_or_default();
    let model = query.split('&').find_map(|pair| pair.strip_prefix("model=")).unwrap_or("gpt-realtime-demo");
    let conversation =
        Conversation { language, pace, ask: Ask { model: model.to_owned(), ..Ask::default() } };
    match WebSocketUpgrade::from_request_parts(&mut head, &()).await {
        Ok(handshake) => handshake
            .protocols(["realtime"])
            .on_upgrade(move |socket| async move { conversation.run(socket, open).await }),
        Err(refusal) => refusal.into_response(),
    }
}

/// The client is gone, or the script says that the connection is.
struct Gone;

struct Conversation {
    language: Language,
    pace: Duration,
    /// What the next answer will be to.
    ask: Ask,
}

impl Conversation {
    async fn run(mut self, mut socket: WebSocket, mut open: Open) {
        if self.language == Language::Realtime
            && send(&mut socket, &event("session.created", "session", self.session())).await.is_err()
        {
            return;
        }
        while let Some(Ok(message)) = socket.recv().await {
            let went_on = match message {
                Message::Text(text) => self.hear(&mut socket, &text).await,
                Message::Close(_) => {
                    open.finish();
                    Ok(())
                }
                _ => Ok(()),
            };
            if went_on.is_err() {
                return;
            }
        }
    }

    fn session(&self) -> Value {
        json!({"id": "sess_demo", "object": "realtime.session", "type": "realtime", "model": self.ask.model,
            "output_modalities": ["text"], "tools": [], "tool_choice": "auto"})
    }

    async fn hear(&mut self, socket: &mut WebSocket, text: &str) -> Result<(), Gone> {
        let Ok(said) = serde_json::from_str::<Value>(text) else {
            return send(socket, &self.fault(400, "We could not parse the JSON of your event.")).await;
        };
        match (self.language, said["type"].as_str().unwrap_or_default()) {
            (Language::Responses, "response.create") => match responses::ask(&said) {
                Ok(ask) => self.answer(socket, ask).await,
                Err(message) => send(socket, &self.fault(400, &message)).await,
            },
            (Language::Realtime, "session.update") => {
                self.offer(&said["session"]["tools"]);
                send(socket, &event("session.updated", "session", self.session())).await
            }
            (Language::Realtime, "conversation.item.create") => {
                let item = &said["item"];
                self.ask.input_tokens += words_below(&item["content"]);
                match item["type"] == "function_call_output" {
                    true => self.ask.tool_answered = true,
                    false => {
                        self.ask.text = content_text(&item["content"]).unwrap_or_default();
                        self.ask.tool_answered = false;
                    }
                }
                send(socket, &event("conversation.item.added", "item", item.clone())).await
            }
            (Language::Realtime, "response.create") => {
                self.offer(&said["response"]["tools"]);
                self.answer(socket, self.ask.clone()).await
            }
            (Language::Realtime, "input_audio_buffer.append") => Ok(()),
            (_, kind) => send(socket, &self.fault(400, &format!("Invalid value: '{kind}'."))).await,
        }
    }

    fn offer(&mut self, tools: &Value) {
        let named = tools.as_array().into_iter().flatten().filter_map(|tool| tool["name"].as_str());
        self.ask.tools.extend(named.map(str::to_owned));
    }

    fn fault(&self, status: u16, message: &str) -> Value {
        let mut fault = openai::fault(status, message);
        fault["type"] = json!("error");
        match self.language {
            Language::Realtime => fault["event_id"] = json!("event_fault"),
            Language::Responses => fault["status"] = json!(status),
        }
        fault
    }

    async fn answer(&self, socket: &mut WebSocket, ask: Ask) -> Result<(), Gone> {
        let (reply, script) = Reply::to(&ask, format!("{:016x}", ask.text.len()));
        let reply = Arc::new(reply);
        let messages = match self.language {
            Language::Realtime => realtime(&reply),
            Language::Responses => Box::new(responses::steps(&reply)) as Messages,
        };
        match script.twist {
            Some(Twist::Error(status, _)) => {
                return send(socket, &self.fault(status, "An error the request asked for")).await;
            }
            Some(Twist::Mute) => return hold(socket).await,
            _ => {}
        }
        let pace = script.pace.unwrap_or(self.pace);
        let mut words = 0;
        for (message, is_word) in messages {
            match script.twist {
                Some(Twist::Stall) if words == 1 => return hold(socket).await,
                Some(Twist::Cut) if words == 2 => return Err(Gone),
                _ => {}
            }
            if is_word && words > 0 && !pace.is_zero() {
                wait(socket, pace).await?;
            }
            words += usize::from(is_word);
            send(socket, &message).await?;
        }
        Ok(())
    }
}

async fn send(socket: &mut WebSocket, event: &Value) -> Result<(), Gone> {
    socket.send(Message::Text(event.to_string().into())).await.map_err(|_| Gone)
}

/// Waits for this long, or for the client to leave. Its messages meanwhile are dropped.
async fn wait(socket: &mut WebSocket, time: Duration) -> Result<(), Gone> {
    tokio::time::timeout(time, hold(socket)).await.unwrap_or(Ok(()))
}

/// Says nothing until the client goes.
async fn hold(socket: &mut WebSocket) -> Result<(), Gone> {
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Close(_)) {
            break;
        }
    }
    Err(Gone)
}

/// An event with one member.
fn event(kind: &str, member: &str, value: Value) -> Value {
    json!({"type": kind, "event_id": format!("event_{}", kind.replace('.', "_")), member: value})
}

/// The events of a Realtime answer: those of the responses API in other words.
fn realtime(reply: &Arc<Reply>) -> Messages {
    let id = format!("resp_{}", reply.id);
    let usage = json!({
        "total_tokens": reply.input_tokens + reply.output_tokens(),
        "input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens(),
        "input_token_details": {"cached_tokens": 0, "text_tokens": reply.input_tokens, "audio_tokens": 0},
        "output_token_details": {"text_tokens": reply.output_tokens(), "audio_tokens": 0},
    });
    let spoken = responses::steps(reply).filter(|(step, _)| step["type"] != "response.in_progress");
    Box::new(spoken.enumerate().map(move |(number, (mut step, is_word))| {
        let ends = step["type"] == "response.completed";
        if let Some(response) = step.get("response") {
            let status = if ends { "completed" } else { "in_progress" };
            let usage = if ends { usage.clone() } else { Value::Null };
            let spoken = json!({"id": id, "object": "realtime.response", "status": status,
                "output": response["output"], "usage": usage});
            step =
                json!({"type": if ends { "response.done" } else { "response.created" }, "response": spoken});
        } else {
            step["response_id"] = json!(id);
        }
        step["event_id"] = json!(format!("event_{number}"));
        (step, is_word)
    }))
}
