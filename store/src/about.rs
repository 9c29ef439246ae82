//! What a copy of the state says of itself: its format and whose memory it is.

use std::path::Path;

use crate::codec::{self, MetaText};
use crate::journal::Found;
use crate::journal::snapshot::{self, SnapshotError};
use crate::open::{FORMAT_VERSION, OpenError, read_meta};
use crate::places::Places;
use crate::trees::{self, TreeName, Trees};

/// What a sled says of itself.
pub(crate) struct About {
    pub(crate) format: u32,
    pub(crate) node: String,
}

impl About {
    /// Reads it.
    pub(crate) fn read(dir: &Path, trees: &Trees) -> Result<Self, OpenError> {
        let format = read_meta(dir, trees, trees::META_FORMAT)?;
        let format = format.parse().map_err(|_| OpenError::Corrupt {
            path: dir.to_owned(),
            reason: format!("its format version is {format:?}"),
        })?;
        Ok(Self { format, node: read_meta(dir, trees, trees::META_NODE)? })
    }

    /// Refuses a newer format and another node's memory.
    pub(crate) fn check(&self, dir: &Path, node: Option<&str>) -> Result<(), OpenError> {
        if self.format > FORMAT_VERSION {
            let (path, found) = (dir.to_owned(), self.format);
            return Err(OpenError::NewerFormat { path, found, known: FORMAT_VERSION });
        }
        check_node(dir, &self.node, node)
    }
}

fn check_node(path: &Path, found: &str, wanted: Option<&str>) -> Result<(), OpenError> {
    match wanted {
        Some(wanted) if found != wanted => {
            let (found, wanted) = (found.to_owned(), wanted.to_owned());
            Err(OpenError::OtherNode { path: path.to_owned(), found, wanted })
        }
        _ => Ok(()),
    }
}

/// Refuses another node's journal, before anything is moved or removed for it.
pub(crate) fn check_journal(places: &Places, found: &Found, node: Option<&str>) -> Result<(), OpenError> {
    let (Some(_), Some((_, path))) = (node, &found.snapshot) else { return Ok(()) };
    let mut said = None;
    let read = snapshot::read(path, |writes| {
        let of_node = writes.iter().find(|write| write.tree == TreeName::Meta && write.key == trees::META_NODE);
        said = of_node.and_then(|write| write.value).map(<[u8]>::to_vec).or(said.take());
        Ok::<_, SnapshotError>(())
    });
    read.map_err(|error| OpenError::Corrupt {
        path: places.sled().to_owned(),
        reason: format!("{}: {error}", path.display()),
    })?;
    match said.map(|value| codec::decode::<MetaText>(&value)) {
        Some(Ok(MetaText(said))) => check_node(places.journal().path(), &said, node),
        // A damaged one is told when sled has been made of it.
        Some(Err(_)) | None => Ok(()),
    }
}
