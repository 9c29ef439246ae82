//! `ip rule flush` in every pod within a second.

use std::time::{Duration, Instant};

use tests::full_node::Flush;

use crate::ground::{CALM, Ground, times};

/// In how much time all pods are flushed.
const WITHIN: Duration = Duration::from_secs(1);

pub(crate) fn everywhere() {
    let ground = Ground::lay("storm-flush");
    let watch = ground.watch();
    for round in 1..=3 {
        let mut flushes = ground.flushes();
        let flushed: usize = flushes.iter().map(Flush::len).sum();
        let start = ground.start();
        let act = |calm: &tests::full_node::Calm| {
            let started = Instant::now();
            let began: Vec<Option<Instant>> = flushes.iter_mut().map(|flush| Some(flush.flush().unwrap())).collect();
            let lasted = started.elapsed();
            calm.wait(CALM);
            (began, lasted)
        };
        let ((began, lasted), seen) = watch.during(act).unwrap();
        assert!(lasted < WITHIN, "flushing took {lasted:?}: this machine is too slow for the test");
        let cost = start.cost(&ground);
        let times = times(&began, &seen);
        cost.tell(&format!("flush {round}, {flushed} rules within {lasted:.0?}"), &times);
        ground.is_as_before("none");
        assert_eq!(times.len(), began.len(), "all pods were repaired");
        assert_eq!(cost.steps, u64::try_from(flushed).unwrap(), "each rule is put back once, and nothing else is done");
        assert_eq!(cost.contested, 0, "a storm is no fight");
        assert!(cost.repairs >= u64::try_from(began.len()).unwrap(), "{}", cost.repairs);
    }
}
