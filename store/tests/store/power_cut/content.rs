//! What a file holds, in pages, and what a whole directory holds; cheap to copy, hashed once for each page.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The unit in which the kernel writes back, in bytes.
pub(crate) const PAGE: usize = 4096;

/// One page; a file's last one is zero behind the file's end.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) bytes: Box<[u8]>,
    hash: u64,
}

impl Page {
    pub(crate) fn new(bytes: Box<[u8]>) -> Arc<Self> {
        assert_eq!(bytes.len(), PAGE);
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        Arc::new(Self { hash: hasher.finish(), bytes })
    }

    pub(crate) fn zero() -> Arc<Self> {
        Self::new(vec![0; PAGE].into())
    }

    fn is_zero(&self) -> bool {
        self.bytes.iter().all(|byte| *byte == 0)
    }
}

/// A file's content; pages that lack are zero.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    /// In bytes.
    pub(crate) size: u64,
    pages: BTreeMap<u64, Arc<Page>>,
}

impl Content {
    /// The page, if it is not zero.
    pub(crate) fn page(&self, number: u64) -> Option<&Arc<Page>> {
        self.pages.get(&number)
    }

    /// The page's bytes, to be changed.
    pub(crate) fn bytes(&self, number: u64) -> Box<[u8]> {
        self.pages.get(&number).map_or_else(|| vec![0; PAGE].into(), |page| page.bytes.clone())
    }

    /// The numbers of the pages that are not zero, from `first` on.
    pub(crate) fn pages_from(&self, first: u64) -> Vec<u64> {
        self.pages.range(first..).map(|(number, _)| *number).collect()
    }

    pub(crate) fn put(&mut self, number: u64, page: Arc<Page>) {
        if page.is_zero() {
            self.pages.remove(&number);
        } else {
            self.pages.insert(number, page);
        }
    }

    /// Takes away what is behind the end.
    pub(crate) fn cut(&mut self) {
        self.pages.split_off(&self.size.div_ceil(PAGE as u64));
        let (last, end) = (self.size / PAGE as u64, (self.size % PAGE as u64) as usize);
        if self.pages.get(&last).is_some_and(|page| page.bytes[end..].iter().any(|byte| *byte != 0)) {
            let mut bytes = self.bytes(last);
            bytes[end..].fill(0);
            self.put(last, Page::new(bytes));
        }
    }

    /// All of it.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut bytes: Vec<_> = (0..self.size.div_ceil(PAGE as u64)).flat_map(|number| self.bytes(number)).collect();
        bytes.truncate(self.size as usize);
        bytes
    }

    fn of(bytes: &[u8]) -> Self {
        let mut content = Self { size: bytes.len() as u64, ..Self::default() };
        for (number, chunk) in bytes.chunks(PAGE).enumerate() {
            let mut page = vec![0; PAGE];
            page[..chunk.len()].copy_from_slice(chunk);
            content.put(number as u64, Page::new(page.into()));
        }
        content
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.size)?;
        for (number, page) in &self.pages {
            let at = number * PAGE as u64;
            let end = (self.size - at).min(PAGE as u64) as usize;
            file.write_all_at(&page.bytes[..end], at)?;
        }
        Ok(())
    }
}

impl Hash for Content {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.size.hash(hasher);
        self.pages.iter().for_each(|(number, page)| (number, page.hash).hash(hasher));
    }
}

/// What stands at a name.
#[derive(Debug, Clone, Hash)]
pub(crate) enum Node {
    Dir,
    File(Content),
}

/// A whole directory, by path below it.
#[derive(Debug, Clone, Default, Hash)]
pub(crate) struct Image(pub(crate) BTreeMap<PathBuf, Node>);

impl Image {
    /// Equal for equal images; the chance that two of 20,000 others share one is 1 in 10^11.
    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// Makes it real in an empty directory.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        // A directory stands before what is in it.
        self.0.iter().try_for_each(|(path, node)| match node {
            Node::Dir => fs::create_dir(dir.join(path)),
            Node::File(content) => content.write(&dir.join(path)),
        })
    }

    /// What really is in a directory.
    pub(crate) fn read(dir: &Path) -> io::Result<Self> {
        let mut image = Self::default();
        let mut below = vec![PathBuf::new()];
        while let Some(path) = below.pop() {
            for entry in fs::read_dir(dir.join(&path))? {
                let entry = entry?;
                let path = path.join(entry.file_name());
                let node = if entry.file_type()?.is_dir() {
                    below.push(path.clone());
                    Node::Dir
                } else {
                    Node::File(Content::of(&fs::read(entry.path())?))
                };
                image.0.insert(path, node);
            }
        }
        Ok(image)
    }

    /// Where two differ, for people.
    pub(crate) fn difference(&self, other: &Self) -> String {
        let digest = |node: Option<&Node>| {
            let mut hasher = DefaultHasher::new();
            node.hash(&mut hasher);
            hasher.finish()
        };
        let paths = self.0.keys().chain(other.0.keys()).collect::<std::collections::BTreeSet<_>>();
        let differing = paths.into_iter().filter(|path| digest(self.0.get(*path)) != digest(other.0.get(*path)));
        let size = |node: Option<&Node>| match node {
            None => "nothing".to_owned(),
            Some(Node::Dir) => "a directory".to_owned(),
            Some(Node::File(content)) => format!("a file of {} bytes", content.size),
        };
        differing
            .map(|path| format!("{}: {} / {}; ", path.display(), size(self.0.get(path)), size(other.0.get(path))))
            .collect()
    }
}
