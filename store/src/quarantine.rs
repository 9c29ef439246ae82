//! Records that cannot be used, kept in a file for whoever looks into it.
//!
//! The record stays in the store as well: an address whose allocation cannot be read counts as taken until somebody decides.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::dump::time_text;
use crate::snapshot::Unreadable;

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    time: String,
    tree: String,
    key: String,
    reason: String,
    value: String,
}

/// Appends what is not in the file yet; how many records that are.
pub(crate) fn keep(path: &Path, unreadable: &[Unreadable], now: SystemTime) -> io::Result<usize> {
    if unreadable.is_empty() {
        return Ok(0);
    }
    let there = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let known: BTreeSet<(String, String, String)> = there
        .lines()
        // A line that was cut off is written again, whole.
        .filter_map(|line| serde_json::from_str::<Line>(line).ok())
        .map(|line| (line.tree, line.key, line.value))
        .collect();
    let mut lines = Vec::new();
    let mut kept = 0;
    for record in unreadable {
        let (tree, key, value) = (record.tree.to_string(), record.key.clone(), hex::encode(&record.value));
        if known.contains(&(tree.clone(), key.clone(), value.clone())) {
            continue;
        }
        let line = Line { time: time_text(now), tree, key, reason: record.reason.clone(), value };
        serde_json::to_writer(&mut lines, &line)?;
        lines.push(b'\n');
        kept += 1;
    }
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    if !there.is_empty() && !there.ends_with('\n') {
        file.write_all(b"\n")?;
    }
    file.write_all(&lines)?;
    file.sync_all()?;
    Ok(kept)
}
