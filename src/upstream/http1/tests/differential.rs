//! The same responses through Pingora's own client: both read the same, or ours refuses.

use http::{Method, Version};
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::runtime::Runtime;

use super::responses::{FAULTY, RESPONSES, Read, read};

/// What Pingora's client makes of the bytes.
async fn by_pingora(bytes: &[u8]) -> Result<Read> {
    let (near, mut far) = duplex(1 << 16);
    let mut session = HttpSession::new(Box::new(near));
    let mut head = RequestHeader::build(Method::GET, b"/", None)?;
    head.set_version(Version::HTTP_11);
    session.write_request_header(Box::new(head)).await?;
    let mut request = [0; 64];
    let _ = far.read(&mut request).await;
    far.write_all(bytes).await.expect("room");
    far.shutdown().await.expect("open");
    let mut read = Read { statuses: Vec::new(), content: Vec::new(), is_reusable: false };
    loop {
        let task = session.read_response_task().await?;
        let is_end = task.is_end();
        match task {
            HttpTask::Header(head, _) => read.statuses.push(head.status.as_u16()),
            HttpTask::Body(data, _) => read.content.extend_from_slice(&data.unwrap_or_default()),
            HttpTask::Done => {}
            _ => return Err(Error::new(ErrorType::InternalError)),
        }
        if is_end {
            break;
        }
    }
    session.respect_keepalive();
    read.is_reusable = session.reuse().await.is_some();
    Ok(read)
}

#[tokio::test]
async fn both_read_the_same_responses() {
    for (bytes, ..) in RESPONSES {
        let ours = read(bytes.as_bytes(), 1000, false).unwrap();
        let theirs = by_pingora(bytes.as_bytes()).await.unwrap_or_else(|error| panic!("{bytes:?}: {error}"));
        assert_eq!((&ours.statuses, &ours.content), (&theirs.statuses, &theirs.content), "{bytes:?}");
        assert!(theirs.is_reusable || !ours.is_reusable, "ours would use the connection again: {bytes:?}");
    }
}

#[tokio::test]
async fn what_pingora_refuses_is_refused() {
    for bytes in FAULTY {
        if by_pingora(bytes.as_bytes()).await.is_err() {
            assert!(read(bytes.as_bytes(), 1000, false).is_err(), "{bytes:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn changed_responses_are_read_the_same_or_refused(
        at in 0..RESPONSES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(&b"\r\n\0 :;,0159aAcC\xff"[..])), 1..4),
    ) {
        let mut bytes = RESPONSES[at].0.as_bytes().to_vec();
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        let Ok(ours) = read(&bytes, 1000, false) else { return Ok(()) };
        // A refused upgrade is not ours to judge.
        prop_assume!(!ours.statuses.contains(&101));
        let runtime = Runtime::new().expect("a runtime");
        let theirs = runtime.block_on(by_pingora(&bytes));
        match theirs {
            Ok(theirs) => {
                prop_assert_eq!(&ours.statuses, &theirs.statuses, "{}", bytes.escape_ascii());
                prop_assert_eq!(&ours.content, &theirs.content, "{}", bytes.escape_ascii());
            }
            Err(error) => prop_assert!(false, "ours reads what Pingora refuses: {}: {error}", bytes.escape_ascii()),
        }
    }
}
