//! The loop of a part that keeps objects in line with what it sees.

use std::time::Duration;

use kube::runtime::utils::Backoff;
use kube::runtime::watcher::DefaultBackoff;
use tokio::sync::mpsc;

/// News that have been seen and not looked at yet; who brings them waits then.
pub(super) const BACKLOG: usize = 64;
/// Until what could not be written is tried again, at most.
const AT_MOST: Duration = Duration::from_secs(30);

/// A part.
pub(super) trait Kept {
    /// What it is told.
    type News;

    /// Takes note of something; nothing is written yet.
    fn take(&mut self, news: Self::News);

    /// Writes what differs. False when that was not possible, or not for all.
    async fn write(&mut self) -> bool;
}

/// Keeps a part, until nobody brings news any more: what has come together is written together, and what could not be
/// written is tried again after a pause that grows.
pub(super) async fn keep<K: Kept>(mut kept: K, mut seen: mpsc::Receiver<K::News>) {
    let mut backoff = DefaultBackoff::default();
    let mut retry = None;
    loop {
        let pause = async {
            match retry {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            news = seen.recv() => match news {
                Some(news) => kept.take(news),
                None => return,
            },
            () = pause => {}
        }
        while let Ok(news) = seen.try_recv() {
            kept.take(news);
        }
        retry = if kept.write().await {
            backoff.reset();
            None
        } else {
            Some(backoff.next().unwrap_or(AT_MOST))
        };
    }
}
