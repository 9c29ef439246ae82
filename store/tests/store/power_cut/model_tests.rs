//! The simulated disk itself: what may be there after a crash, and what must.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::content::{Node, PAGE};
use super::disk::Disk;
use super::random::Random;
use super::record::{self, Step};
use super::states::crash;

/// File by file, the content.
type State = BTreeMap<String, String>;

/// strace's log, but for the strings, which stand here as text.
fn log(text: &str) -> String {
    let hexadecimal = |text: &str| text.bytes().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    let parts = text.split('"').enumerate();
    let parts = parts.map(|(at, part)| if at % 2 == 1 { hexadecimal(part) } else { part.to_owned() });
    parts.collect::<Vec<_>>().join("\"").trim().lines().map(|line| format!("{}\n", line.trim())).collect()
}

/// Every state that chance finds after the last line.
fn states_with(text: &str, page_garbage: bool) -> BTreeSet<State> {
    let recording = record::read(Path::new("/r"), &log(text));
    let mut disk = Disk::default();
    recording.files.iter().for_each(|file| disk.add_file(*file));
    for step in &recording.steps {
        match step {
            Step::Begin(number) => disk.begin(*number, &recording.effects[*number]),
            Step::End(number) => disk.end(*number, &recording.effects[*number]),
            Step::Forget(_) | Step::Said { .. } | Step::Life => {}
        }
    }
    let mut random = Random::new(1);
    let mut states = BTreeSet::new();
    for _ in 0..3000 {
        let image = crash(&disk, &recording, page_garbage, &mut random).image;
        let shown = image.0.into_iter().map(|(path, node)| {
            let content = match node {
                Node::Dir => "/".to_owned(),
                Node::File(content) => content.to_vec().iter().map(|byte| char::from(*byte)).collect(),
            };
            (path.to_str().unwrap().to_owned(), content)
        });
        states.insert(shown.collect());
    }
    states
}

/// The states without garbage, which chance makes of anything.
fn states(text: &str) -> BTreeSet<State> {
    let mut states = states_with(text, false);
    let readable = |c: char| c == '\0' || c == '/' || c.is_ascii_alphanumeric();
    states.retain(|state| state.values().all(|content| content.chars().all(readable)));
    states
}

fn contents(states: &BTreeSet<State>, path: &str) -> BTreeSet<Option<String>> {
    states.iter().map(|state| state.get(path).cloned()).collect()
}

/// A file `a` that holds `old`, durable with its name.
const OLD: &str = r#"1 execve("/w", ["/w"], []) = 0
    1 openat(AT_FDCWD</>, "/r/a", O_RDWR|O_CREAT|O_CLOEXEC, 0666) = 3
    1 write(3, "old", 3) = 3
    1 fsync(3) = 0
    1 openat(AT_FDCWD</>, "/r", O_RDONLY|O_DIRECTORY) = 4
    1 fsync(4) = 0
    "#;

fn after_old(more: &str) -> BTreeSet<State> {
    states(&format!("{OLD}{more}"))
}

fn some(content: &str) -> Option<String> {
    Some(content.to_owned())
}

#[test]
fn what_is_synced_stays_and_what_is_not_may_go() {
    assert_eq!(contents(&after_old(""), "a"), [some("old")].into());
    let found = contents(&after_old(r#"1 pwrite64(3, "NEW", 3, 0) = 3"#), "a");
    assert!(
        found.contains(&some("old")) && found.contains(&some("NEW")) && found.contains(&some("N\0\0")),
        "{found:?}"
    );
    assert!(found.iter().all(|content| content.as_ref().is_some_and(|content| content.len() == 3)), "{found:?}");
    for sync in ["fsync(3)", "fdatasync(3)", "syncfs(4)", "sync()"] {
        let found = contents(&after_old(&format!("1 pwrite64(3, \"NEW\", 3, 0) = 3\n1 {sync} = 0")), "a");
        assert_eq!(found, [some("NEW")].into(), "{sync}");
    }
}

#[test]
fn no_sync_is_made_up() {
    for (sync, result) in [
        ("sync_file_range(3, 0, 3, SYNC_FILE_RANGE_WRITE)", "0"),
        ("fsync(3)", "-1 EIO (Input/output error)"),
        ("fsync(4)", "0"),
    ] {
        let found = contents(&after_old(&format!("1 pwrite64(3, \"NEW\", 3, 0) = 3\n1 {sync} = {result}")), "a");
        assert!(found.contains(&some("old")), "{sync}: {found:?}");
    }
    let found = contents(&after_old("1 pwrite64(3, \"NEW\", 3, 0) = 3\n1 fsync(3 <unfinished ...>"), "a");
    assert!(found.contains(&some("old")), "a sync counts at its end: {found:?}");
}

#[test]
fn a_sync_covers_what_ended_before_it_began() {
    let late = r#"1 pwrite64(3, "A", 1, 0) = 1
        2 pwrite64(3, "B", 1, 1 <unfinished ...>
        1 fdatasync(3 <unfinished ...>
        2 <... pwrite64 resumed>) = 1
        1 <... fdatasync resumed>) = 0"#;
    let found = contents(&after_old(late), "a");
    assert!(found.contains(&some("Ald")) && found.contains(&some("ABd")), "{found:?}");
    assert!(found.iter().all(|content| content.as_ref().unwrap().starts_with('A')), "{found:?}");
    // What is under way may be there already.
    let found = contents(&after_old("1 pwrite64(3, \"NEW\", 3, 0 <unfinished ...>"), "a");
    assert!(found.contains(&some("old")) && found.contains(&some("NEW")), "{found:?}");
}

#[test]
fn a_rename_may_outrun_the_content_and_be_lost() {
    let replace = r#"1 openat(AT_FDCWD</>, "/r/t", O_WRONLY|O_CREAT, 0666) = 5
        1 write(5, "NEW", 3) = 3
        1 rename("/r/t", "/r/a") = 0"#;
    let found = after_old(replace);
    let contents_of_a = contents(&found, "a");
    for content in [some("old"), some("NEW"), some(""), some("\0\0\0")] {
        assert!(contents_of_a.contains(&content), "{content:?} is not in {contents_of_a:?}");
    }
    assert!(found.iter().any(|state| state["a"] == "old" && state.contains_key("t")), "{found:?}");
    assert!(!contents_of_a.contains(&None));
    let found = after_old(&format!("{replace}\n1 fsync(5) = 0\n1 fsync(4) = 0"));
    assert_eq!(found, [State::from([("a".to_owned(), "NEW".to_owned())])].into());
}

#[test]
fn names_come_and_go_in_order_but_for_new_ones() {
    let two = r#"1 openat(AT_FDCWD</>, "/r/b", O_WRONLY|O_CREAT, 0666) = 5
        1 openat(AT_FDCWD</>, "/r/c", O_WRONLY|O_CREAT, 0666) = 6
        1 unlink("/r/a") = 0"#;
    let names: BTreeSet<String> = after_old(two).into_iter().map(|state| state.into_keys().collect()).collect();
    let wanted = ["a", "ab", "ac", "abc", "", "b", "c", "bc"];
    // Without `a` and one of the others: entries of one directory may lack, each by itself.
    assert_eq!(names, wanted.map(str::to_owned).into());
    // The sync of the file is none of its name.
    let found = after_old("1 openat(AT_FDCWD</>, \"/r/b\", O_WRONLY|O_CREAT, 0666) = 5\n1 fsync(5) = 0");
    assert!(contents(&found, "b").contains(&None));
}

#[test]
fn exchanged_names_are_never_both_the_same() {
    let exchange = r#"1 openat(AT_FDCWD</>, "/r/b", O_WRONLY|O_CREAT, 0666) = 5
        1 write(5, "NEW", 3) = 3
        1 fsync(5) = 0
        1 fsync(4) = 0
        1 renameat2(AT_FDCWD</>, "/r/a", AT_FDCWD</>, "/r/b", RENAME_EXCHANGE) = 0"#;
    let state = |a: &str, b: &str| State::from([("a".to_owned(), a.to_owned()), ("b".to_owned(), b.to_owned())]);
    assert_eq!(after_old(exchange), [state("old", "NEW"), state("NEW", "old")].into());
}

#[test]
fn what_was_cut_off_does_not_come_back_below_the_new() {
    let found =
        contents(&after_old("1 ftruncate(3, 0) = 0\n1 pwrite64(3, \"N\", 1, 0) = 1\n1 ftruncate(3, 3) = 0"), "a");
    for content in ["old", "", "N", "\0", "N\0\0"] {
        assert!(found.contains(&some(content)), "{content:?} is not in {found:?}");
    }
    assert!(!found.iter().flatten().any(|content| content.starts_with('N') && content.contains('d')), "{found:?}");
    let found = contents(&after_old("1 fallocate(3, FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE, 0, 2) = 0"), "a");
    assert_eq!(found, [some("old"), some("\0\0d")].into());
}

#[test]
fn a_torn_page_is_torn_only_where_it_was_written() {
    let page = "o".repeat(PAGE);
    let text = format!(
        "{OLD}1 pwrite64(3, \"{page}\", 4096, 0) = 4096\n1 fsync(3) = 0\n1 pwrite64(3, \"{}\", 1500, 1000) = 1500",
        "N".repeat(1500)
    );
    let whole = |content: &String| content[..1000] == page[..1000] && content.ends_with(&page[2500..]);
    let found: Vec<_> = contents(&states(&text), "a").into_iter().flatten().collect();
    assert!(found.len() > 20 && found.iter().all(whole), "{}", found.len());
    // A border of sectors between new and old, and a place from which on there are zeros.
    assert!(found.iter().any(|content| content[1000..1536].starts_with('N') && content[1536..].starts_with('o')));
    assert!(found.iter().any(|content| content.contains('N') && content.contains('\0')));
    let garbage = states_with(&text, true);
    assert!(contents(&garbage, "a").iter().flatten().any(|content| !content.starts_with('o')));
}

#[test]
fn writers_of_all_kinds_are_understood() {
    let more = r#"1 openat(AT_FDCWD</>, "/r/a", O_WRONLY|O_APPEND) = 5
        1 write(5, "ABCD", 4) = 2
        1 writev(5, [{iov_base="12", iov_len=2}, {iov_base="3", iov_len=1}], 2) = 3
        1 lseek(3, -1, SEEK_END) = 7
        1 dup(3) = 6
        1 write(6, "X", 1) = 1
        1 write(3, "Y", 1) = 1
        1 pwritev2(3, [{iov_base="Z", iov_len=1}], 1, 0, 0) = 1
        1 close(5) = 0
        1 fcntl(3, F_DUPFD_CLOEXEC, 0) = 5
        1 fdatasync(5) = 0"#;
    assert_eq!(contents(&after_old(more), "a"), [some("ZldAB12XY")].into());
}

#[test]
fn a_call_that_is_not_understood_ends_the_test() {
    let shared = "mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 3, 0) = 0x7f00";
    let calls = [
        r#"chmod("/r/a", 0600) = 0"#,
        "copy_file_range(3, NULL, 4, NULL, 5, 0) = 5",
        "sendfile(3, 9, NULL, 5) = 5",
        "io_uring_setup(8, {flags=0}) = 9",
        "pwritev2(3, [{iov_base=\"Z\", iov_len=1}], 1, 0, RWF_DSYNC) = 1",
        r#"openat(AT_FDCWD</>, "/r/a", O_WRONLY|O_DSYNC) = 5"#,
        r#"write(3, "abc"..., 5) = 5"#,
        "ioctl(3, FICLONE, 7) = 0",
        shared,
    ];
    for call in calls {
        let text = format!("{OLD}1 {call}");
        // As strace does, the descriptor with its path.
        let text =
            log(&text).replace("(3,", "(3<\\x2f\\x72\\x2f\\x61>,").replace(" 3, 0)", " 3<\\x2f\\x72\\x2f\\x61>, 0)");
        let read = std::panic::catch_unwind(|| record::read(Path::new("/r"), &text));
        let panic = *read.expect_err(call).downcast::<String>().unwrap();
        let (name, _) = call.split_once('(').unwrap();
        assert!(panic.contains(name), "it panics for another reason than {call}: {panic}");
    }
    record::read(Path::new("/r"), &log(&format!("{OLD}1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0) = 0x7f00")));
}
