//! A clock of one's own: what a process takes for the time of day, while time goes on as ever.

use std::fs;
use std::path::{Path, PathBuf};

use super::FleetError;

/// Debian's libfaketime, by architecture.
const LIBRARIES: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1"];

/// A clock that can be set, for processes that are started with its [variables](Self::variables).
#[derive(Debug)]
pub struct Clock {
    library: &'static str,
    file: PathBuf,
}

impl Clock {
    /// One that goes right. None where libfaketime is not installed.
    pub fn right(folder: &Path) -> Result<Option<Self>, FleetError> {
        let Some(library) = LIBRARIES.iter().copied().find(|path| Path::new(path).exists()) else { return Ok(None) };
        let clock = Self { library, file: folder.join("clock") };
        clock.set(0)?;
        Ok(Some(clock))
    }

    /// From now on it is so many seconds ahead, or behind.
    pub fn set(&self, ahead: i64) -> Result<(), FleetError> {
        // In one step: half a line would be another time.
        let new = self.file.with_extension("new");
        let written = fs::write(&new, format!("{ahead:+}\n")).and_then(|()| fs::rename(&new, &self.file));
        written.map_err(|error| FleetError::system(format!("writing {}", self.file.display()), error))
    }

    /// What the environment of its processes is to have, by name.
    pub fn variables(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", self.library.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            // It is looked at every time.
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            // Of the clocks only the one that people set is another.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}
