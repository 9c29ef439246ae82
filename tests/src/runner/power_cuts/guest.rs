//! What runs in the machine: the writer (store/examples/traffic.rs) and the few modules that a disk needs.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::binaries;

use super::Trouble;
use crate::emulation::{Initramfs, Kernel, output};

const MODULES: [&str; 2] = ["virtio_pci", "virtio_blk"];
const INIT: &str = include_str!("init.sh");

/// What qemu is given.
pub(super) struct Guest {
    pub(super) kernel: Kernel,
    pub(super) initramfs: PathBuf,
}

impl Guest {
    /// Builds the writer and packs the initramfs into `folder`; the kernel is fetched once and kept in `target`.
    pub(super) fn make(target: &Path, folder: &Path) -> Result<Self, Trouble> {
        let kernel = Kernel::fetch(target)?;
        let mut initramfs = Initramfs::new(INIT)?;
        initramfs.directory("/disk");
        initramfs.program(&build_writer(target)?, "/traffic")?;
        initramfs.modules(&kernel, &MODULES)?;
        let path = folder.join("initramfs");
        initramfs.write(&path)?;
        Ok(Self { kernel, initramfs: path })
    }
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
