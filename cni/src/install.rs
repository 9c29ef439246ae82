//! Puts the program into a CNI bin directory under the plugins' names.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;

use crate::plugin::Plugin;

/// What a program of ours has in it, in every version, so that a new one knows the old.
const MARK: &str = "dragline-cni: plugins of one program <0c5f2f6e-6f0b-4b07-9c0e-51d7f2a0d8f3>";

/// What became of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    /// It was not there.
    New,
    /// It was ours, of this version or another.
    Replaced,
    /// It was not ours, and replaced because that was asked for.
    Forced,
    /// It is not ours, and was left as it is.
    Kept,
}

/// What to do about files of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// Leave them.
    Keep,
    /// Replace them.
    Replace,
}

/// Why the program could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}", path.display())]
pub struct InstallError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Installs the running program into `folder`, making it when it is missing; each file is replaced whole or not at all.
///
/// # Errors
/// At the first file that cannot be read or written.
pub fn install(folder: &Path, foreign: Foreign) -> Result<Vec<(PathBuf, Installed)>, InstallError> {
    let myself = env::current_exe().map_err(failed("find", Path::new("the running program")))?;
    let program = fs::read(&myself).map_err(failed("read", &myself))?;
    fs::create_dir_all(folder).map_err(failed("make", folder))?;
    let outcomes: Result<Vec<_>, InstallError> = Plugin::ALL
        .into_iter()
        .map(|plugin| {
            let path = folder.join(plugin.name());
            let outcome = match (what_is_at(&path)?, foreign) {
                (Present::Foreign, Foreign::Keep) => return Ok((path, Installed::Kept)),
                (Present::Foreign, Foreign::Replace) => Installed::Forced,
                (Present::Ours, _) => Installed::Replaced,
                (Present::Nothing, _) => Installed::New,
            };
            replace(folder, &path, &program).map_err(failed("write", &path))?;
            Ok((path, outcome))
        })
        .collect();
    File::open(folder).and_then(|opened| opened.sync_all()).map_err(failed("sync", folder))?;
    outcomes
}

enum Present {
    Nothing,
    Ours,
    Foreign,
}

fn what_is_at(path: &Path) -> Result<Present, InstallError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Present::Nothing),
        Err(error) => return Err(failed("look at", path)(error)),
        Ok(_) => {}
    }
    match fs::read(path) {
        Ok(content) if has_mark(&content) => Ok(Present::Ours),
        Ok(_) => Ok(Present::Foreign),
        // A link to nowhere is somebody's, too.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Present::Foreign),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn has_mark(content: &[u8]) -> bool {
    let mark = black_box(MARK).as_bytes();
    content.windows(mark.len()).any(|window| window == mark)
}

/// A running plugin keeps its old file; a new call finds the old or the new one, never half of one.
fn replace(folder: &Path, path: &Path, program: &[u8]) -> io::Result<()> {
    let temporary = folder.join(format!(".dragline-cni-{}", process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&temporary)?;
        file.write_all(program)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    move |source| InstallError { what, path: path.to_owned(), source }
}
