//! Exports the history as a file, page by page: a blocking thread reads one page at a time, and while a page waits
//! for the client, neither a thread nor a transaction is held.

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
use tokio::time::timeout;

use super::history::archive;
use crate::control::api::history::{ExportKind, ExportQuery};
use crate::control::extract::ApiQuery;
use crate::control::problem::Problem;
use crate::control::service::ControlState;
use crate::history::Archive;
use crate::history::read::export::{ExportError, Format, RecordExport};
use crate::history::read::legs::LegExport;
use crate::history::read::time_range::TimeRange;

/// An export is aborted when its client reads nothing for this long.
const STALL: Duration = Duration::from_secs(30);
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
    tokio::spawn(send(Pages::Start(start), sender, permit));
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
    #[error("the client read nothing for {} s", STALL.as_secs())]
    Stalled,
    #[error("the client has gone")]
    Gone,
    #[error("the thread that read the history panicked")]
    Panicked,
}

/// Sends one page after another; `permit` is returned at the end.
async fn send(mut pages: Pages, chunks: Sender<Chunk>, permit: OwnedSemaphorePermit) {
    match send_pages(&mut pages, &chunks).await {
        Ok(()) | Err(Aborted::Gone) => {}
        Err(why @ Aborted::Stalled) => tracing::warn!(%why, "an export was cut"),
        Err(why) => tracing::error!(%why, "an export broke off"),
    }
    drop(permit);
}

async fn send_pages(pages: &mut Pages, chunks: &Sender<Chunk>) -> Result<(), Aborted> {
    loop {
        // No page is read for a client that has gone.
        if chunks.is_closed() {
            return Err(Aborted::Gone);
        }
        let work = std::mem::replace(pages, Pages::Over);
        let read = tokio::task::spawn_blocking(move || work.next_page()).await;
        let (page, rest) = read.map_err(|_| Aborted::Panicked)??;
        let mut page = Bytes::from(page);
        while !page.is_empty() {
            send_chunk(chunks, Chunk::Bytes(page.split_to(CHUNK.min(page.len())))).await?;
        }
        match rest {
            Pages::Over => return send_chunk(chunks, Chunk::End).await,
            rest => *pages = rest,
        }
    }
}

async fn send_chunk(chunks: &Sender<Chunk>, chunk: Chunk) -> Result<(), Aborted> {
    match timeout(STALL, chunks.send(chunk)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Aborted::Gone),
        Err(_) => Err(Aborted::Stalled),
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
            rest => (false, rest),
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
    use futures::StreamExt;
    use tokio::sync::mpsc::error::TryRecvError;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_cut_and_its_file_does_not_look_whole() {
        let (sender, chunks) = channel(1);
        let sending = tokio::spawn(async move {
            loop {
                if let Err(why) = send_chunk(&sender, Chunk::Bytes(Bytes::from_static(b"x"))).await {
                    return why;
                }
            }
        });
        assert!(matches!(sending.await.unwrap(), Aborted::Stalled));
        let read: Vec<_> = stream::unfold(Some(chunks), next_chunk).collect().await;
        assert!(matches!(&read[..], [Ok(_), Err(_)]), "{read:?}");
    }

    #[tokio::test]
    async fn an_export_that_is_whole_ends_without_a_fault() {
        let (sender, mut chunks) = channel(1);
        send_chunk(&sender, Chunk::End).await.unwrap();
        drop(sender);
        assert!(matches!(chunks.try_recv(), Ok(Chunk::End)));
        assert_eq!(chunks.try_recv().err(), Some(TryRecvError::Disconnected));
    }
}
