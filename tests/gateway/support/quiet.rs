//! Latency must be measured on an idle machine: tests that measure hold a lock exclusively,
//! all others share it. The lock is a file, so that it also works between processes (nextest).

use std::fs::File;

/// The lock; released when dropped.
pub struct Quiet(#[expect(dead_code, reason = "held, never read")] File);

impl Quiet {
    /// For tests that do not measure.
    pub async fn shared() -> Self {
        Self::take(|file| file.lock_shared()).await
    }

    /// Exclusive.
    pub async fn alone() -> Self {
        Self::take(File::lock).await
    }

    async fn take(lock: fn(&File) -> std::io::Result<()>) -> Self {
        let taking = tokio::task::spawn_blocking(move || {
            let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/quiet.lock");
            let file = File::create(path).expect("the lock file");
            lock(&file).expect("the lock");
            file
        });
        Self(taking.await.expect("the lock"))
    }
}
