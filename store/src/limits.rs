//! When the background work begins.

/// How large files may grow before they are written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the journal's logs that a snapshot replaces; more when the content itself is more than half of it.
    pub log_bytes: u64,
    /// Bytes of sled below which it is left as it is, however little it holds.
    pub sled_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { log_bytes: 16 << 20, sled_bytes: 96 << 20 }
    }
}

/// The most bytes of logs, whatever the content: they have to be read and followed at an open.
const MOST_LOG_BYTES: u64 = 256 << 20;

/// How many times its content a sled may take.
const GROWN: u64 = 6;

impl Limits {
    /// Whether logs of so many bytes are to be replaced by a snapshot of the content.
    pub(crate) fn replaces_logs(self, logs: u64, content: u64) -> bool {
        logs >= (2 * content).clamp(self.log_bytes, MOST_LOG_BYTES.max(self.log_bytes))
    }

    /// Whether a sled of so many bytes is to be written anew.
    pub(crate) fn renews_sled(self, on_disk: u64, content: u64) -> bool {
        on_disk > self.sled_bytes.max(GROWN * content)
    }
}
