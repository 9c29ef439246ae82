//! The committer with a sync that the test holds: what is acknowledged when, and what a failure does.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};

use schemas::intent::AllocationState;

use super::*;
use crate::journal::JournalDir;
use crate::journal::log::SyncDisk;
use crate::limits::Limits;
use crate::queue::QUEUE_CHANGES;
use crate::upkeep::Wanted;

/// A committer over a store of its own; each sync first says that it has begun, then ends as the test tells it.
struct Held {
    committer: Committer,
    queue: Arc<Queue>,
    live: Arc<Live>,
    counters: Arc<Counters>,
    trees: Trees,
    begun: Receiver<()>,
    end: Sender<io::Result<()>>,
    dir: tempfile::TempDir,
}

fn held() -> Held {
    let dir = tempfile::tempdir().unwrap();
    let sled = crate::sled_dir::create(&dir.path().join("store"), "boot").unwrap();
    let trees = sled.trees.clone();
    let live = Live::new(sled, Position::NOTHING, Default::default());
    let counters = Arc::new(Counters::default());
    let (says_begun, begun) = channel();
    let (end, ends) = channel();
    let ends = Arc::new(std::sync::Mutex::new(ends));
    let sync_of = move || -> SyncDisk {
        let (says_begun, ends) = (says_begun.clone(), ends.clone());
        Box::new(move |_| {
            says_begun.send(()).unwrap();
            ends.lock().unwrap().recv().unwrap()
        })
    };
    let journal = JournalDir::new(dir.path().join("journal"));
    std::fs::create_dir(journal.path()).unwrap();
    let queue = Arc::new(Queue::default());
    let wanted = Wanted::new(queue.clone());
    let writer =
        JournalWriter::begin(journal, Position::NOTHING, 0, Limits::default(), Box::new(sync_of), wanted).unwrap();
    let committer = Committer::start(live.clone(), writer, counters.clone()).unwrap();
    Held { committer, queue, live, counters, trees, begun, end, dir }
}

fn text(number: usize) -> Change {
    Change::new().put_catalogue(&format!("key{number}"), "text")
}

impl Held {
    fn submit(&self, change: Change) -> Receiver<Result<(), CommitError>> {
        let (sender, receiver) = channel();
        self.queue.push(change, Box::new(move |answer| sender.send(answer).unwrap()));
        receiver
    }

    fn sync_ends(&self, how: io::Result<()>) {
        self.begun.recv().unwrap();
        self.end.send(how).unwrap();
    }

    fn counts(&self) -> [u64; 3] {
        [&self.counters.commits, &self.counters.changes, &self.counters.syncs].map(Counters::read)
    }
}

fn allocation(address: &str, container: &str) -> Allocation {
    Allocation {
        address: address.parse().unwrap(),
        pool: "pool".into(),
        owner: AttachmentKey { container: container.parse().unwrap(), ifname: "net1".parse().unwrap() },
        state: AllocationState::Held,
    }
}

#[test]
fn nothing_is_acknowledged_before_its_sync() {
    let held = held();
    let answer = held.submit(text(1));
    held.begun.recv().unwrap();
    // The sync is under way: everything is written, nothing is said.
    assert!(answer.try_recv().is_err());
    held.end.send(Ok(())).unwrap();
    assert_eq!(answer.recv().unwrap(), Ok(()));
}

#[test]
fn what_waits_during_a_sync_shares_the_next_one() {
    let held = held();
    let first = held.submit(text(0));
    held.begun.recv().unwrap();
    let others: Vec<_> = (1..64).map(|number| held.submit(text(number))).collect();
    held.end.send(Ok(())).unwrap();
    first.recv().unwrap().unwrap();
    held.sync_ends(Ok(()));
    for answer in others {
        answer.recv().unwrap().unwrap();
    }
    assert_eq!(held.counts(), [2, 64, 2]);
}

#[test]
fn a_refused_change_leaves_no_trace_and_spoils_no_other() {
    let held = held();
    let first = held.submit(text(0));
    held.begun.recv().unwrap();
    let taken = held.submit(Change::new().put_allocation(&allocation("10.0.0.1", "a")));
    let refused = held.submit(Change::new().put_catalogue("trace", "x").put_allocation(&allocation("10.0.0.1", "b")));
    let fine = held.submit(text(1));
    held.end.send(Ok(())).unwrap();
    held.sync_ends(Ok(()));
    assert_eq!(first.recv().unwrap(), Ok(()));
    assert_eq!(taken.recv().unwrap(), Ok(()));
    let error = refused.recv().unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the address 10.0.0.1 is allocated to a/net1: take another, or wait until it has been released"
    );
    assert_eq!(fine.recv().unwrap(), Ok(()));
    assert!(held.trees.tree(TreeName::Catalogue).get("trace").unwrap().is_none());
    assert_eq!(held.counts(), [2, 3, 2]);
}

#[test]
fn a_change_sees_its_own_earlier_part() {
    let held = held();
    // Freed and given anew in one change: right.
    let first = held.submit(Change::new().put_allocation(&allocation("10.0.0.1", "a")));
    held.sync_ends(Ok(()));
    first.recv().unwrap().unwrap();
    let moved = allocation("10.0.0.1", "b");
    let moved = held.submit(Change::new().delete_allocation(moved.address).put_allocation(&moved));
    held.sync_ends(Ok(()));
    moved.recv().unwrap().unwrap();
    // Given twice in one change: not at all.
    let twice = Change::new().put_allocation(&allocation("10.0.0.2", "a")).put_allocation(&allocation("10.0.0.2", "b"));
    let error = held.submit(twice).recv().unwrap().unwrap_err();
    assert!(matches!(error, CommitError::AddressTaken { .. }), "{error}");
    assert_eq!(held.trees.tree(TreeName::Allocations).len(), 1);
}

#[test]
fn an_unreadable_allocation_counts_as_taken_until_it_is_deleted() {
    let held = held();
    let key = crate::trees::allocation_key("10.0.0.1".parse().unwrap());
    held.trees.tree(TreeName::Allocations).insert(key, b"torn").unwrap();
    let wanted = allocation("10.0.0.1", "a");
    let error = held.submit(Change::new().put_allocation(&wanted)).recv().unwrap().unwrap_err();
    assert!(matches!(error, CommitError::UnreadableAllocation { .. }), "{error}");
    let healed = held.submit(Change::new().delete_allocation(wanted.address).put_allocation(&wanted));
    held.sync_ends(Ok(()));
    healed.recv().unwrap().unwrap();
}

#[test]
fn a_change_that_changes_nothing_is_not_written() {
    let held = held();
    let first = held.submit(text(1));
    held.sync_ends(Ok(()));
    first.recv().unwrap().unwrap();
    let position = held.live.position();
    let bytes = Counters::read(&held.counters.bytes);
    for _ in 0..10 {
        // A sync would wait for the test for ever.
        held.submit(text(1)).recv().unwrap().unwrap();
        held.submit(Change::new().delete_catalogue("never there")).recv().unwrap().unwrap();
        held.submit(Change::new()).recv().unwrap().unwrap();
    }
    assert_eq!(held.counts(), [1, 31, 1]);
    assert_eq!(Counters::read(&held.counters.bytes), bytes);
    assert_eq!(held.live.position(), position);
    assert!(held.dir.path().join("journal").read_dir().unwrap().count() == 1);
}

#[test]
fn a_failed_sync_poisons_the_store() {
    let held = held();
    let first = held.submit(text(1));
    held.begun.recv().unwrap();
    let behind = held.submit(text(2));
    held.end.send(Err(io::Error::other("medium error"))).unwrap();
    let error = first.recv().unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the store takes no more changes because a write failed (fdatasync: medium error): see to the disk, then restart"
    );
    // What waited already, what comes later, and what would change nothing.
    assert_eq!(behind.recv().unwrap(), Err(error.clone()));
    assert_eq!(held.submit(text(3)).recv().unwrap(), Err(error.clone()));
    assert_eq!(held.submit(text(1)).recv().unwrap(), Err(error));
    assert_eq!(held.counts(), [0, 0, 0]);
    assert!(held.trees.tree(TreeName::Catalogue).get("key3").unwrap().is_none());
}

#[test]
fn a_full_queue_refuses_instead_of_growing() {
    let held = held();
    let first = held.submit(text(0));
    held.begun.recv().unwrap();
    let answered = Arc::new(AtomicUsize::new(0));
    for number in 0..QUEUE_CHANGES {
        let answered = answered.clone();
        let done = move |answer: Result<(), CommitError>| {
            answer.unwrap();
            answered.fetch_add(1, SeqCst);
        };
        held.queue.push(text(number), Box::new(done));
    }
    let error = held.submit(text(1)).recv().unwrap().unwrap_err();
    assert!(matches!(error, CommitError::Overloaded { changes: QUEUE_CHANGES, .. }), "{error}");
    assert!(error.is_retryable());
    // Closing commits all that was taken.
    let Held { committer, begun, end, .. } = held;
    end.send(Ok(())).unwrap();
    let syncs = std::thread::spawn(move || {
        while begun.recv().is_ok() {
            end.send(Ok(())).unwrap()
        }
    });
    drop(committer);
    syncs.join().unwrap();
    first.recv().unwrap().unwrap();
    assert_eq!(answered.load(SeqCst), QUEUE_CHANGES);
}

#[test]
fn a_change_too_large_for_one_transaction_is_refused() {
    let held = held();
    let large = "x".repeat(30 << 10);
    let change = (0..200).fold(Change::new(), |change, number| change.put_catalogue(&number.to_string(), &large));
    let error = held.submit(change).recv().unwrap().unwrap_err();
    assert!(matches!(error, CommitError::ChangeTooLarge { .. }), "{error}");
    let error = held.submit(Change::new().put_catalogue("k", &"x".repeat(1 << 20))).recv().unwrap().unwrap_err();
    assert!(matches!(error, CommitError::Record(EncodeError::TooLarge { .. })), "{error}");
    let error = held.submit(Change::new().put_catalogue(&"k".repeat(2000), "")).recv().unwrap().unwrap_err();
    assert!(matches!(error, CommitError::Record(EncodeError::KeyTooLong { size: 2000, .. })), "{error}");
}

#[test]
fn who_panics_on_an_answer_takes_nobody_along() {
    let held = held();
    held.queue.push(text(1), Box::new(|_| panic!("on purpose")));
    held.sync_ends(Ok(()));
    let answer = held.submit(text(2));
    held.sync_ends(Ok(()));
    assert_eq!(answer.recv().unwrap(), Ok(()));
}
