//! What the writer's system calls mean: descriptors and paths resolved, each call turned into its effect on the disk.
//!
//! Everything that could change a file below the root and is not known here ends the test: a call that was ignored
//! would make every state after it wrong, and the test blind.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::disk::{Disk, Effect, Entry, Inode, NameChange, ROOT};
use super::trace::Call;

/// Calls that strace does not show: they change nothing on a disk, and no descriptor or its position.
pub(crate) const UNTRACED: &str = "futex,mprotect,munmap,brk,madvise,pread64,preadv,preadv2,stat,lstat,fstat,statx,\
     newfstatat,getdents64,sched_yield,sched_getaffinity,sched_setaffinity,clock_gettime,clock_nanosleep,nanosleep,\
     rt_sigaction,rt_sigprocmask,sigaltstack,rseq,set_robust_list,getrandom,poll,gettid,getpid,prlimit64";

/// Calls that may name a file below the root and change nothing that outlives the process.
const HARMLESS: [&str; 13] = [
    "access",
    "faccessat",
    "faccessat2",
    "readlink",
    "readlinkat",
    "statfs",
    "fstatfs",
    "flock",
    "fadvise64",
    "readahead",
    "sync_file_range",
    "getcwd",
    "execve",
];

/// Calls that change files where nobody sees which.
const UNSEEN: [&str; 8] =
    ["io_uring_setup", "io_submit", "fork", "vfork", "chroot", "pivot_root", "mount", "open_by_handle_at"];

/// An open file description.
#[derive(Debug, Clone)]
struct Description {
    inode: Inode,
    position: u64,
    append: bool,
    writable: bool,
}

/// What there is to be noted when a call has ended.
#[derive(Debug)]
enum Note {
    Nothing,
    Opens(Description),
    Moves(usize),
    Seeks(usize),
    Duplicates(usize),
}

/// A call that has begun.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) effect: Option<Effect>,
    note: Note,
}

/// One life of the writer, as its kernel sees it.
pub(crate) struct Kernel {
    root: PathBuf,
    /// The root's path as strace shows it.
    shown: String,
    descriptors: HashMap<i64, usize>,
    descriptions: Vec<Description>,
}

impl Kernel {
    pub(crate) fn new(root: &Path) -> Self {
        let shown = root.as_os_str().as_bytes().iter().map(|byte| format!("\\x{byte:02x}")).collect();
        Self { root: root.to_owned(), shown, descriptors: HashMap::new(), descriptions: Vec::new() }
    }

    /// A call begins: what it does to the disk. New files and directories get the number `next`.
    pub(crate) fn begin(&mut self, disk: &mut Disk, next: &mut Inode, call: &Call) -> Begun {
        let known = self.known(disk, next, call);
        let (effect, note) = known.unwrap_or_else(|| {
            let unseen = UNSEEN.contains(&call.name.as_str());
            assert!(!unseen && !self.is_about_us(call), "a call whose effect is not known here: {}", call.brief());
            (None, Note::Nothing)
        });
        Begun { effect, note }
    }

    /// A call has ended well.
    pub(crate) fn end(&mut self, call: &Call, begun: Begun) {
        let result = call.result.expect("it has ended");
        let known = match begun.note {
            Note::Nothing => return,
            Note::Moves(description) => {
                self.descriptions[description].position += result as u64;
                return;
            }
            Note::Seeks(description) => {
                self.descriptions[description].position = result as u64;
                return;
            }
            Note::Opens(description) => {
                self.descriptions.push(description);
                self.descriptions.len() - 1
            }
            Note::Duplicates(description) => description,
        };
        self.descriptors.insert(result, known);
    }

    /// What a call does; None for one that is not known.
    fn known(&mut self, disk: &mut Disk, next: &mut Inode, call: &Call) -> Option<(Option<Effect>, Note)> {
        let name = call.name.as_str();
        let nothing = Some((None, Note::Nothing));
        let effect = |effect| Some((Some(effect), Note::Nothing));
        let change = |name| effect(Effect::Name(name));
        match name {
            "open" => return Some(self.open(disk, next, call, self.at(call, None, 0), call.arg(1))),
            "creat" => return Some(self.open(disk, next, call, self.at(call, None, 0), "O_CREAT|O_WRONLY|O_TRUNC")),
            "openat" => return Some(self.open(disk, next, call, self.at(call, Some(0), 1), call.arg(2))),
            "mkdir" | "mkdirat" => {
                let path = if name == "mkdir" { self.at(call, None, 0) } else { self.at(call, Some(0), 1) };
                let at = entry(disk, &path?);
                *next += 1;
                return change(NameChange::Put { at, inode: *next });
            }
            "unlink" | "rmdir" => return change(NameChange::Remove { at: entry(disk, &self.at(call, None, 0)?) }),
            "unlinkat" => return change(NameChange::Remove { at: entry(disk, &self.at(call, Some(0), 1)?) }),
            "link" | "linkat" => {
                let (from, to) = self.two(call, name == "linkat")?;
                assert!(call.args.get(4).is_none_or(|flags| flags == "0"), "{}", call.brief());
                return change(NameChange::Put { at: entry(disk, &to), inode: inode(disk, &from) });
            }
            "rename" | "renameat" | "renameat2" => {
                let (from, to) = self.two(call, name != "rename")?;
                let (from, to) = (entry(disk, &from), entry(disk, &to));
                let same = disk.names.live.get(&from) == disk.names.live.get(&to);
                return match call.args.get(4).map_or("0", String::as_str) {
                    _ if same => nothing,
                    "0" | "RENAME_NOREPLACE" => change(NameChange::Rename { from, to }),
                    "RENAME_EXCHANGE" => change(NameChange::Exchange { one: from, other: to }),
                    _ => None,
                };
            }
            "truncate" => {
                let file = inode(disk, &self.at(call, None, 0)?);
                return effect(Effect::Resize { file, size: call.unsigned(1) });
            }
            "sync" => return effect(Effect::SyncAll),
            "clone" | "clone3" if call.args.iter().any(|arg| arg.contains("CLONE_FILES")) => return nothing,
            "clone" | "clone3" => panic!("the writer starts a process: {}", call.brief()),
            name if HARMLESS.contains(&name) => return nothing,
            _ => {}
        }
        self.on_descriptor(disk, call)
    }

    /// What a call on a descriptor does.
    fn on_descriptor(&mut self, disk: &Disk, call: &Call) -> Option<(Option<Effect>, Note)> {
        let number = match call.name.as_str() {
            "mmap" if call.args.len() == 6 => call.number(4),
            "copy_file_range" | "sendfile" | "splice" | "mmap" => return None,
            name if name.starts_with("io_") => return None,
            _ => call.args.first()?.split('<').next().and_then(|text| {
                let hex = text.strip_prefix("0x").map(|hex| i64::from_str_radix(hex, 16));
                hex.unwrap_or_else(|| text.parse()).ok()
            })?,
        };
        let description = *self.descriptors.get(&number)?;
        let Description { inode, position, append, writable } = self.descriptions[description].clone();
        let nothing = Some((None, Note::Nothing));
        let effect = |effect| Some((Some(effect), Note::Nothing));
        let size = || disk.files.get(&inode).map_or(0, |file| file.live.size);
        let write = |offset: u64, mut data: Vec<u8>, note| {
            if let Some(result) = call.result {
                data.truncate(result as usize);
            }
            let offset = if append { size() } else { offset };
            let effect = Effect::Write { file: inode, offset, data: data.into() };
            Some((Some(effect).filter(|_| call.result != Some(0)), note))
        };
        match call.name.as_str() {
            "write" | "writev" => {
                let data = if call.name == "write" { call.string(1) } else { call.buffers(1) };
                let begin = if append { size() } else { position };
                self.descriptions[description].position = begin;
                write(begin, data, Note::Moves(description))
            }
            "pwrite64" => write(call.unsigned(3), call.string(1), Note::Nothing),
            "pwritev" => write(call.unsigned(3), call.buffers(1), Note::Nothing),
            "pwritev2" if call.arg(4) == "0" => write(call.unsigned(3), call.buffers(1), Note::Nothing),
            "ftruncate" => effect(Effect::Resize { file: inode, size: call.unsigned(1) }),
            "fallocate" => {
                let (from, to) = (call.unsigned(2), call.unsigned(2) + call.unsigned(3));
                let mut flags: Vec<_> = call.arg(1).split('|').collect();
                flags.sort_unstable();
                let (range, grown) = (from..to, size().max(to));
                match flags[..] {
                    ["0"] => effect(Effect::Resize { file: inode, size: grown }),
                    ["FALLOC_FL_KEEP_SIZE"] => nothing,
                    ["FALLOC_FL_KEEP_SIZE", "FALLOC_FL_PUNCH_HOLE" | "FALLOC_FL_ZERO_RANGE"] => {
                        effect(Effect::Zero { file: inode, range, size: size() })
                    }
                    ["FALLOC_FL_ZERO_RANGE"] => effect(Effect::Zero { file: inode, range, size: grown }),
                    _ => None,
                }
            }
            "fsync" | "fdatasync" => effect(Effect::Sync(inode)),
            "syncfs" => effect(Effect::SyncAll),
            "read" | "readv" => Some((None, Note::Moves(description))),
            "lseek" => Some((None, Note::Seeks(description))),
            "close" => {
                // From now on another thread may get the number.
                self.descriptors.remove(&number);
                nothing
            }
            "dup" | "dup2" | "dup3" => Some((None, Note::Duplicates(description))),
            "fcntl" if call.arg(1).starts_with("F_DUPFD") => Some((None, Note::Duplicates(description))),
            "fcntl" if !call.arg(1).starts_with("F_SETFL") => nothing,
            "mmap" if !call.arg(3).contains("MAP_SHARED") || !writable => nothing,
            _ => None,
        }
    }

    fn open(
        &self,
        disk: &mut Disk,
        next: &mut Inode,
        call: &Call,
        path: Option<Vec<String>>,
        flags: &str,
    ) -> (Option<Effect>, Note) {
        let Some(path) = path else { return (None, Note::Nothing) };
        let flags: Vec<_> = flags.split('|').collect();
        let has = |flag| flags.contains(&flag);
        let unknown = ["O_SYNC", "O_DSYNC", "O_TMPFILE", "O_PATH"].into_iter().find(|flag| has(flag));
        assert!(unknown.is_none(), "an open whose meaning is not known here: {}", call.brief());
        let there = lookup(disk, &path);
        let (inode, effect) = match there {
            Some(inode) if has("O_TRUNC") => (inode, Some(Effect::Resize { file: inode, size: 0 })),
            Some(inode) => (inode, None),
            // The kernel would have refused, had it come to that.
            None if call.result.is_none() && !has("O_CREAT") => return (None, Note::Nothing),
            None => {
                assert!(has("O_CREAT"), "it opens what is not there: {}", call.brief());
                *next += 1;
                disk.add_file(*next);
                (*next, Some(Effect::Name(NameChange::Put { at: entry(disk, &path), inode: *next })))
            }
        };
        let writable = has("O_RDWR") || has("O_WRONLY");
        let description = Description { inode, position: 0, append: has("O_APPEND"), writable };
        (effect, Note::Opens(description))
    }

    /// Whether a call names anything below the root, or a descriptor of it.
    fn is_about_us(&self, call: &Call) -> bool {
        call.args.iter().any(|arg| arg.contains(&self.shown))
    }

    /// The path in an argument, by its parts below the root; None if it is elsewhere.
    fn at(&self, call: &Call, dir: Option<usize>, arg: usize) -> Option<Vec<String>> {
        let mut path = PathBuf::new();
        let given = PathBuf::from(std::ffi::OsStr::from_bytes(&call.string(arg)));
        if given.is_relative() {
            let dir =
                dir.and_then(|dir| call.annotation(dir)).unwrap_or_else(|| panic!("from where: {}", call.brief()));
            path.push(std::ffi::OsStr::from_bytes(&dir));
        }
        path.push(given);
        let below = path.strip_prefix(&self.root).ok()?;
        let part = |part: Component<'_>| match part {
            Component::Normal(name) => name.to_str().expect("names are text").to_owned(),
            _ => panic!("a path that goes back: {}", call.brief()),
        };
        Some(below.components().map(part).collect())
    }

    fn two(&self, call: &Call, with_dirs: bool) -> Option<(Vec<String>, Vec<String>)> {
        let (from, to) = match with_dirs {
            true => (self.at(call, Some(0), 1), self.at(call, Some(2), 3)),
            false => (self.at(call, None, 0), self.at(call, None, 1)),
        };
        assert_eq!(from.is_some(), to.is_some(), "in or out: {}", call.brief());
        from.zip(to)
    }
}

fn lookup(disk: &Disk, path: &[String]) -> Option<Inode> {
    path.iter().try_fold(ROOT, |dir, name| disk.names.live.get(&(dir, name.clone())).copied())
}

fn inode(disk: &Disk, path: &[String]) -> Inode {
    lookup(disk, path).unwrap_or_else(|| panic!("{path:?} is not there"))
}

fn entry(disk: &Disk, path: &[String]) -> Entry {
    let (name, dir) = path.split_last().expect("the root itself is never changed");
    (inode(disk, dir), name.clone())
}
