//! Withdrawals that the agent did not take: one file each, which it finds when it is back.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::time::SystemTime;

use schemas::wire::{Part, SPOOL_DIR, SPOOL_RESERVE, Withdrawal};

/// What is taken of the reserve at once, in bytes: a file's first block and some for its folder, whatever their size.
const ROOM: u64 = 16 << 10;
/// The longest file name that goes without a digest; file systems take 255 bytes.
const LONGEST: usize = 200;
/// How many names for a temporary file are tried.
const ATTEMPTS: u32 = 16;

/// The folder of withdrawals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    folder: PathBuf,
}

/// A withdrawal that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the withdrawal to {}: {source}; make the folder writable, or set DRAGLINE_STATE_DIR", path.display())]
pub struct SpoolError {
    path: PathBuf,
    source: io::Error,
}

impl Spool {
    /// The spool of a state directory.
    pub fn below(state_dir: &Path) -> Self {
        Self { folder: state_dir.join(SPOOL_DIR) }
    }

    /// Writes a withdrawal durably; the same one again replaces the file.
    ///
    /// # Errors
    /// When the folder or the file cannot be made and synced.
    pub fn add(&self, withdrawal: &Withdrawal) -> Result<(), SpoolError> {
        let path = self.folder.join(file_name(withdrawal));
        loop {
            match self.write(&path, withdrawal) {
                Err(error) if error.kind() == io::ErrorKind::StorageFull && self.take_of_reserve() => {}
                written => return written.map_err(|source| SpoolError { path, source }),
            }
        }
    }

    /// Makes room from what the agent keeps for this; false when nothing is left of it.
    fn take_of_reserve(&self) -> bool {
        let reserve = self.folder.with_file_name(SPOOL_RESERVE);
        let taken = OpenOptions::new().write(true).open(reserve).and_then(|file| {
            let len = file.metadata()?.len();
            file.set_len(len.saturating_sub(ROOM)).map(|()| len > 0)
        });
        taken.unwrap_or(false)
    }

    fn write(&self, path: &Path, withdrawal: &Withdrawal) -> io::Result<()> {
        self.make_folder()?;
        let content = serde_json::to_vec(withdrawal)?;
        let (temporary, mut file) = self.temporary()?;
        let written =
            file.write_all(&content).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&temporary, path));
        if let Err(error) = written {
            // A leftover is no withdrawal: its name begins with a dot.
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        File::open(&self.folder)?.sync_all()
    }

    /// The folder and what is missing above it, each name synced into its parent.
    fn make_folder(&self) -> io::Result<()> {
        if self.folder.is_dir() {
            return Ok(());
        }
        let missing: Vec<&Path> = self.folder.ancestors().take_while(|folder| !folder.exists()).collect();
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        for parent in missing.into_iter().filter_map(Path::parent) {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    }

    /// A new file under a name of its own: plugins may run in several process namespaces, so the number alone is not one.
    fn temporary(&self) -> io::Result<(PathBuf, File)> {
        let mut attempt = 0;
        loop {
            let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
            let path = self.folder.join(format!(".{}-{nanos}-{attempt}", process::id()));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < ATTEMPTS => attempt += 1,
                opened => return opened.map(|file| (path, file)),
            }
        }
    }
}

/// The name of a withdrawal's file: `container:interface:part.json`. Neither name can have a colon or a slash, and a
/// container ID begins with a letter or digit, so different withdrawals never share a name. One that is too long for a
/// file system keeps its beginning and a digest.
pub fn file_name(withdrawal: &Withdrawal) -> String {
    let part = match withdrawal.part {
        Part::Addresses => "addresses",
        Part::Link => "link",
        Part::Routes => "routes",
        Part::Uplink => "uplink",
    };
    let name = format!("{}:{}:{part}", withdrawal.key.container, withdrawal.key.ifname);
    if name.len() <= LONGEST {
        return format!("{name}.json");
    }
    let beginning: String = withdrawal.key.container.as_str().chars().take(LONGEST / 2).collect();
    format!("{beginning}:{:032x}.json", digest(name.as_bytes()))
}

/// FNV-1a of 128 bits: the same in every build, unlike the standard library's.
fn digest(bytes: &[u8]) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(BASIS, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    fn withdrawal(container: &str, ifname: &str, part: Part) -> Withdrawal {
        let key =
            schemas::name::AttachmentKey { container: container.parse().unwrap(), ifname: ifname.parse().unwrap() };
        Withdrawal { key, part }
    }

    #[test]
    fn names_are_stable() {
        assert_eq!(file_name(&withdrawal("abc", "net1", Part::Routes)), "abc:net1:routes.json");
        let long = file_name(&withdrawal(&"x".repeat(255), "net1", Part::Link));
        assert_eq!(long.len(), 100 + 1 + 32 + 5);
        assert_ne!(long, file_name(&withdrawal(&"x".repeat(254), "net1", Part::Link)));
        // The published test value of the digest.
        assert_eq!(digest(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }

    #[test]
    fn a_withdrawal_is_a_private_file_and_nothing_else_is_left() {
        let state = tempfile::tempdir().unwrap();
        let spool = Spool::below(&state.path().join("not/yet/there"));
        let wanted = withdrawal("abc", "net1", Part::Link);
        spool.add(&wanted).unwrap();
        spool.add(&wanted).unwrap();
        let files: Vec<_> = fs::read_dir(&spool.folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, ["abc:net1:link.json"]);
        let read: Withdrawal = serde_json::from_slice(&fs::read(spool.folder.join(&files[0])).unwrap()).unwrap();
        assert_eq!(read, wanted);
        assert_eq!(fs::metadata(spool.folder.join(&files[0])).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(state.path().join("not")).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&spool.folder).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_folder_that_cannot_be_is_an_error_with_its_path() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Spool::below(&file).add(&withdrawal("abc", "net1", Part::Link)).unwrap_err().to_string();
        assert!(error.contains("file/spool/abc:net1:link.json"), "{error}");
    }

    proptest! {
        #[test]
        fn different_withdrawals_have_different_safe_names(
            a in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}", b in "[a-c][a-c_.-]{0,5}", n in "[!-.0-9;-~]{1,15}", m in "[a-c_.-]{3,6}",
        ) {
            prop_assume!(![".", ".."].contains(&n.as_str()));
            let names = [withdrawal(&a, &n, Part::Link), withdrawal(&b, &m, Part::Link), withdrawal(&b, &m, Part::Routes)]
                .map(|each| file_name(&each));
            for name in &names {
                prop_assert!(name.len() <= 255 && !name.starts_with('.') && !name.contains('/') && name.ends_with(".json"));
            }
            prop_assert_eq!(names[0] == names[1], a == b && n == m);
            prop_assert_ne!(&names[1], &names[2]);
        }
    }
}
