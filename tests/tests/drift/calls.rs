//! Ends that come without a call, or in the middle of one.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;

use schemas::cni::error::CniError;
use tests::picture::Picture;
use tests::runtime::Runtime;
use tests::scene::Pod;
use tests::stage::{MainPlugin, Member, Stage};
use tests::witness::Witness;

use crate::PATIENCE;

pub(crate) fn vanished_namespace() {
    let stage = Stage::set("vanished", MainPlugin::Own).unwrap();
    let empty = Picture::take(stage.node()).unwrap();
    let member = stage.join(1).unwrap();
    let address = member.result["ips"][0]["address"].as_str().unwrap().to_owned();
    assert_eq!(stage.metric("addresses_allocated").unwrap(), 1);
    let Member { pod, attachment, result } = member;
    let mut witness = Witness::open(stage.node()).unwrap();
    pod.delete(stage.node()).unwrap();
    // The rule, the route and the neighbour on the node were for this pod alone.
    witness.until_like(&empty, PATIENCE).unwrap();
    assert_eq!(stage.metric("addresses_allocated").unwrap(), 1, "only a DEL gives the address back");
    let attachments = stage.agent.list("attachments").unwrap();
    assert_eq!(attachments.len(), 1, "{attachments:?}");
    // Another pod does not get it.
    let other = stage.join(2).unwrap();
    assert_ne!(other.result["ips"][0]["address"], address.as_str());
    stage.runtime().del(&stage.conflist, &attachment, Some(&result)).unwrap();
    let freed = std::time::Instant::now();
    while stage.metric("addresses_allocated").unwrap() != 1 {
        assert!(freed.elapsed() < PATIENCE, "the address did not come back");
        // A number of the agent has no event.
        thread::sleep(std::time::Duration::from_millis(5));
    }
    let again = stage.join(3).unwrap();
    assert_eq!(again.result["ips"][0]["address"], address.as_str());
    stage.check().unwrap();
}

/// What came of each ADD, however often it was tried.
fn addresses(members: &[Member]) -> BTreeSet<String> {
    members.iter().map(|member| member.result["ips"][0]["address"].as_str().unwrap().to_owned()).collect()
}

pub(crate) fn stopping_agent() {
    const PODS: u8 = 16;
    // So many ADDs at a time: some are answered when the agent is stopped, some on their way, some yet to come.
    const LANES: usize = 4;
    let mut stage = Stage::set("stopping", MainPlugin::Own).unwrap();
    let pods: Vec<Pod> = (1..=PODS).map(|number| stage.pod(number).unwrap()).collect();
    let outcomes = Mutex::new(Vec::new());
    let (answered, first_answer) = std::sync::mpsc::channel();
    // The runtime's part borrows the stage, which the agent's end changes.
    let settings = stage.agent.settings().clone();
    let runtime = Runtime::new(&stage.scene.worker, vec![stage.scene.plugins()])
        .with_env("DRAGLINE_SOCKET", settings.socket.as_os_str())
        .with_env("DRAGLINE_STATE_DIR", settings.state_dir.as_os_str());
    let (agent, conflist) = (&mut stage.agent, &stage.conflist);
    let stopped = thread::scope(|scope| {
        for lane in pods.chunks(pods.len() / LANES) {
            let (runtime, outcomes, answered) = (&runtime, &outcomes, answered.clone());
            scope.spawn(move || {
                for pod in lane {
                    let outcome = runtime.add(conflist, &Stage::attachment(pod));
                    // Nobody listens after the first one.
                    let _ = answered.send(());
                    outcomes.lock().unwrap().push((pod.name.clone(), outcome));
                }
            });
        }
        first_answer.recv().unwrap();
        let started = std::time::Instant::now();
        let status = agent.terminate().unwrap();
        (status, started.elapsed())
    });
    println!("drained in {:?}", stopped.1);
    assert!(stopped.0.success(), "{:?}", stopped.0);
    // The agent waits for no call's deadline (20 s) but answers what it can and goes.
    assert!(stopped.1 < std::time::Duration::from_secs(5), "draining took {:?}", stopped.1);
    let outcomes = outcomes.into_inner().unwrap();
    for (pod, outcome) in &outcomes {
        if let Err(error) = outcome {
            let code = error.cni().unwrap_or_else(|| panic!("{pod}: {error}")).code;
            assert_eq!(code, CniError::TRY_AGAIN, "{pod}: {error}");
        }
    }
    assert!(outcomes.iter().any(|(_, outcome)| outcome.is_err()), "the agent was stopped after all of it");
    let answered = outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count();
    println!("{answered} of {PODS} ADDs were answered, the others are to try again");
    stage.agent.restart().unwrap();
    let retried: Vec<Member> = pods
        .into_iter()
        .map(|pod| {
            let attachment = Stage::attachment(&pod);
            let result = stage.runtime().add(&stage.conflist, &attachment).unwrap();
            Member { pod, attachment, result }
        })
        .collect();
    assert_eq!(addresses(&retried).len(), usize::from(PODS));
    for (pod, outcome) in outcomes {
        let Ok(first) = outcome else { continue };
        let again = retried.iter().find(|member| member.pod.name == pod).unwrap();
        assert_eq!(first, again.result, "{pod}: what was answered stands");
    }
    stage.check().unwrap();
    retried.iter().for_each(|member| stage.leave(member).unwrap());
}
