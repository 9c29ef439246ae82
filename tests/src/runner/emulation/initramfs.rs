//! All that runs in a machine: busybox, an init script, programs with their libraries, and modules to be loaded.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cpio::Archive;
use super::{Failure, Kernel};

const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// An initramfs that grows.
pub(crate) struct Initramfs {
    archive: Archive,
    libraries: Vec<PathBuf>,
}

impl Initramfs {
    /// One with busybox as `/busybox`, a console, and `init` to be run.
    pub(crate) fn new(init: &str) -> Result<Self, Failure> {
        let mut archive = Archive::default();
        ["/dev", "/proc"].iter().for_each(|path| archive.directory(Path::new(path)));
        archive.device(Path::new("/dev/console"), (5, 1));
        archive.program(Path::new("/init"), init.as_bytes());
        let busybox = BUSYBOX.iter().map(Path::new).find(|path| path.exists());
        let busybox = busybox.ok_or_else(|| Failure("busybox (Debian: busybox-static) is missing".into()))?;
        let mut made = Self { archive, libraries: Vec::new() };
        made.program(busybox, "/busybox")?;
        Ok(made)
    }

    /// An empty folder.
    pub(crate) fn directory(&mut self, path: &str) {
        self.archive.directory(Path::new(path));
    }

    /// A program of this machine, with the shared libraries that it needs.
    pub(crate) fn program(&mut self, program: &Path, path: &str) -> Result<(), Failure> {
        self.archive.program(Path::new(path), &read(program)?);
        for library in libraries(program)? {
            if !self.libraries.contains(&library) {
                self.archive.program(&library, &read(&library)?);
                self.libraries.push(library);
            }
        }
        Ok(())
    }

    /// Modules with what they depend on, as `/modules/NUMBER-NAME.ko` in the order in which init is to load them.
    pub(crate) fn modules(&mut self, kernel: &Kernel, wanted: &[&str]) -> Result<(), Failure> {
        for (place, (name, content)) in kernel.modules(wanted)?.into_iter().enumerate() {
            self.archive.program(Path::new(&format!("/modules/{place:02}-{name}.ko")), &content);
        }
        Ok(())
    }

    /// Writes it; its size in bytes.
    pub(crate) fn write(self, path: &Path) -> Result<usize, Failure> {
        let bytes = self.archive.finish();
        fs::write(path, &bytes).map_err(Failure::at(path))?;
        Ok(bytes.len())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(Failure::at(path))
}

/// The shared libraries of a program, with the loader; a static program has none.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, Failure> {
    let listed = Command::new("ldd").arg(program).output();
    let listed = listed.map_err(|error| Failure(format!("ldd cannot be started: {error}")))?;
    // `libc.so.6 => /lib/libc.so.6 (0x0)`, `/lib64/ld.so (0x0)`, `linux-vdso.so.1 (0x0)`.
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(String::from_utf8_lossy(&listed.stdout).lines().filter_map(path).collect())
}
