//! An initramfs: a cpio archive in the "newc" format (the kernel's Documentation/driver-api/early-userspace/
//! buffer-format.rst), with nodes that only root could make as files.

use std::collections::BTreeSet;
use std::path::Path;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive that grows.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// A folder and those it is in; `path` is absolute.
    pub(crate) fn directory(&mut self, path: &Path) {
        let mut folders: Vec<_> = path.ancestors().filter(|folder| folder.parent().is_some()).collect();
        folders.reverse();
        for folder in folders {
            let name = name(folder);
            if self.directories.insert(name.clone()) {
                self.entry(&name, DIRECTORY, (0, 0), &[]);
            }
        }
    }

    /// A file that may be executed, with the folders it is in.
    pub(crate) fn program(&mut self, path: &Path, content: &[u8]) {
        self.parent(path);
        self.entry(&name(path), PROGRAM, (0, 0), content);
    }

    /// A character device by its major and minor number.
    pub(crate) fn device(&mut self, path: &Path, numbers: (u32, u32)) {
        self.parent(path);
        self.entry(&name(path), CHARACTER_DEVICE, numbers, &[]);
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn parent(&mut self, path: &Path) {
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let (links, unused) = (1, 0);
        let fields = [
            self.entries,
            mode,
            unused,
            unused,
            links,
            unused,
            content.len() as u32,
            unused,
            unused,
            device.0,
            device.1,
            name.len() as u32 + 1,
            unused,
        ];
        self.bytes.extend(b"070701");
        fields.iter().for_each(|field| self.bytes.extend(format!("{field:08x}").into_bytes()));
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

fn name(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stand_behind_their_folders() {
        let mut archive = Archive::default();
        archive.program(Path::new("/a/b/c"), b"text");
        archive.program(Path::new("/a/d"), b"");
        archive.device(Path::new("/dev/console"), (5, 1));
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        let names: Vec<_> =
            text.split("070701").skip(1).map(|entry| entry[104..].split('\0').next().unwrap()).collect();
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/d", "dev", "dev/console", "TRAILER!!!"]);
        // Mode and size of the third.
        assert!(text.contains("00000003000081ed"));
        assert!(text.contains("\0text"));
    }
}
