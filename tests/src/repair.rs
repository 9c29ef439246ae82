//! How long a repair takes: from the damage to the kernel state as it was, by the kernel's own events.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use netlink::testbed::{Netns, Scene, TestbedError};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use plan::object::{Observed, Rule};

/// `RTNLGRP_IPV4_RULE`.
const RULE_EVENTS: u32 = 8;
/// A repair that takes longer has not happened.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a repair could not be timed.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The namespace.
    #[error(transparent)]
    Testbed(#[from] TestbedError),
    /// The event socket.
    #[error("listening to rule events: {0}")]
    Listen(#[from] io::Error),
    /// It did not happen.
    #[error("the rules are not back after {PATIENCE:?}; there are now: {0}")]
    NotRepaired(String),
}

/// Does what `ip rule flush` does in the namespace, and times how long the rules stay away.
///
/// `ip rule flush` deletes every rule but the one of priority 0, those of the tables main and default included. These
/// two are the kernel's, not dragline's, which restores its own alone: they are put back here at once, as somebody who
/// has flushed his rules has to. The clock starts before the first rule is deleted.
pub fn flush_rules(netns: &Netns) -> Result<Duration, RepairError> {
    let mut scene = netns.scene()?;
    let events = netns.run(listen)??;
    let before = rules(scene.observe()?);
    let of_kernel: Vec<Rule> = before.iter().filter(|rule| [32766, 32767].contains(&rule.priority)).cloned().collect();
    let started = Instant::now();
    scene.flush_rules()?;
    of_kernel.iter().try_for_each(|rule| scene.add_rule(rule))?;
    wait_for(&events, &mut scene, &before, started)?;
    Ok(started.elapsed())
}

fn rules(observed: Observed) -> Vec<Rule> {
    let mut rules: Vec<Rule> = observed.rules.into_iter().filter(|rule| !rule.v6).collect();
    rules.sort();
    rules
}

fn listen() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.add_membership(RULE_EVENTS)?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Looks after every event, so that nothing is missed and nothing waits blindly.
fn wait_for(events: &Socket, scene: &mut Scene, wanted: &[Rule], started: Instant) -> Result<(), RepairError> {
    loop {
        let found = rules(scene.observe()?);
        if found == wanted {
            return Ok(());
        }
        let left = PATIENCE.saturating_sub(started.elapsed());
        if left.is_zero() {
            let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
            return Err(RepairError::NotRepaired(lines.join("; ")));
        }
        await_event(events, left)?;
    }
}

fn await_event(events: &Socket, within: Duration) -> io::Result<()> {
    let timeout = PollTimeout::try_from(within).map_err(io::Error::other)?;
    poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], timeout)?;
    loop {
        match events.recv_from_full() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            // Events were lost: a look tells.
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The median and the worst, in milliseconds.
pub fn summary(times: &[Duration]) -> (f64, f64) {
    let mut sorted = times.to_vec();
    sorted.sort();
    let milliseconds = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1000.0);
    (milliseconds(sorted.get(sorted.len() / 2)), milliseconds(sorted.last()))
}
