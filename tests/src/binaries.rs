//! The programs under test, built by cargo when they are not fresh.
//!
//! Cargo builds a package's own binaries for its tests, not those of other packages: without the nested build here
//! `cargo test` would run yesterday's agent.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;

/// Why there are no programs.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BuildError {
    /// The running program does not lie in a target folder.
    #[error("{0} is not in a cargo target folder: start it by cargo")]
    NoTargetFolder(PathBuf),
    /// Cargo, or a program it built, could not be started.
    #[error("{program} cannot be started: {error}")]
    NotStarted {
        /// Which.
        program: PathBuf,
        /// The system's word.
        error: String,
    },
    /// It failed.
    #[error("{what} failed ({status}); what it said stands above")]
    Failed {
        /// What was run.
        what: String,
        /// How it ended.
        status: ExitStatus,
    },
}

/// The variable that names the folder of both programs where there is no cargo to build them.
const BUILT_IN: &str = "DRAGLINE_BINARIES";

/// Where the fresh programs are.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The agent and command line.
    pub dragline: PathBuf,
    /// The plugins in one program.
    pub plugins: PathBuf,
}

impl Binaries {
    /// Builds both, once per process, into the target folder and profile of the running program; cargo's progress goes
    /// to standard error.
    ///
    /// To be called before the private world is entered: in there cargo has no network.
    pub fn build() -> Result<&'static Self, BuildError> {
        static BUILT: OnceLock<Result<Binaries, BuildError>> = OnceLock::new();
        BUILT.get_or_init(build).as_ref().map_err(Clone::clone)
    }

    /// Installs the plugins under their names into a CNI bin folder.
    pub fn install_plugins(&self, folder: &Path) -> Result<(), BuildError> {
        let mut install = Command::new(&self.plugins);
        install.arg("install").arg(folder).stdout(Stdio::null());
        run(&mut install)
    }
}

/// The folder into which cargo put the running program, and how it did so.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    folder: PathBuf,
    triple: Option<String>,
    profile: String,
}

impl Target {
    fn of_process() -> Result<Self, BuildError> {
        let myself = env::current_exe()
            .map_err(|error| BuildError::NotStarted { program: "/proc/self/exe".into(), error: error.to_string() })?;
        target_of(&myself, |folder| folder.join("CACHEDIR.TAG").exists()).ok_or(BuildError::NoTargetFolder(myself))
    }
}

/// The target folder of the running program.
pub fn target_folder() -> Result<PathBuf, BuildError> {
    Target::of_process().map(|target| target.folder)
}

/// The cargo by which the running program was started.
pub fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn build() -> Result<Binaries, BuildError> {
    if let Some(folder) = env::var_os(BUILT_IN).map(PathBuf::from) {
        return Ok(Binaries { dragline: folder.join("dragline"), plugins: folder.join("dragline-cni") });
    }
    let target = Target::of_process()?;
    let mut cargo = Command::new(cargo());
    cargo
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args(["build", "--package", "dragline", "--package", "cni", "--bins", "--profile", &target.profile])
        .arg("--target-dir")
        .arg(&target.folder)
        .stdin(Stdio::null());
    forget_package(&mut cargo);
    let mut built = target.folder.clone();
    if let Some(triple) = &target.triple {
        cargo.args(["--target", triple]);
        built.push(triple);
    }
    built.push(profile_folder(&target.profile));
    run(&mut cargo)?;
    Ok(Binaries { dragline: built.join("dragline"), plugins: built.join("dragline-cni") })
}

/// Takes from a nested cargo what the outer one has set for the package that it runs. Build scripts that ask for it would
/// run again, and with them all that is built on their crates, each time that the two kinds of builds take turns.
pub fn forget_package(cargo: &mut Command) {
    for (name, _) in env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"].iter().any(|own| is_named(&name, own)) {
            cargo.env_remove(name);
        }
    }
}

fn is_named(name: &OsString, prefix: &str) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(prefix))
}

fn run(command: &mut Command) -> Result<(), BuildError> {
    let program = PathBuf::from(command.get_program());
    let status = command
        .status()
        .map_err(|error: io::Error| BuildError::NotStarted { program: program.clone(), error: error.to_string() })?;
    let what = || format!("{} {}", program.display(), arguments(command));
    if status.success() { Ok(()) } else { Err(BuildError::Failed { what: what(), status }) }
}

fn arguments(command: &Command) -> String {
    let texts: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    texts.join(" ")
}

/// `TARGET[/TRIPLE]/PROFILE[/deps]/program`.
fn target_of(program: &Path, is_target_folder: impl Fn(&Path) -> bool) -> Option<Target> {
    let mut folder = program.parent()?;
    if ["deps", "examples"].iter().any(|name| folder.ends_with(name)) {
        folder = folder.parent()?;
    }
    let name = |folder: &Path| folder.file_name().and_then(|name| name.to_str()).map(ToOwned::to_owned);
    let profile = match name(folder)?.as_str() {
        "debug" => "dev".to_owned(),
        other => other.to_owned(),
    };
    let outer = folder.parent()?;
    if is_target_folder(outer) {
        return Some(Target { folder: outer.to_owned(), triple: None, profile });
    }
    let target = outer.parent().filter(|target| is_target_folder(target))?;
    Some(Target { folder: target.to_owned(), triple: name(outer), profile })
}

fn profile_folder(profile: &str) -> &str {
    if profile == "dev" { "debug" } else { profile }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_folder_is_known_from_any_program_in_it() {
        let is_target = |folder: &Path| folder == Path::new("/t");
        let target = |triple: Option<&str>, profile: &str| {
            Some(Target { folder: "/t".into(), triple: triple.map(ToOwned::to_owned), profile: profile.to_owned() })
        };
        assert_eq!(target_of(Path::new("/t/debug/runner"), is_target), target(None, "dev"));
        assert_eq!(target_of(Path::new("/t/debug/deps/drift-1a2b"), is_target), target(None, "dev"));
        assert_eq!(target_of(Path::new("/t/release/runner"), is_target), target(None, "release"));
        let triple = "x86_64-unknown-linux-musl";
        let cross = format!("/t/{triple}/plugin/deps/x");
        assert_eq!(target_of(Path::new(&cross), is_target), target(Some(triple), "plugin"));
        assert_eq!(target_of(Path::new("/usr/bin/runner"), is_target), None);
    }
}
