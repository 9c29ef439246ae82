//! Our store.

use std::path::Path;
use std::sync::mpsc;

use store::{CommitError, Store};

use super::{Step, Subject, Writer, sample};

/// Where it is within the directory that is its own.
pub(crate) const NAME: &str = "store";

pub(crate) struct Ours(pub(crate) Store);

impl Ours {
    pub(crate) fn open(dir: &Path) -> Self {
        Self(sample::open(&dir.join(NAME)))
    }
}

impl Subject for Ours {
    fn writer(&self) -> Box<dyn Writer + '_> {
        Box::new(&self.0)
    }

    fn load(&self) -> usize {
        let snapshot = self.0.load().unwrap();
        assert_eq!(snapshot.unreadable, []);
        snapshot.sandboxes.len() + snapshot.attachments.len() + snapshot.allocations.len()
    }
}

fn change(step: Step) -> store::Change {
    match step {
        Step::Put(number) => sample::put(number),
        Step::Delete(number) => sample::delete(number),
    }
}

impl Writer for &Store {
    fn apply(&mut self, steps: &[Step]) {
        if let [step] = steps {
            return self.commit(change(*step)).unwrap();
        }
        let (sender, answers) = mpsc::channel();
        let submit = |step: Step| {
            let sender = sender.clone();
            self.submit(change(step), move |answer| sender.send((step, answer)).unwrap());
        };
        steps.iter().for_each(|&step| submit(step));
        let mut missing = steps.len();
        while missing > 0 {
            match answers.recv().unwrap() {
                (_, Ok(())) => missing -= 1,
                // It waited in vain for a place; another's answer says that there is one.
                (step, Err(CommitError::Overloaded { .. })) => submit(step),
                (step, Err(error)) => panic!("{step:?}: {error}"),
            }
        }
    }
}
