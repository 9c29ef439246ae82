//! What a store takes: bytes of disk by its directory, bytes of memory by its process.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes that a directory takes on disk, all below it included; a file that goes away meanwhile counts for nothing.
pub(crate) fn on_disk(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => on_disk(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(|entry| entry.map_or(0, size)).sum()
}

/// Copies a directory that nobody writes to.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Memory of this process in KiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) now: u64,
    pub(crate) peak: u64,
}

impl Memory {
    /// As the kernel counts it.
    pub(crate) fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_matches([':', '\t', ' ', 'k', 'B']).parse().unwrap()
        };
        Self { now: field("VmRSS"), peak: field("VmHWM") }
    }
}
