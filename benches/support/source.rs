//! A backend of paced streams whose events carry the time at which they were sent, so that the
//! latency of each event can be measured. `POST …?every=MICROSECONDS&events=N` returns a stream of
//! OpenAI chat chunks; the first one goes with the head.
//!
//! The demo provider does not fit: its events carry no time, and tokio's timers would send
//! all events of one millisecond at once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write as _};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

/// Events that are due within this time are sent together.
const TICK: Duration = Duration::from_micros(250);

/// The field before the 19 digits of an event's time.
pub(crate) const TIME_FIELD: &str = "\"t\":";

/// Nanoseconds since 1970, from the clock that all processes of the machine share.
pub(crate) fn now_nanos() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    u64::try_from(now.as_nanos()).expect("a clock before 2554")
}

/// Serves streams and never returns.
pub(crate) async fn serve(listener: TcpListener) -> io::Result<()> {
    let (sender, flows) = channel();
    std::thread::spawn(move || tick(&flows));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(begin(stream, sender.clone()));
    }
}

/// One stream that is being sent.
struct Flow {
    stream: TcpStream,
    every: Duration,
    left: u64,
}

/// Reads the request, sends the head with the first event and leaves the rest to the ticking thread.
async fn begin(mut stream: TcpStream, flows: Sender<Flow>) -> io::Result<()> {
    let mut request = Vec::new();
    let (head, length) = loop {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
        if let Some(end) = memchr::memmem::find(&request, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
            let length = number(&head, "content-length: ").unwrap_or(0);
            break (head, end + 4 + usize::try_from(length).expect("a small body"));
        }
    };
    while request.len() < length {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let every = Duration::from_micros(number(&head, "every=").expect("the query says `every`"));
    let left = number(&head, "events=").expect("the query says `events`");
    let mut answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\
                       Connection: close\r\n\r\n"
        .to_vec();
    push_event(&mut answer);
    send(&stream, &answer).await?;
    // The ticking thread ends with the process.
    let _ = flows.send(Flow { stream, every, left: left - 1 });
    Ok(())
}

async fn send(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn number(head: &str, name: &str) -> Option<u64> {
    let after = &head[head.find(name)? + name.len()..];
    after[..after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len())].parse().ok()
}

fn push_chunk(buffer: &mut Vec<u8>, data: &str) {
    write!(buffer, "{:x}\r\n{data}\r\n", data.len()).expect("memory takes it");
}

fn push_event(buffer: &mut Vec<u8>) {
    let event = format!(
        "data: {{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\
         \"model\":\"gpt-demo\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"word \"}},\"logprobs\":null,\
         \"finish_reason\":null}}],{TIME_FIELD}{:019}}}\n\n",
        now_nanos()
    );
    push_chunk(buffer, &event);
}

fn push_end(buffer: &mut Vec<u8>) {
    let usage = "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"model\":\"gpt-demo\",\
                 \"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7,\"total_tokens\":12}}\n\n";
    push_chunk(buffer, usage);
    push_chunk(buffer, "data: [DONE]\n\n");
    buffer.extend_from_slice(b"0\r\n\r\n");
}

/// Sends every event at its time. The streams' phases are spread over their interval.
fn tick(flows: &Receiver<Flow>) {
    let mut running: Vec<Option<Flow>> = Vec::new();
    let mut due: BinaryHeap<Reverse<(Instant, usize)>> = BinaryHeap::new();
    let mut buffer = Vec::new();
    loop {
        for flow in flows.try_iter() {
            // Multiples of the inverse golden ratio fill an interval evenly, whatever their number.
            let beat = (running.len() as f64 * 0.618_034).fract();
            due.push(Reverse((Instant::now() + flow.every + flow.every.mul_f64(beat), running.len())));
            running.push(Some(flow));
        }
        let now = Instant::now();
        while let Some(Reverse((at, index))) = due.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            due.pop();
            let Some(flow) = &mut running[index] else { continue };
            buffer.clear();
            flow.left -= 1;
            if flow.left == 0 {
                push_end(&mut buffer)
            } else {
                push_event(&mut buffer)
            }
            // A reader so slow that its socket buffer is full loses its stream, and counts as an error.
            let sent = matches!(flow.stream.try_write(&buffer), Ok(sent) if sent == buffer.len());
            if sent && flow.left > 0 {
                due.push(Reverse((at + flow.every, index)));
            } else {
                running[index] = None;
            }
        }
        std::thread::sleep(TICK);
    }
}
