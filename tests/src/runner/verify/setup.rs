//! What the tests need besides Rust: a few Debian packages, cargo-deny, and an API server. The power cuts fetch their
//! kernel themselves.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::geteuid;
use tests::binaries;

use super::api_server::ApiServer;

const CARGO_DENY: &str = "0.20.2";

/// A Debian package, and by which files it is known to be there, any of them.
struct Package {
    name: &'static str,
    what_for: &'static str,
    files: &'static [&'static str],
}

const PACKAGES: [Package; 8] = [
    Package {
        name: "iproute2",
        what_for: "ip, the independent witness of what stands in the kernel",
        files: &["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"],
    },
    Package {
        name: "util-linux",
        what_for: "setpriv, nsenter and unshare",
        files: &["/usr/bin/setpriv", "/bin/setpriv", "/usr/sbin/setpriv"],
    },
    Package {
        name: "containernetworking-plugins",
        what_for: "the reference macvlan, that ours is compared with",
        files: &["/usr/lib/cni/macvlan", "/opt/cni/bin/macvlan", "/usr/libexec/cni/macvlan"],
    },
    Package {
        name: "strace",
        what_for: "the record of a writer's system calls, of which power cuts are made",
        files: &["/usr/bin/strace", "/bin/strace"],
    },
    Package {
        name: "libfaketime",
        what_for: "clocks that jump",
        files: &[
            "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
            "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
        ],
    },
    Package {
        name: "qemu-system-x86",
        what_for: "the machines whose power is cut and that have more kinds of links",
        files: &["/usr/bin/qemu-system-x86_64"],
    },
    Package {
        name: "busybox-static",
        what_for: "what runs in them beside the programs under test",
        files: &["/bin/busybox", "/usr/bin/busybox"],
    },
    Package {
        name: "e2fsprogs",
        what_for: "mkfs.ext4, for its disk",
        files: &["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4", "/usr/bin/mkfs.ext4"],
    },
];

/// What the set-up made.
pub(super) struct Tools {
    /// cargo-deny.
    pub(super) deny: PathBuf,
    /// Perhaps still being built.
    pub(super) api_server: ApiServer,
}

/// Does the set-up.
///
/// # Errors
/// What to install, where that is not ours to do.
pub(super) fn set_up(target: &Path) -> Result<Tools, String> {
    println!("== set-up");
    let api_server = ApiServer::begin(target)?;
    let missing: Vec<&Package> =
        PACKAGES.iter().filter(|package| !package.files.iter().any(|file| Path::new(file).exists())).collect();
    if !missing.is_empty() {
        install(&missing)?;
    }
    Ok(Tools { deny: cargo_deny(target)?, api_server })
}

fn install(missing: &[&Package]) -> Result<(), String> {
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    if !can_install() {
        let reasons: Vec<String> =
            missing.iter().map(|package| format!("  {}: {}", package.name, package.what_for)).collect();
        return Err(format!(
            "these packages (by Debian's names) are missing:\n{}\ninstall them: sudo apt-get install {}",
            reasons.join("\n"),
            names.join(" ")
        ));
    }
    apt_install(&names)
}

/// Packages are ours to install.
pub(super) fn can_install() -> bool {
    Path::new("/usr/bin/apt-get").exists() && geteuid().is_root()
}

pub(super) fn apt_install(names: &[&str]) -> Result<(), String> {
    apt_get(&["update", "--quiet"])?;
    apt_get(&[["install", "--yes", "--quiet", "--no-install-recommends"].as_slice(), names].concat())
}

fn apt_get(arguments: &[&str]) -> Result<(), String> {
    let status = Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("apt-get {} failed: {status}", arguments.join(" "))),
        Err(error) => Err(format!("apt-get cannot be started: {error}")),
    }
}

/// The one that is installed, else one of our own in the target folder, built once.
fn cargo_deny(target: &Path) -> Result<PathBuf, String> {
    let tools = target.join("tools");
    let own = tools.join("bin/cargo-deny");
    if let Some(present) = [PathBuf::from("cargo-deny"), own.clone()].into_iter().find(|program| runs(program)) {
        return Ok(present);
    }
    println!("building cargo-deny {CARGO_DENY} into {} (once; a few minutes)", tools.display());
    let status = Command::new(binaries::cargo())
        .args(["install", "cargo-deny", "--locked", "--quiet", "--version", CARGO_DENY, "--root"])
        .arg(&tools)
        .env("CARGO_TARGET_DIR", tools.join("build"))
        // It runs for a second: what the optimiser would save is spent many times over in the optimiser.
        .envs([("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"), ("CARGO_PROFILE_RELEASE_LTO", "off")])
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .status();
    match status {
        Ok(status) if status.success() => Ok(own),
        Ok(status) => Err(format!("cargo install cargo-deny failed: {status}")),
        Err(error) => Err(format!("cargo cannot be started: {error}")),
    }
}

fn runs(program: &Path) -> bool {
    let asked = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

/// A copy of the advisory database from an earlier fetch.
pub(super) fn has_advisory_database() -> bool {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let copies = home.and_then(|home| std::fs::read_dir(home.join("advisory-dbs")).ok());
    let is_copy = |path: &Path| path.join(".git").exists();
    copies.is_some_and(|entries| entries.flatten().any(|entry| is_copy(&entry.path())))
}
