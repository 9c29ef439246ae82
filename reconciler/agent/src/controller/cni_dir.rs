//! The node's CNI configurations: which one is the default, and that this may change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use serde_json::Value;
use tokio::sync::Notify;

/// A file is written in several steps: what belongs together is waited for.
const SETTLE: Duration = Duration::from_millis(100);
/// Multus' own configuration, which stands before the one it delegates to.
const MULTUS: &str = "00-multus";
/// A configuration larger than this is not read.
const MAX_FILE: u64 = 1024 * 1024;

/// A configuration or list of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CniConf {
    /// The network's name.
    pub(super) name: String,
    /// The plugins' types, the main one first.
    pub(super) types: Vec<String>,
}

/// The first configuration by file name; None when there is none.
///
/// # Errors
/// The folder or the file cannot be read, or is no configuration.
pub(super) fn first(directory: &Path) -> Result<Option<CniConf>, String> {
    let failed =
        |error: std::io::Error| format!("cannot read the CNI configurations in {}: {error}", directory.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_conf = path.extension().is_some_and(|extension| extension == "conf" || extension == "conflist");
        if is_conf && !path.to_string_lossy().contains(MULTUS) {
            files.push(path);
        }
    }
    files.sort();
    match files.first() {
        Some(file) => read(file).map(Some).map_err(|error| format!("CNI configuration {}: {error}", file.display())),
        None => Ok(None),
    }
}

fn read(file: &Path) -> Result<CniConf, String> {
    let length = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
    if length > MAX_FILE {
        return Err(format!("{length} bytes are more than the {MAX_FILE} that are read"));
    }
    parse(&std::fs::read_to_string(file).map_err(|error| error.to_string())?)
}

fn parse(text: &str) -> Result<CniConf, String> {
    let conf: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let name = conf["name"].as_str().filter(|name| !name.is_empty()).ok_or("it has no name")?;
    let plugins = conf["plugins"].as_array().map_or(std::slice::from_ref(&conf), Vec::as_slice);
    let types = plugins.iter().filter_map(|plugin| plugin["type"].as_str()).map(str::to_owned).collect();
    Ok(CniConf { name: name.to_owned(), types })
}

/// Tells the first configuration, and then whenever it may have changed, also when the folder itself comes and goes.
pub(super) async fn follow<F: Future<Output = ()>>(
    directory: PathBuf,
    tell: impl Fn(Result<Option<CniConf>, String>) -> F,
) {
    let wake = Arc::new(Notify::new());
    loop {
        // Watched before it is read: what changes in between is seen.
        let watcher = watch(&directory, &wake);
        tell(first(&directory)).await;
        match watcher {
            Ok(_watching) => wake.notified().await,
            Err(error) => {
                tracing::warn!(%error, path = %directory.display(), "cannot be watched; looking again in a minute");
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
        }
        tokio::time::sleep(SETTLE).await;
    }
}

/// Watches the folder, or where it is missing the nearest one above it, in which it will appear.
fn watch(directory: &Path, wake: &Arc<Notify>) -> notify::Result<notify::RecommendedWatcher> {
    let wake = Arc::clone(wake);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is an event too: answering it would never end. An error (a lost event) is a reason to look.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            wake.notify_one();
        }
    })?;
    let mut watched = watcher.watch(directory, RecursiveMode::NonRecursive);
    for above in directory.ancestors().skip(1) {
        if watched.is_ok() {
            break;
        }
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        watched = watcher.watch(above, RecursiveMode::NonRecursive);
    }
    watched.map(|()| watcher)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_by_name_counts_and_multus_does_not() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(first(folder.path()), Ok(None));
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("00-multus.conf", "{");
        write("01-x.json", "{");
        assert_eq!(first(folder.path()), Ok(None));
        write("10-calico.conflist", r#"{"name":"k8s-pod-network","plugins":[{"type":"calico"},{"type":"portmap"}]}"#);
        write("20-a.conf", r#"{"name":"a","type":"bridge"}"#);
        let calico = CniConf { name: "k8s-pod-network".into(), types: vec!["calico".into(), "portmap".into()] };
        assert_eq!(first(folder.path()), Ok(Some(calico)));
        write("05-b.conf", r#"{"name":"b","type":"bridge"}"#);
        assert_eq!(first(folder.path()), Ok(Some(CniConf { name: "b".into(), types: vec!["bridge".into()] })));
        write("04-c.conf", "{\"type\":\"bridge\"}");
        assert!(first(folder.path()).unwrap_err().ends_with("04-c.conf: it has no name"));
        write("03-d.conf", "{");
        assert!(first(folder.path()).unwrap_err().contains("03-d.conf: EOF"));
        assert!(first(&folder.path().join("none")).unwrap_err().contains("cannot read the CNI configurations in"));
    }

    #[tokio::test]
    async fn a_folder_that_comes_later_is_seen_and_renamed_links_are() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("cni").join("net.d");
        let (send, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let followed = tokio::spawn(follow(folder.clone(), move |found| {
            // Nobody listens any more at the test's end.
            let _ = send.send(found);
            std::future::ready(())
        }));
        assert!(seen.recv().await.unwrap().is_err());
        // As a mounted ConfigMap is: files are links through a link that is renamed.
        std::fs::create_dir_all(folder.join("..1")).unwrap();
        std::fs::write(folder.join("..1/10.conf"), r#"{"name":"one","type":"x"}"#).unwrap();
        std::os::unix::fs::symlink("..1", folder.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/10.conf", folder.join("10.conf")).unwrap();
        let named = async |seen: &mut tokio::sync::mpsc::UnboundedReceiver<_>, name: &str| {
            let wait = async {
                while !matches!(seen.recv().await, Some(Ok(Some(CniConf { name: found, .. }))) if found == name) {}
            };
            tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
        };
        named(&mut seen, "one").await;
        std::fs::create_dir(folder.join("..2")).unwrap();
        std::fs::write(folder.join("..2/10.conf"), r#"{"name":"two","type":"x"}"#).unwrap();
        std::os::unix::fs::symlink("..2", folder.join("..tmp")).unwrap();
        std::fs::rename(folder.join("..tmp"), folder.join("..data")).unwrap();
        named(&mut seen, "two").await;
        followed.abort();
    }
}
