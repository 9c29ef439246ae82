//! The whole state at one position, in one file: frames of puts, and at the end one without writes. Each frame has the
//! snapshot's epoch and number, its place in the file where a group has the digest before it, and only the last one the
//! digest of the state: who writes a snapshot may know it at the end only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::frame::{self, Frame, FrameError, HEADER, Mark, Write};
use crate::position::{Digest, Position};

/// How many bytes of records share a frame.
const CHUNK: usize = 256 << 10;

/// A snapshot that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
    #[error("the frame at byte {at}: {source}")]
    Frame { at: u64, source: FrameError },
    #[error("the frame at byte {at} belongs to another snapshot or stands in another's place")]
    Misplaced { at: u64 },
    #[error("bytes follow its end")]
    Trailing,
}

/// A snapshot on its way to the disk; dropped before it was published, it leaves nothing.
pub(crate) struct SnapshotWriter {
    file: File,
    unfinished: PathBuf,
    path: PathBuf,
    /// Without the digest until the end.
    position: Position,
    frames: u64,
    chunk: Vec<(crate::trees::TreeName, Vec<u8>, Vec<u8>)>,
    chunk_bytes: usize,
    bytes: u64,
    published: bool,
}

impl SnapshotWriter {
    /// Begins one of the state at `position`, whose digest is given at the end; nothing of it counts before that.
    pub(crate) fn create(path: PathBuf, position: Position) -> io::Result<Self> {
        let position = Position { digest: Digest(0), ..position };
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(super::UNFINISHED);
        let unfinished = PathBuf::from(unfinished);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        Ok(Self {
            file,
            unfinished,
            path,
            position,
            frames: 0,
            chunk: Vec::new(),
            chunk_bytes: 0,
            bytes: 0,
            published: false,
        })
    }

    /// Adds a record.
    pub(crate) fn put(&mut self, tree: crate::trees::TreeName, key: Vec<u8>, value: Vec<u8>) -> io::Result<()> {
        self.chunk_bytes += key.len() + value.len();
        self.chunk.push((tree, key, value));
        if self.chunk_bytes >= CHUNK { self.write_chunk() } else { Ok(()) }
    }

    fn write_chunk(&mut self) -> io::Result<()> {
        let mark = Mark { before: Digest(self.frames), after: self.position };
        let writes = self.chunk.iter().map(|(tree, key, value)| Write { tree: *tree, key, value: Some(value) });
        let frame = frame::encode(&mark, writes);
        self.file.write_all(&frame)?;
        self.bytes += frame.len() as u64;
        self.frames += 1;
        self.chunk.clear();
        self.chunk_bytes = 0;
        Ok(())
    }

    /// Makes it durable and lets it count: from the rename on it is there, whole. Returns its size in bytes.
    pub(crate) fn publish(mut self, digest: Digest) -> io::Result<u64> {
        if !self.chunk.is_empty() {
            self.write_chunk()?;
        }
        self.position.digest = digest;
        // The end: a frame without writes.
        self.write_chunk()?;
        self.file.sync_all()?;
        fs::rename(&self.unfinished, &self.path)?;
        self.published = true;
        super::sync_parent(&self.path)?;
        Ok(self.bytes)
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.published {
            // The next open removes it as well.
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}

/// Reads a snapshot's frames in order, each checked; `each` gets the writes of one after another. Returns where the
/// snapshot stands. `each` may have had records of a snapshot that is then found damaged.
pub(crate) fn read<E: From<SnapshotError>>(
    path: &Path,
    mut each: impl FnMut(&[Write<'_>]) -> Result<(), E>,
) -> Result<Position, E> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(SnapshotError::Io)?);
    let mut at = 0_u64;
    let mut first: Option<Position> = None;
    let mut buffer = Vec::new();
    for place in 0_u64.. {
        let frame = next_frame(&mut file, &mut buffer, at)?;
        let position = frame.mark.after;
        let begun = *first.get_or_insert(position);
        if (position.epoch, position.number, frame.mark.before) != (begun.epoch, begun.number, Digest(place)) {
            return Err(SnapshotError::Misplaced { at }.into());
        }
        if frame.writes.is_empty() {
            return match file.read(&mut [0]).map_err(SnapshotError::Io)? {
                0 => Ok(position),
                _ => Err(SnapshotError::Trailing.into()),
            };
        }
        at += frame.len as u64;
        each(&frame.writes)?;
    }
    Err(SnapshotError::Misplaced { at }.into())
}

fn next_frame<'a>(file: &mut impl Read, buffer: &'a mut Vec<u8>, at: u64) -> Result<Frame<'a>, SnapshotError> {
    buffer.clear();
    file.take(HEADER as u64).read_to_end(buffer)?;
    let refused = |source| SnapshotError::Frame { at, source };
    let len = frame::claimed_len(buffer).map_err(refused)?;
    file.take((len - HEADER.min(buffer.len())) as u64).read_to_end(buffer)?;
    frame::decode(buffer).map_err(refused)
}

/// Checks a snapshot to its last byte, and says where it stands.
pub(crate) fn verify(path: &Path) -> Result<Position, SnapshotError> {
    read(path, |_| Ok(()))
}
