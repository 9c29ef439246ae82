//! Where etcd, kube-apiserver, kube-controller-manager and kubectl are.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use super::Missing;
use crate::binaries;

/// Kept by test environments elsewhere under this name: a folder with the programs.
const ASSETS: &str = "KUBEBUILDER_ASSETS";
/// What no cluster can do without.
const NEEDED: [&str; 3] = ["etcd", "kube-apiserver", "kubectl"];
/// The sources that `cargo verify` builds them of.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kubernetes");

/// A folder with the programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Those of `KUBEBUILDER_ASSETS` where it is set, else those that `cargo verify` built into the target folder.
    ///
    /// # Errors
    /// There are none, or they are not of the present sources.
    pub fn find() -> Result<Self, Missing> {
        if let Some(folder) = env::var_os(ASSETS).filter(|folder| !folder.is_empty()) {
            return Self::in_folder(folder.into());
        }
        let unknown = |error: &dyn std::fmt::Display| Missing::Unknown(error.to_string());
        let build = Build::of(&binaries::target_folder().map_err(|error| unknown(&error))?);
        let recipe = Build::recipe().map_err(|error| unknown(&error))?;
        match fs::read_to_string(build.stamp()) {
            Ok(built) if built == recipe => Ok(Self { folder: build.folder }),
            Ok(_) => Err(Missing::Outdated),
            Err(_) => Err(Missing::NotBuilt),
        }
    }

    fn in_folder(folder: PathBuf) -> Result<Self, Missing> {
        match NEEDED.iter().find(|program| !folder.join(program).exists()) {
            Some(program) => Err(Missing::Asset { folder, program }),
            None => Ok(Self { folder }),
        }
    }

    /// One of them.
    pub fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }
}

/// What `cargo verify` builds, and where.
#[derive(Debug, Clone)]
pub struct Build {
    /// Where the programs are: links to one program.
    pub folder: PathBuf,
}

impl Build {
    /// The names by which the one program is called.
    pub const PROGRAMS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"];

    /// The one of a target folder.
    pub fn of(target: &Path) -> Self {
        Self { folder: target.join("tools/kubernetes") }
    }

    /// Where the sources are.
    pub fn sources() -> &'static Path {
        Path::new(SOURCES)
    }

    /// The file that says of which [recipe](Self::recipe) the programs are; written last.
    pub fn stamp(&self) -> PathBuf {
        self.folder.join("stamp")
    }

    /// All that decides what the programs are: the sources' text.
    pub fn recipe() -> io::Result<String> {
        ["go.mod", "go.sum", "main.go"].iter().map(|file| fs::read_to_string(Self::sources().join(file))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_lacks_a_program_is_refused_by_name() {
        let folder = env::temp_dir().join(format!("dragline-assets-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        for program in ["etcd", "kubectl"] {
            fs::write(folder.join(program), "").unwrap();
        }
        let refused = Programs::in_folder(folder.clone()).unwrap_err();
        fs::write(folder.join("kube-apiserver"), "").unwrap();
        let found = Programs::in_folder(folder.clone());
        fs::remove_dir_all(&folder).unwrap();
        assert!(refused.to_string().contains("has no kube-apiserver"), "{refused}");
        assert_eq!(found.unwrap().path("etcd"), folder.join("etcd"));
    }
}
