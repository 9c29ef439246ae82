//! Whose each address is, by what the agents have answered.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Pod;

/// A pod's time with an address: from the answer of its ADD until its DEL is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenure {
    /// `namespace/name` of the pod.
    pub pod: String,
    /// Its UID.
    pub uid: String,
    /// Its node.
    pub node: String,
    /// Since when.
    pub since: Instant,
}

/// All tenures, and what was wrong with them. What is written is checked at once: whoever writes, writes after ADD has
/// answered and before DEL is asked, so that tenures that overlap here have overlapped.
#[derive(Debug)]
pub struct Book {
    begun: Instant,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    held: BTreeMap<IpAddr, Tenure>,
    history: BTreeMap<IpAddr, Vec<String>>,
    faults: Vec<String>,
    given: usize,
}

impl Default for Book {
    fn default() -> Self {
        Self { begun: Instant::now(), pages: Mutex::default() }
    }
}

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// ADD has answered with that address.
    pub fn given(&self, pod: &Pod, address: IpAddr) {
        let tenure = Tenure {
            pod: format!("{}/{}", pod.namespace, pod.name),
            uid: pod.uid.clone(),
            node: pod.node.clone(),
            since: Instant::now(),
        };
        self.note(tenure, address);
    }

    fn note(&self, tenure: Tenure, address: IpAddr) {
        let at = self.begun.elapsed();
        let mut pages = self.pages();
        let pages = &mut *pages;
        let before = pages.held.iter().find(|(_, held)| held.uid == tenure.uid).map(|(address, _)| *address);
        if before == Some(address) {
            // A repeated ADD.
            return;
        }
        pages.given += 1;
        pages.history.entry(address).or_default().push(line(at, "given to", &tenure));
        if let Some(before) = before {
            pages.faults.push(format!("pod {} ({}) has {before} and was given {address}", tenure.pod, tenure.uid));
        }
        if let Some(other) = pages.held.insert(address, tenure) {
            let history = pages.history.get(&address).map(|lines| lines.join("; ")).unwrap_or_default();
            pages.faults.push(format!("{address} has two owners, one of them {}: {history}", other.pod));
        }
    }

    /// DEL is about to be asked.
    pub fn taken_back(&self, pod: &Pod) {
        let at = self.begun.elapsed();
        let mut pages = self.pages();
        let pages = &mut *pages;
        let found = pages.held.iter().find(|(_, held)| held.uid == pod.uid).map(|(address, _)| *address);
        if let Some(tenure) = found.and_then(|address| pages.held.remove(&address))
            && let Some(address) = found
        {
            pages.history.entry(address).or_default().push(line(at, "taken back from", &tenure));
        }
    }

    /// Who has what now.
    pub fn held(&self) -> BTreeMap<IpAddr, Tenure> {
        self.pages().held.clone()
    }

    /// How often an address was given.
    pub fn given_so_far(&self) -> usize {
        self.pages().given
    }

    /// What has been wrong, a line each.
    pub fn faults(&self) -> Vec<String> {
        self.pages().faults.clone()
    }

    /// What has been done with an address, a line each.
    pub fn history(&self, address: IpAddr) -> Vec<String> {
        self.pages().history.get(&address).cloned().unwrap_or_default()
    }
}

fn line(at: Duration, what: &str, tenure: &Tenure) -> String {
    format!("{:.3} s {what} {} ({}) on {}", at.as_secs_f64(), tenure.pod, tenure.uid, tenure.node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenure(pod: &str) -> Tenure {
        Tenure { pod: format!("n/{pod}"), uid: pod.to_owned(), node: "a".into(), since: Instant::now() }
    }

    #[test]
    fn two_owners_at_once_are_found_and_one_after_the_other_are_not() {
        let (one, two) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let book = Book::default();
        book.note(tenure("a"), one);
        book.note(tenure("a"), one);
        book.note(tenure("b"), two);
        assert_eq!((book.faults(), book.given_so_far()), (Vec::new(), 2));
        book.note(tenure("c"), one);
        assert!(book.faults()[0].contains("10.0.0.1 has two owners, one of them n/a"), "{:?}", book.faults());
        book.note(tenure("b"), "10.0.0.3".parse().unwrap());
        assert!(book.faults()[1].contains("pod n/b (b) has 10.0.0.2 and was given 10.0.0.3"), "{:?}", book.faults());
    }
}
