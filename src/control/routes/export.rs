//! Exports the history as a file, page by page: a blocking thread reads one page at a time, and while a page waits
//! for the client, neither a thread nor a transaction is held. A client that reads too slowly is cut, because exports are
//! few and it keeps others waiting.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures::stream;
use http::HeaderValue;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, timeout};

use super::history::archive;
use crate::control::api::history::{ExportKind, ExportQuery};
use crate::control::extract::ApiQuery;
use crate::control::problem::Problem;
use crate::control::service::ControlState;
use crate::history::Archive;
use crate::history::read::export::{ExportError, Format, RecordExport};
use crate::history::read::legs::LegExport;
use crate::history::read::time_range::TimeRange;

/// How long an export waits for its client in total, beyond the time that its bytes take at [`LEAST_RATE`].
const PATIENCE: Duration = Duration::from_secs(30);
/// The least rate at which a client must read, in bytes per second.
const LEAST_RATE: u32 = 128 << 10;
/// Bytes of one chunk of the body.
const CHUNK: usize = 64 << 10;

/// Exports the records in the order of the hash chain, or the requests in the order in which they ended, up to now.
pub(super) async fn export(
    State(state): State<Arc<ControlState>>,
    ApiQuery(query): ApiQuery<ExportQuery>,
) -> Result<Response, Problem> {
    let archive = archive(&state)?;
    let permit = state.blocking.export()?;
    let kind = match query.format {
        Format::Ndjson => "application/x-ndjson",
        Format::Csv => "text/csv; charset=utf-8",
    };
    let name = match (query.of, query.format) {
        (ExportKind::Records, Format::Ndjson) => "attachment; filename=\"elida-records.ndjson\"",
        (ExportKind::Records, Format::Csv) => "attachment; filename=\"elida-records.csv\"",
        (ExportKind::Requests, Format::Ndjson) => "attachment; filename=\"elida-requests.ndjson\"",
        (ExportKind::Requests, Format::Csv) => "attachment; filename=\"elida-requests.csv\"",
    };
    let (sender, chunks) = channel(1);
    let start = ExportStart { archive, of: query.of, format: query.format, range: query.range() };
    tokio::spawn(send(Pages::Start(start), ChunkSender::new(sender), permit));
    let mut response = Body::from_stream(stream::unfold(Some(chunks), next_chunk)).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CONTENT_DISPOSITION, HeaderValue::from_static(name));
    Ok(response)
}

/// A part of the body.
enum Chunk {
    Bytes(Bytes),
    /// The export is complete.
    End,
}

/// Why an export was aborted.
#[derive(Debug, thiserror::Error)]
enum Aborted {
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error("the client reads less than {} KiB per second", LEAST_RATE >> 10)]
    Slow,
    #[error("the client has gone")]
    Gone,
    #[error("the thread that read the history panicked")]
    Panicked,
}

/// Sends chunks to a client, and measures how long it takes to read them.
struct ChunkSender {
    chunks: Sender<Chunk>,
    /// How much longer to wait for the client. Waiting uses it up, bytes that were read restore it, up to [`PATIENCE`]:
    /// a client that read fast earns no long pause.
    patience: Duration,
}

impl ChunkSender {
    fn new(chunks: Sender<Chunk>) -> Self {
        Self { chunks, patience: PATIENCE }
    }

    async fn send(&mut self, chunk: Chunk) -> Result<(), Aborted> {
        let earned = match &chunk {
            Chunk::Bytes(bytes) => Duration::from_secs(1).mul_f64(bytes.len() as f64 / f64::from(LEAST_RATE)),
            Chunk::End => Duration::ZERO,
        };
        let begun = Instant::now();
        match timeout(self.patience, self.chunks.send(chunk)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Aborted::Gone),
            Err(_) => return Err(Aborted::Slow),
        }
        self.patience = PATIENCE.min(self.patience.saturating_sub(begun.elapsed()) + earned);
        Ok(())
    }
}

/// Sends one page after another; `permit` is returned at the end.
async fn send(mut pages: Pages, mut chunks: ChunkSender, permit: OwnedSemaphorePermit) {
    match send_pages(&mut pages, &mut chunks).await {
        Ok(()) | Err(Aborted::Gone) => {}
        Err(why @ Aborted::Slow) => tracing::warn!(%why, "an export was cut"),
        Err(why) => tracing::error!(%why, "an export broke off"),
    }
    drop(permit);
}

async fn send_pages(pages: &mut Pages, chunks: &mut ChunkSender) -> Result<(), Aborted> {
    loop {
        // No page is read for a client that has gone.
        if chunks.chunks.is_closed() {
            return Err(Aborted::Gone);
        }
        let work = std::mem::replace(pages, Pages::Over);
        let read = tokio::task::spawn_blocking(move || work.next_page()).await;
        let (page, rest) = read.map_err(|_| Aborted::Panicked)??;
        let mut page = Bytes::from(page);
        while !page.is_empty() {
            chunks.send(Chunk::Bytes(page.split_to(CHUNK.min(page.len())))).await?;
        }
        match rest {
            Pages::Over => return chunks.send(Chunk::End).await,
            rest @ (Pages::Start(_) | Pages::Records(_) | Pages::Legs(_)) => *pages = rest,
        }
    }
}

/// Returns the body's next bytes. A body that ends without [`Chunk::End`] fails, so that the file never looks complete.
async fn next_chunk(chunks: Option<Receiver<Chunk>>) -> Option<(io::Result<Bytes>, Option<Receiver<Chunk>>)> {
    let mut chunks = chunks?;
    match chunks.recv().await {
        Some(Chunk::Bytes(bytes)) => Some((Ok(bytes), Some(chunks))),
        Some(Chunk::End) => None,
        None => Some((Err(io::Error::other("the export was aborted")), None)),
    }
}

/// An export that has not started.
struct ExportStart {
    archive: Arc<Archive>,
    of: ExportKind,
    format: Format,
    range: TimeRange,
}

/// Progress of an export.
enum Pages {
    Start(ExportStart),
    Records(RecordExport),
    Legs(LegExport),
    Over,
}

impl Pages {
    /// Reads the next page. Blocks.
    fn next_page(self) -> Result<(Vec<u8>, Self), ExportError> {
        let mut page = Vec::new();
        let (is_more, rest) = match self.started()? {
            Self::Records(mut export) => (export.next_page(&mut page)?, Self::Records(export)),
            Self::Legs(mut export) => (export.next_page(&mut page)?, Self::Legs(export)),
            rest @ (Self::Start(_) | Self::Over) => (false, rest),
        };
        Ok((page, if is_more { rest } else { Self::Over }))
    }

    fn started(self) -> Result<Self, ExportError> {
        let Self::Start(ExportStart { archive, of, format, range }) = self else { return Ok(self) };
        // Includes what ended just now. When the disk is full, what is there is exported anyway.
        archive.sign();
        let reader = archive.reader()?;
        Ok(match of {
            ExportKind::Records => Self::Records(reader.export(format, range)?),
            ExportKind::Requests => Self::Legs(reader.export_legs(format, range)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::error::TryRecvError;

    use super::*;

    /// An endless export to a client that waits before it reads each chunk. Returns how long the export ran, at most
    /// `most`, and why it was cut.
    async fn endless(chunk: usize, pause: Duration, most: Duration) -> (Duration, Option<Aborted>) {
        let (sender, chunks) = channel(1);
        let sending = tokio::spawn(async move {
            let mut sender = ChunkSender::new(sender);
            loop {
                if let Err(why) = sender.send(Chunk::Bytes(Bytes::from(vec![b'x'; chunk]))).await {
                    return why;
                }
            }
        });
        let begun = Instant::now();
        let reading = tokio::spawn(async move {
            let mut chunks = Some(chunks);
            loop {
                tokio::time::sleep(pause).await;
                match next_chunk(chunks).await {
                    Some((Ok(_), rest)) => chunks = rest,
                    end => return end.is_some_and(|(last, _)| last.is_err()),
                }
            }
        });
        match timeout(most, sending).await {
            Ok(why) => {
                let ran = begun.elapsed();
                assert!(reading.await.unwrap(), "what was cut must not look whole");
                (ran, Some(why.unwrap()))
            }
            Err(_) => (begun.elapsed(), None),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_below_the_least_rate_is_cut_and_its_file_does_not_look_whole() {
        let hour = Duration::from_secs(3600);
        for (chunk, pause) in [
            (CHUNK, hour),
            (CHUNK, Duration::from_secs(29)),
            (CHUNK, Duration::from_secs(1)),
            (1, Duration::from_millis(10)),
        ] {
            let (ran, why) = endless(chunk, pause, hour).await;
            assert!(
                matches!(why, Some(Aborted::Slow)) && ran < 3 * PATIENCE,
                "{chunk} {pause:?}: {ran:?} {why:?}"
            );
        }
        let (_, why) = endless(CHUNK, Duration::from_millis(400), hour).await;
        assert!(why.is_none(), "{why:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_granted_and_a_fast_start_earns_no_longer_one() {
        for (pause, is_cut) in
            [(PATIENCE - Duration::from_secs(2), false), (PATIENCE + Duration::from_secs(1), true)]
        {
            let (sender, mut chunks) = channel(1);
            let sending = tokio::spawn(async move {
                let mut sender = ChunkSender::new(sender);
                for _ in 0..2000 {
                    sender.send(Chunk::Bytes(Bytes::from(vec![b'x'; CHUNK]))).await?;
                }
                sender.send(Chunk::End).await
            });
            for _ in 0..1000 {
                assert!(matches!(chunks.recv().await, Some(Chunk::Bytes(_))));
            }
            tokio::time::sleep(pause).await;
            while chunks.recv().await.is_some() {}
            assert_eq!(matches!(sending.await.unwrap(), Err(Aborted::Slow)), is_cut, "{pause:?}");
        }
    }

    #[tokio::test]
    async fn an_export_that_is_whole_ends_without_a_fault() {
        let (sender, mut chunks) = channel(1);
        let mut sender = ChunkSender::new(sender);
        sender.send(Chunk::End).await.unwrap();
        drop(sender);
        assert!(matches!(chunks.try_recv(), Ok(Chunk::End)));
        assert_eq!(chunks.try_recv().err(), Some(TryRecvError::Disconnected));
    }
}
