//! `ip rule flush` in many pods, as fast as the kernel takes it.

use std::time::Instant;

use netlink::testbed::{Netns, Scene, TestbedError};
use plan::object::Rule;
use plan::tables::PROTOCOL;

/// What is flushed in one pod, found out before so that nothing but the deletions takes time.
pub struct Flush {
    scene: Scene,
    /// Other programs' and the kernel's, which their owners put back at once.
    others: Vec<Rule>,
    ours: Vec<Rule>,
}

impl Flush {
    /// Looks at the pod's rules; it holds the namespace.
    ///
    /// # Errors
    /// When it cannot be observed.
    pub fn of(netns: &Netns) -> Result<Self, TestbedError> {
        let mut scene = netns.scene()?;
        let rules = scene.observe()?.rules.into_iter().filter(|rule| rule.priority != 0);
        let (ours, others) = rules.partition(|rule: &Rule| rule.protocol == PROTOCOL);
        Ok(Self { scene, others, ours })
    }

    /// How many rules of dragline's are deleted.
    pub fn len(&self) -> usize {
        self.ours.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.ours.is_empty()
    }

    /// Deletes every rule of both families but those of priority 0; those that are not dragline's are put back. When it
    /// began.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn flush(&mut self) -> Result<Instant, TestbedError> {
        let began = Instant::now();
        let Self { scene, others, ours } = self;
        others.iter().chain(ours.iter()).try_for_each(|rule| scene.delete_rule(rule))?;
        others.iter().try_for_each(|rule| scene.add_rule(rule))?;
        Ok(began)
    }
}
