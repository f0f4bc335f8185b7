//! The history as a file, sent page by page: a blocking thread works on one page at a time, and while a page waits
//! for its reader neither a thread nor a transaction is held.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use futures::stream;
use http::HeaderValue;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::timeout;

use super::history::{Asked, Of, archive};
use crate::control::problem::Problem;
use crate::control::service::Door;
use crate::history::Archive;
use crate::history::read::export::{ExportError, Format, RecordExport};
use crate::history::read::filter::RecordFilter;
use crate::history::read::legs::LegExport;
use crate::history::read::time_range::TimeRange;

/// An export whose reader takes nothing for so long is cut.
const STALL: Duration = Duration::from_secs(30);
/// Bytes that are handed on at a time.
const PIECE: usize = 64 << 10;

/// The records as a file, in the order of the chain, or the requests, in the order in which they ended; what ended up
/// to this moment is in it.
pub(super) async fn export(
    State(door): State<Arc<Door>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let asked = Asked::read(query, &["format", "of"])?;
    if asked.wanted != (RecordFilter { range: asked.wanted.range, ..RecordFilter::default() }) {
        let detail = "an export takes of, format, from and to only: the chain must have no gap";
        return Err(Problem::bad_request(detail));
    }
    let archive = archive(&door)?;
    let place = door.blocking.export()?;
    let kind = match asked.format {
        Format::Ndjson => "application/x-ndjson",
        Format::Csv => "text/csv; charset=utf-8",
    };
    let name = match (asked.of, asked.format) {
        (Of::Records, Format::Ndjson) => "attachment; filename=\"elida-records.ndjson\"",
        (Of::Records, Format::Csv) => "attachment; filename=\"elida-records.csv\"",
        (Of::Requests, Format::Ndjson) => "attachment; filename=\"elida-requests.ndjson\"",
        (Of::Requests, Format::Csv) => "attachment; filename=\"elida-requests.csv\"",
    };
    let (sender, pieces) = channel(1);
    let begin = Begin { archive, of: asked.of, format: asked.format, window: asked.wanted.range };
    tokio::spawn(send(Pages::Begin(begin), sender, place));
    let mut response = Body::from_stream(stream::unfold(Some(pieces), next_piece)).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CONTENT_DISPOSITION, HeaderValue::from_static(name));
    Ok(response)
}

/// What the body is told.
enum Piece {
    Bytes(Bytes),
    /// The export is whole.
    End,
}

/// Why an export broke off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error("its reader took nothing for {} s", STALL.as_secs())]
    Stalled,
    #[error("its reader has gone")]
    Gone,
    #[error("the thread that read it panicked")]
    Panicked,
}

/// Sends one page after another; `place` is free again when this ends.
async fn send(mut pages: Pages, pieces: Sender<Piece>, place: OwnedSemaphorePermit) {
    match send_pages(&mut pages, &pieces).await {
        Ok(()) | Err(Broken::Gone) => {}
        Err(why @ Broken::Stalled) => tracing::warn!(%why, "an export was cut"),
        Err(why) => tracing::error!(%why, "an export broke off"),
    }
    drop(place);
}

async fn send_pages(pages: &mut Pages, pieces: &Sender<Piece>) -> Result<(), Broken> {
    loop {
        // No page is read for a reader that has gone.
        if pieces.is_closed() {
            return Err(Broken::Gone);
        }
        let work = std::mem::replace(pages, Pages::Over);
        let read = tokio::task::spawn_blocking(move || work.next_page()).await;
        let (page, rest) = read.map_err(|_| Broken::Panicked)??;
        let mut page = Bytes::from(page);
        while !page.is_empty() {
            hand_on(pieces, Piece::Bytes(page.split_to(PIECE.min(page.len())))).await?;
        }
        match rest {
            Pages::Over => return hand_on(pieces, Piece::End).await,
            rest => *pages = rest,
        }
    }
}

async fn hand_on(pieces: &Sender<Piece>, piece: Piece) -> Result<(), Broken> {
    match timeout(STALL, pieces.send(piece)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Broken::Gone),
        Err(_) => Err(Broken::Stalled),
    }
}

/// The body's next bytes. What ends without its last word is an error, or the file would look whole.
async fn next_piece(pieces: Option<Receiver<Piece>>) -> Option<(io::Result<Bytes>, Option<Receiver<Piece>>)> {
    let mut pieces = pieces?;
    match pieces.recv().await {
        Some(Piece::Bytes(bytes)) => Some((Ok(bytes), Some(pieces))),
        Some(Piece::End) => None,
        None => Some((Err(io::Error::other("the export broke off")), None)),
    }
}

/// What is to be exported.
struct Begin {
    archive: Arc<Archive>,
    of: Of,
    format: Format,
    window: TimeRange,
}

/// Where an export stands.
enum Pages {
    Begin(Begin),
    Records(RecordExport),
    Legs(LegExport),
    Over,
}

impl Pages {
    /// Reads the next page. Blocks.
    fn next_page(self) -> Result<(Vec<u8>, Self), ExportError> {
        let mut page = Vec::new();
        let (is_more, rest) = match self.begun()? {
            Self::Records(mut export) => (export.next_page(&mut page)?, Self::Records(export)),
            Self::Legs(mut export) => (export.next_page(&mut page)?, Self::Legs(export)),
            rest => (false, rest),
        };
        Ok((page, if is_more { rest } else { Self::Over }))
    }

    fn begun(self) -> Result<Self, ExportError> {
        let Self::Begin(Begin { archive, of, format, window }) = self else { return Ok(self) };
        // What ended just now is to be in it. When the disk is full, what is there is exported all the same.
        archive.sign();
        let reader = archive.reader()?;
        Ok(match of {
            Of::Records => Self::Records(reader.export(format, window)?),
            Of::Requests => Self::Legs(reader.export_legs(format, window)?),
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
        let (sender, pieces) = channel(1);
        let sending = tokio::spawn(async move {
            loop {
                if let Err(why) = hand_on(&sender, Piece::Bytes(Bytes::from_static(b"x"))).await {
                    return why;
                }
            }
        });
        assert!(matches!(sending.await.unwrap(), Broken::Stalled));
        let read: Vec<_> = stream::unfold(Some(pieces), next_piece).collect().await;
        assert!(matches!(&read[..], [Ok(_), Err(_)]), "{read:?}");
    }

    #[tokio::test]
    async fn an_export_that_is_whole_ends_without_a_fault() {
        let (sender, mut pieces) = channel(1);
        hand_on(&sender, Piece::End).await.unwrap();
        drop(sender);
        assert!(matches!(pieces.try_recv(), Ok(Piece::End)));
        assert_eq!(pieces.try_recv().err(), Some(TryRecvError::Disconnected));
    }
}
