//! What runs in the machine: Debian's kernel, unpacked and not installed, and an initramfs of busybox, the writer
//! (store/examples/traffic.rs) and the few modules that a disk needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::geteuid;
use serde_json::Value;
use tests::binaries;

use super::Trouble;
use super::cpio::Archive;

/// It depends on the newest kernel for virtual machines.
const KERNEL: &str = "linux-image-cloud-amd64";
/// In the order in which they are loaded.
const MODULES: [&str; 6] =
    ["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"];
const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];
const INIT: &str = include_str!("init.sh");

/// What qemu is given.
pub(super) struct Guest {
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
}

impl Guest {
    /// Builds the writer and packs the initramfs into `folder`; the kernel is fetched once and kept in `target`.
    pub(super) fn make(target: &Path, folder: &Path) -> Result<Self, Trouble> {
        let kernel = kernel(target)?;
        let writer = build_writer(target)?;
        let mut archive = Archive::default();
        ["/dev", "/proc", "/disk"].iter().for_each(|path| archive.directory(Path::new(path)));
        archive.device(Path::new("/dev/console"), (5, 1));
        archive.program(Path::new("/init"), INIT.as_bytes());
        let busybox = BUSYBOX.iter().map(Path::new).find(|path| path.exists());
        let busybox = busybox.ok_or_else(|| Trouble::Bench("busybox (Debian: busybox-static) is missing".into()))?;
        for (program, name) in [(busybox, "/busybox"), (&writer, "/traffic")] {
            archive.program(Path::new(name), &read(program)?);
        }
        for library in libraries(&[busybox, &writer])? {
            archive.program(&library, &read(&library)?);
        }
        for (place, module) in MODULES.iter().enumerate() {
            let content = read(&kernel.join(module).with_extension("ko"))?;
            archive.program(Path::new(&format!("/modules/{place}-{module}.ko")), &content);
        }
        let initramfs = folder.join("initramfs");
        fs::write(&initramfs, archive.finish()).map_err(Trouble::at(&initramfs))?;
        Ok(Self { kernel: kernel.join("vmlinuz"), initramfs })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Trouble> {
    fs::read(path).map_err(Trouble::at(path))
}

/// The folder of `vmlinuz` and the modules.
fn kernel(target: &Path) -> Result<PathBuf, Trouble> {
    let kept = target.join("power-cuts/kernel");
    if kept.exists() {
        return Ok(kept);
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err(Trouble::Bench(format!(
            "there is no apt-get to fetch a kernel: put `vmlinuz` and {} of Debian's {KERNEL} into {}",
            MODULES.map(|module| format!("{module}.ko")).join(", "),
            kept.display()
        )));
    }
    let fetched = target.join(format!("power-cuts/kernel.{}", std::process::id()));
    fs::create_dir_all(&fetched).map_err(Trouble::at(&fetched))?;
    let outcome = fetch_kernel(&fetched).and_then(|()| match fs::rename(&fetched, &kept) {
        // Another run was faster.
        Err(_) if kept.exists() => Ok(()),
        outcome => outcome.map_err(Trouble::at(&kept)),
    });
    if fetched.exists() {
        fs::remove_dir_all(&fetched).map_err(Trouble::at(&fetched))?;
    }
    outcome.map(|()| kept)
}

/// Fetches and unpacks it, and leaves in `folder` what is used of it.
fn fetch_kernel(folder: &Path) -> Result<(), Trouble> {
    let mut package = kernel_package()?;
    if package.is_none() && geteuid().is_root() {
        output(Command::new("apt-get").args(["update", "--quiet"]))?;
        package = kernel_package()?;
    }
    let package = package.ok_or_else(|| {
        Trouble::Bench(format!("apt knows no {KERNEL}; as root, on Debian for amd64: apt-get update"))
    })?;
    println!("fetching the kernel {package} (about 27 MB, once)");
    // As root apt would fetch as a user who may not write here.
    output(Command::new("apt-get").args(["-o", "APT::Sandbox::User=root", "download", &package]).current_dir(folder))?;
    let archive = entries(folder)?.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "deb"));
    let archive = archive.ok_or_else(|| Trouble::Bench(format!("apt-get download {package} has left no file")))?;
    let unpacked = folder.join("unpacked");
    output(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&unpacked))?;
    let mut wanted = vec![(PathBuf::from("vmlinuz"), PathBuf::from("vmlinuz"))];
    for boot in entries(&unpacked.join("boot"))? {
        if boot.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")) {
            wanted[0].0 = boot;
        }
    }
    for release in entries(&unpacked.join("lib/modules"))? {
        let drivers = release.join("kernel/drivers");
        for module in MODULES {
            let file = PathBuf::from(module).with_extension("ko");
            let home = if module == "virtio_blk" { "block" } else { "virtio" };
            wanted.push((drivers.join(home).join(&file), file));
        }
    }
    for (from, to) in wanted {
        fs::rename(&from, folder.join(to)).map_err(Trouble::at(&from))?;
    }
    fs::remove_dir_all(&unpacked).map_err(Trouble::at(&unpacked))?;
    fs::remove_file(&archive).map_err(Trouble::at(&archive))
}

/// The newest kernel's package, if apt knows one.
fn kernel_package() -> Result<Option<String>, Trouble> {
    let depends = Command::new("apt-cache").args(["depends", KERNEL]).output();
    let depends = depends.map_err(|error| Trouble::Bench(format!("apt-cache cannot be started: {error}")))?;
    let text = String::from_utf8_lossy(&depends.stdout).into_owned();
    Ok(text.lines().find_map(|line| line.trim().strip_prefix("Depends: ").map(ToOwned::to_owned)))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Trouble> {
    let listed =
        fs::read_dir(folder).and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect());
    listed.map_err(Trouble::at(folder))
}

/// Where cargo has put the fresh writer.
fn build_writer(target: &Path) -> Result<PathBuf, Trouble> {
    let mut build = Command::new(binaries::cargo());
    build
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args(["build", "--quiet", "--package", "store", "--example", "traffic", "--message-format", "json"])
        .arg("--target-dir")
        .arg(target);
    let messages = output(&mut build)?;
    let program = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "traffic").then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    });
    program.ok_or_else(|| Trouble::Bench("cargo names no program for the example `traffic` of `store`".into()))
}

/// The shared libraries of programs, with the loader; a static program has none.
fn libraries(programs: &[&Path]) -> Result<Vec<PathBuf>, Trouble> {
    let mut libraries = Vec::new();
    for program in programs {
        let listed = Command::new("ldd").arg(program).output();
        let listed = listed.map_err(|error| Trouble::Bench(format!("ldd cannot be started: {error}")))?;
        for line in String::from_utf8_lossy(&listed.stdout).lines() {
            // `libc.so.6 => /lib/libc.so.6 (0x0)`, `/lib64/ld.so (0x0)`, `linux-vdso.so.1 (0x0)`.
            let path = line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
            libraries.extend(path.filter(|path| !libraries.contains(path)));
        }
    }
    Ok(libraries)
}

/// What a command that must succeed says on standard output.
pub(super) fn output(command: &mut Command) -> Result<String, Trouble> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| Trouble::Bench(format!("{program} cannot be started: {error}")))?;
    if !output.status.success() {
        return Err(Trouble::Bench(format!("{program} failed ({}); what it said stands above", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
