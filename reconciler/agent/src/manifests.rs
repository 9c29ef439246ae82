//! `--manifests DIR`: the declared objects as files, watched. An invalid document is reported with file, line and field,
//! and the last good version of it stays in force.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::agent::Agent;
use crate::catalogue::{Catalogue, Object};
use crate::{conflists, document};

/// An editor writes a file in several steps, a person several files: what belongs together is waited for.
const SETTLE: Duration = Duration::from_millis(20);
/// A manifest larger than this is not read.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// How deep folders are looked into.
const MAX_DEPTH: usize = 8;

/// What files have said: per file and object the last good version.
#[derive(Debug, Default)]
pub struct Manifests {
    good: BTreeMap<PathBuf, BTreeMap<String, Object>>,
}

/// What one reading found.
#[derive(Debug, Default)]
pub struct Reading {
    /// All objects in force, each once.
    pub objects: Vec<Object>,
    /// Invalid documents and unreadable files, a line each: file, line, field, what.
    pub faults: Vec<String>,
    /// Of invalid pools without an earlier version, by name, the field and what is wrong.
    pub invalid_pools: BTreeMap<String, String>,
}

impl Manifests {
    /// Reads a folder.
    ///
    /// # Errors
    /// When the folder cannot be read: then nothing is known, rather than nothing declared.
    pub fn read(&mut self, directory: &Path) -> std::io::Result<Reading> {
        let mut files = Vec::new();
        find(directory, MAX_DEPTH, &mut files)?;
        files.sort();
        let mut faults = Vec::new();
        let mut invalid_pools = BTreeMap::new();
        let mut good = BTreeMap::new();
        for file in files {
            let before = self.good.remove(&file).unwrap_or_default();
            good.insert(file.clone(), read_file(&file, before, &mut faults, &mut invalid_pools));
        }
        self.good = good;
        let mut objects: BTreeMap<&String, (&PathBuf, &Object)> = BTreeMap::new();
        for (file, found) in &self.good {
            for (key, object) in found {
                if let Some((first, _)) = objects.get(key) {
                    faults.push(format!(
                        "{}: {key} is declared in {} already: that one holds",
                        file.display(),
                        first.display()
                    ));
                } else {
                    objects.insert(key, (file, object));
                }
            }
        }
        Ok(Reading {
            objects: objects.into_values().map(|(_, object)| object.clone()).collect(),
            faults,
            invalid_pools,
        })
    }
}

fn find(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        // Hidden: an editor's temporary file, or the folders behind a mounted ConfigMap's links.
        if path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        if path.is_dir() {
            if depth > 0 {
                find(&path, depth - 1, files)?;
            }
        } else if path
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
        {
            files.push(path);
        }
    }
    Ok(())
}

/// The objects of one file: those that are valid now, and the last good versions of those that are not.
fn read_file(
    file: &Path,
    before: BTreeMap<String, Object>,
    faults: &mut Vec<String>,
    invalid_pools: &mut BTreeMap<String, String>,
) -> BTreeMap<String, Object> {
    let text = match read_text(file) {
        Ok(text) => text,
        Err(error) => {
            faults.push(format!("{}: {error}: what it said before stays in force", file.display()));
            return before;
        }
    };
    let mut found = BTreeMap::new();
    for document in document::split(&text) {
        match document.parse() {
            Ok(None) => {}
            Ok(Some((key, object))) => {
                found.insert(key, object);
            }
            Err(fault) => {
                let kept: Vec<&String> = match &fault.object {
                    Some(key) => before.keys().filter(|known| *known == key).collect(),
                    // It does not even say what it is: any of the file's objects may be meant.
                    None => before.keys().collect(),
                };
                let pool = fault.object.as_ref().and_then(|key| key.strip_prefix("SpiderIPPool "));
                if let Some((_, name)) = pool.and_then(|path| path.split_once('/')) {
                    invalid_pools.insert(name.to_owned(), fault.text.clone());
                }
                let consequence =
                    if kept.is_empty() { "it is left out" } else { "the last good version stays in force" };
                faults.push(format!("{}:{}: {}: {consequence}", file.display(), fault.line, fault.text));
                for key in kept {
                    found.entry(key.clone()).or_insert_with(|| before[key].clone());
                }
            }
        }
    }
    found
}

fn read_text(file: &Path) -> std::io::Result<String> {
    let length = std::fs::metadata(file)?.len();
    if length > MAX_FILE {
        return Err(std::io::Error::other(format!("{length} bytes are more than the {MAX_FILE} that are read")));
    }
    std::fs::read_to_string(file)
}

/// Reads once, then watches.
pub async fn start(agent: &Arc<Agent>, directory: PathBuf, tasks: &mut JoinSet<()>) {
    let wake = Arc::new(Notify::new());
    let watcher = watch(&directory, &wake);
    let mut manifests = Manifests::default();
    let is_read = look(agent, &mut manifests, &directory);
    let agent = Arc::clone(agent);
    tasks.spawn(async move {
        let mut watcher = watcher;
        let mut is_read = is_read;
        let stopping = agent.stopping();
        tokio::pin!(stopping);
        loop {
            let is_watched = watcher.is_ok();
            tokio::select! {
                () = wake.notified() => {}
                // A folder that is not there yet sends no event.
                () = tokio::time::sleep(Duration::from_secs(1)), if !is_watched || !is_read => {}
                () = &mut stopping => return,
            }
            tokio::time::sleep(SETTLE).await;
            if watcher.is_err() {
                watcher = watch(&directory, &wake);
            }
            is_read = look(&agent, &mut manifests, &directory);
        }
    });
}

fn watch(directory: &Path, wake: &Arc<Notify>) -> notify::Result<notify::RecommendedWatcher> {
    let wake = Arc::clone(wake);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is an event too: answering it would never end. An error (a lost event) is a reason to look.
        if event.is_ok_and(|event| event.kind.is_access()) {
            return;
        }
        wake.notify_one();
    })?;
    watcher.watch(directory, RecursiveMode::Recursive)?;
    Ok(watcher)
}

fn look(agent: &Arc<Agent>, manifests: &mut Manifests, directory: &Path) -> bool {
    let reading = match manifests.read(directory) {
        Ok(reading) => reading,
        Err(error) => {
            tracing::error!(path = %directory.display(), %error, "manifests cannot be read: nothing is released");
            return false;
        }
    };
    for fault in &reading.faults {
        tracing::warn!(%fault, "a manifest is not valid");
    }
    let mut catalogue = Catalogue::of(reading.objects);
    catalogue.faults.extend(reading.faults);
    reading.invalid_pools.into_iter().for_each(|(name, fault)| catalogue.add_invalid(name, fault));
    if let Err(error) = conflists::write(&agent.config.state_dir, &catalogue) {
        catalogue.faults.push(format!("net.d: {error}"));
    }
    tracing::info!(pools = catalogue.pools.len(), networks = catalogue.networks.len(), "manifests read");
    agent.declare(catalogue);
    true
}
