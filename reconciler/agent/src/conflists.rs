//! `<state-dir>/net.d/`: the conflist of every SpiderMultusConfig, for runtimes without Multus.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use kube::ResourceExt;
use schemas::crd::multus_config::nad_config;

use crate::catalogue::Catalogue;

/// Brings the folder in line: files of ours that are wanted are written where they differ, others of ours deleted.
///
/// # Errors
/// When the folder cannot be written. A network that gives no conflist is logged and left out.
pub fn write(state_dir: &Path, catalogue: &Catalogue) -> std::io::Result<()> {
    let directory = state_dir.join("net.d");
    std::fs::create_dir_all(&directory)?;
    let mut wanted = BTreeSet::new();
    for ((namespace, name), network) in &catalogue.networks {
        let text = match nad_config(network) {
            Ok(text) => text,
            Err(error) => {
                tracing::warn!(network = %network.name_any(), %error, "this network has no conflist");
                continue;
            }
        };
        if text.is_empty() {
            continue;
        }
        let file = format!("{namespace}_{name}.conflist");
        write_file(&directory, &file, &text)?;
        wanted.insert(file);
    }
    for entry in std::fs::read_dir(&directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".conflist") && !wanted.contains(&name) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Readers see the old file or the new one, never a part.
fn write_file(directory: &Path, name: &str, text: &str) -> std::io::Result<()> {
    let path = directory.join(name);
    if std::fs::read_to_string(&path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    let temporary = directory.join(format!(".{name}"));
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(temporary, path)
}
