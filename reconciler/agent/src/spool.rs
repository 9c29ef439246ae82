//! Withdrawals that plugins wrote as files while the agent was away: each is recorded, then its file deleted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use schemas::wire::{self, Withdrawal};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::agent::{Agent, StartError};
use crate::call::withdraw;

/// A withdrawal is small; anything larger was not written by a plugin.
const MAX_FILE: u64 = 64 * 1024;
/// What could not be recorded is tried again after so long: a disk has room again without anybody saying so.
const RETRY: Duration = Duration::from_secs(2);

/// Takes what is there, then watches for more.
///
/// # Errors
/// When the directory cannot be watched.
pub async fn start(agent: &Arc<Agent>, tasks: &mut JoinSet<()>) -> Result<(), StartError> {
    let directory = agent.config.spool_dir();
    let wake = Arc::new(Notify::new());
    let watcher = watch(&directory, &wake)
        .map_err(|error| StartError::Directory { path: directory.clone(), source: std::io::Error::other(error) })?;
    // What waited comes before what is asked from now on.
    let mut has_left = take_all(agent, &directory).await;
    let agent = Arc::clone(agent);
    tasks.spawn(async move {
        let _watcher = watcher;
        let stopping = agent.stopping();
        tokio::pin!(stopping);
        loop {
            tokio::select! {
                () = wake.notified() => {}
                () = tokio::time::sleep(RETRY), if has_left => {}
                () = &mut stopping => return,
            }
            has_left = take_all(&agent, &directory).await;
        }
    });
    Ok(())
}

fn watch(directory: &Path, wake: &Arc<Notify>) -> notify::Result<notify::RecommendedWatcher> {
    let wake = Arc::clone(wake);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the directory is an event too: answering it would never end.
        if event.is_ok_and(|event| event.kind.is_access()) {
            return;
        }
        wake.notify_one();
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Records what is there; true when something has to stay.
async fn take_all(agent: &Arc<Agent>, directory: &Path) -> bool {
    let has_left = take(agent, directory).await;
    if let Err(error) = keep_reserve(&agent.config.state_dir) {
        tracing::debug!(%error, "there is no room for the reserve of the spool");
    }
    has_left
}

/// Keeps room for withdrawals: a disk that is full takes no DEL otherwise, neither here nor in the store.
fn keep_reserve(state_dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    let path = state_dir.join(wire::SPOOL_RESERVE);
    let file = std::fs::File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    let len = file.metadata()?.len();
    // Not zeros: a file system that compresses would keep no room for them.
    let missing = wire::SPOOL_RESERVE_LEN.saturating_sub(len);
    let mut bytes = vec![0; usize::try_from(missing).unwrap_or_default()];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    file.write_all_at(&bytes, len)
}

async fn take(agent: &Arc<Agent>, directory: &Path) -> bool {
    let mut files = match files(directory) {
        Ok(files) => files,
        Err(error) => {
            tracing::error!(path = %directory.display(), %error, "the spool cannot be read");
            return true;
        }
    };
    files.sort();
    for file in files {
        match read(&file) {
            Ok(withdrawal) => match withdraw::withdraw(agent, &withdrawal).await {
                Ok(()) => {
                    tracing::info!(attachment = %withdrawal.key, "withdrawal taken from the spool");
                    remove(&file);
                }
                Err(error) => {
                    tracing::error!(path = %file.display(), %error, "a withdrawal stays in the spool");
                    return true;
                }
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => set_aside(&file, &error),
        }
    }
    false
}

fn files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let is_hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    Ok(files)
}

/// Reads a withdrawal.
///
/// # Errors
/// When the file is gone, too large, or not a withdrawal.
pub fn read(file: &Path) -> std::io::Result<Withdrawal> {
    let metadata = std::fs::symlink_metadata(file)?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(std::io::Error::other(format!("not a plain file of at most {MAX_FILE} bytes")));
    }
    Ok(serde_json::from_slice(&std::fs::read(file)?)?)
}

fn remove(file: &Path) {
    if let Err(error) = std::fs::remove_file(file) {
        // It is taken again, which changes nothing.
        tracing::warn!(path = %file.display(), %error, "a spool file that was taken cannot be deleted");
    }
}

/// What is no withdrawal is kept for a person to look at, out of the way.
fn set_aside(file: &Path, error: &std::io::Error) {
    let mut aside = file.to_path_buf();
    aside.set_extension("unreadable");
    tracing::error!(path = %file.display(), %error, kept_as = %aside.display(), "a spool file is not a withdrawal");
    if let Err(error) = std::fs::rename(file, &aside) {
        tracing::error!(path = %file.display(), %error, "it cannot be set aside");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_content_panics(content: Vec<u8>) {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &content).unwrap();
            let _ = read(file.path());
        }
    }

    #[test]
    fn a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (target, link) = (directory.path().join("target"), directory.path().join("x.json"));
        std::fs::write(&target, r#"{"key":{"container":"a","ifname":"net1"},"part":"link"}"#).unwrap();
        assert!(read(&target).is_ok());
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(read(&link).is_err());
    }
}
