//! Debian's kernel for virtual machines, and of its modules those that some machine here loads, with those they need.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::geteuid;

use super::{Failure, output};

/// It depends on the newest kernel.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// What some machine loads. Another module here is another fetch.
const WANTED: [&str; 12] = [
    "virtio_pci",
    "virtio_blk",
    "veth",
    "bridge",
    "macvlan",
    "ipvlan",
    "8021q",
    "bonding",
    "nf_tables",
    "nft_chain_nat",
    "nft_nat",
    "nft_ct",
];
/// Where a module's dependencies stand, in its section `.modinfo`.
const DEPENDS: &[u8] = b"\0depends=";

/// A kernel and its modules, in one folder.
pub(crate) struct Kernel {
    folder: PathBuf,
}

impl Kernel {
    /// Fetches it once and keeps it below `target`.
    ///
    /// # Errors
    /// With what to do where it cannot be fetched.
    pub(crate) fn fetch(target: &Path) -> Result<Self, Failure> {
        let kept = target.join("emulation/kernel");
        let is_whole = |folder: &Path| WANTED.iter().all(|name| file(folder, name).exists());
        if is_whole(&kept) {
            return Ok(Self { folder: kept });
        }
        if !Path::new("/usr/bin/apt-get").exists() {
            return Err(Failure(format!(
                "there is no apt-get to fetch a kernel: put `vmlinuz` and {}, with the modules they depend on, of \
                 Debian's {PACKAGE} into {}",
                WANTED.map(|module| format!("{module}.ko")).join(", "),
                kept.display()
            )));
        }
        let fetched = target.join(format!("emulation/kernel.{}", std::process::id()));
        fs::create_dir_all(&fetched).map_err(Failure::at(&fetched))?;
        let outcome = fetch(&fetched).and_then(|()| {
            if kept.exists() {
                // One of before, which has not all that is wanted now.
                fs::remove_dir_all(&kept).map_err(Failure::at(&kept))?;
            }
            match fs::rename(&fetched, &kept) {
                // Another run was faster.
                Err(_) if is_whole(&kept) => Ok(()),
                outcome => outcome.map_err(Failure::at(&kept)),
            }
        });
        if fetched.exists() {
            fs::remove_dir_all(&fetched).map_err(Failure::at(&fetched))?;
        }
        outcome.map(|()| Self { folder: kept })
    }

    /// The kernel itself.
    pub(crate) fn image(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// Modules with what they depend on, in the order in which they are to be loaded.
    pub(crate) fn modules(&self, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        let read = |name: &str| {
            let path = file(&self.folder, name);
            fs::read(&path).map_err(Failure::at(&path))
        };
        let mut loaded: Vec<(String, Vec<u8>)> = Vec::new();
        wanted.iter().try_for_each(|name| load(name, &read, &mut loaded))?;
        Ok(loaded)
    }
}

fn file(folder: &Path, module: &str) -> PathBuf {
    folder.join(module).with_extension("ko")
}

/// Dependencies first; one that is there already is not loaded again.
fn load(
    name: &str,
    read: &impl Fn(&str) -> Result<Vec<u8>, Failure>,
    loaded: &mut Vec<(String, Vec<u8>)>,
) -> Result<(), Failure> {
    if loaded.iter().any(|(known, _)| known == name) {
        return Ok(());
    }
    let content = read(name)?;
    depends(&content).iter().try_for_each(|needed| load(needed, read, loaded))?;
    loaded.push((name.to_owned(), content));
    Ok(())
}

/// The modules that a module depends on.
fn depends(content: &[u8]) -> Vec<String> {
    let Some(start) = content.windows(DEPENDS.len()).position(|window| window == DEPENDS) else { return Vec::new() };
    let rest = &content[start + DEPENDS.len()..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let text = String::from_utf8_lossy(&rest[..end]).into_owned();
    text.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

/// Fetches and unpacks the package, and leaves in `folder` what is used of it.
fn fetch(folder: &Path) -> Result<(), Failure> {
    let mut package = package()?;
    if package.is_none() && geteuid().is_root() {
        output(Command::new("apt-get").args(["update", "--quiet"]))?;
        package = self::package()?;
    }
    let package = package
        .ok_or_else(|| Failure(format!("apt knows no {PACKAGE}; as root, on Debian for amd64: apt-get update")))?;
    println!("fetching the kernel {package} (about 27 MB, once)");
    // As root apt would fetch as a user who may not write here.
    output(Command::new("apt-get").args(["-o", "APT::Sandbox::User=root", "download", &package]).current_dir(folder))?;
    let archive = entries(folder)?.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "deb"));
    let archive = archive.ok_or_else(|| Failure(format!("apt-get download {package} has left no file")))?;
    let unpacked = folder.join("unpacked");
    output(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&unpacked))?;
    let is_kernel =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"));
    let image = entries(&unpacked.join("boot"))?.into_iter().find(is_kernel);
    let image = image.ok_or_else(|| Failure(format!("{package} has no kernel in it")))?;
    let mut modules = BTreeMap::new();
    find_modules(&unpacked.join("lib/modules"), &mut modules)?;
    let read = |name: &str| {
        let path = modules.get(name).ok_or_else(|| Failure(format!("{package} has no module {name}")))?;
        fs::read(path).map_err(Failure::at(path))
    };
    let mut wanted = Vec::new();
    WANTED.iter().try_for_each(|name| load(name, &read, &mut wanted))?;
    for (name, content) in wanted {
        let path = file(folder, &name);
        fs::write(&path, content).map_err(Failure::at(&path))?;
    }
    fs::rename(&image, folder.join("vmlinuz")).map_err(Failure::at(&image))?;
    fs::remove_dir_all(&unpacked).map_err(Failure::at(&unpacked))?;
    fs::remove_file(&archive).map_err(Failure::at(&archive))
}

/// All modules below a folder, by the names that modules are asked for by.
fn find_modules(folder: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<(), Failure> {
    for path in entries(folder)? {
        if path.is_dir() {
            find_modules(&path, found)?;
        } else if path.extension().is_some_and(|kind| kind == "ko")
            && let Some(name) = path.file_stem()
        {
            found.insert(name.to_string_lossy().replace('-', "_"), path);
        }
    }
    Ok(())
}

/// The newest kernel's package, if apt knows one.
fn package() -> Result<Option<String>, Failure> {
    let depends = Command::new("apt-cache").args(["depends", PACKAGE]).output();
    let depends = depends.map_err(|error| Failure(format!("apt-cache cannot be started: {error}")))?;
    let text = String::from_utf8_lossy(&depends.stdout).into_owned();
    Ok(text.lines().find_map(|line| line.trim().strip_prefix("Depends: ").map(ToOwned::to_owned)))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let listed =
        fs::read_dir(folder).and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect());
    listed.map_err(Failure::at(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_behind_what_they_need() {
        let content = |name: &str| match name {
            "bridge" => b"x\0depends=stp,llc\0y".to_vec(),
            "stp" => b"\0depends=llc\0".to_vec(),
            _ => b"\0depends=\0".to_vec(),
        };
        let mut loaded = Vec::new();
        load("bridge", &|name: &str| Ok(content(name)), &mut loaded).unwrap();
        let names: Vec<&str> = loaded.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["llc", "stp", "bridge"]);
        assert!(depends(b"no modinfo").is_empty());
    }
}
