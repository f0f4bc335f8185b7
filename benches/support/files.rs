//! A backend of files that may be cached: `GET …/N` is answered with some kilobytes that depend on `N`.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Serves files and never returns.
pub(crate) async fn serve(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(answer_all(stream));
    }
}

/// The bytes of a file: 8 to 16 KiB.
pub(crate) fn size(number: usize) -> usize {
    (8 << 10) + number.wrapping_mul(7919) % (8 << 10)
}

async fn answer_all(mut stream: TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    loop {
        while let Some(end) = memchr::memmem::find(&request, b"\r\n\r\n") {
            let target = request[..end].split(|byte| *byte == b' ').nth(1).unwrap_or_default();
            let digits = target.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nCache-Control: max-age=3600\r\n\
                 Content-Length: {}\r\n\r\n",
                size(number)
            );
            let mut answer = head.into_bytes();
            answer.resize(answer.len() + size(number), b'z');
            stream.write_all(&answer).await?;
            request.drain(..end + 4);
        }
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
}
