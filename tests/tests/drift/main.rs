//! What somebody else changes comes back, without any call of the API or a plugin, and what is somebody else's stays.

// Tests with a main of their own are not tests to clippy, whose configuration permits this there.
#![allow(clippy::unwrap_used)]

mod advertised;
mod borrowed;
mod calls;
mod damage;
mod declared;
mod families;
mod fight;
mod foreign;
mod kinds;
mod waves;

use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use tests::binaries::Binaries;
use tests::runtime::reference_plugins;

/// A repair that takes longer has not happened.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() {
    let mut arguments = Arguments::from_args();
    // Each test times what it sees, on a machine that may have few cores.
    arguments.test_threads = Some(1);
    Binaries::build().unwrap();
    // Before any thread is started.
    if let Err(error) = netlink::testbed::enter_private_world() {
        eprintln!("these tests need a network namespace of their own: {error}");
        std::process::exit(1);
    }
    let trials = vec![
        trial("each_kind_of_drift_is_repaired", kinds::with_own_macvlan),
        // Shown as ignored where containernetworking-plugins is not installed; `cargo verify` sees to it.
        trial("each_kind_of_drift_is_repaired_on_a_foreign_link", kinds::with_reference_macvlan)
            .with_ignored_flag(reference_plugins().is_none()),
        trial("both_families_are_routed_and_kept", families::with_own_macvlan),
        trial("both_families_are_routed_and_kept_on_a_foreign_link", families::with_reference_macvlan)
            .with_ignored_flag(reference_plugins().is_none()),
        trial("a_fighting_program_is_backed_off_from", fight::in_a_pod),
        trial("a_fight_over_the_node_is_backed_off_from", fight::on_the_node),
        trial("another_hijacked_network_reaches_running_pods", declared::hijacked_network),
        trial("a_changed_coordinator_reaches_pods_in_waves", waves::reach_all),
        trial("a_changed_coordinator_stops_at_the_first_failure", waves::stop_at_the_first_failure),
        trial("another_rule_table_reaches_running_pods", waves::another_rule_table),
        trial("another_default_nic_reaches_running_pods", declared::default_nic),
        trial("another_node_address_reaches_running_pods", declared::node_address),
        trial("sysctls_of_the_node_come_back", borrowed::of_the_node),
        trial("sysctls_of_a_pod_come_back", borrowed::of_a_pod),
        trial("what_is_advertised_is_routed", advertised::beside_the_default_nic),
        trial("what_is_advertised_may_be_the_default", advertised::on_the_default_nic),
        trial("a_vanished_namespace_keeps_its_address_until_del", calls::vanished_namespace),
        trial("a_stopping_agent_leaves_no_add_in_the_dark", calls::stopping_agent),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

/// A test by name; a panic is a failure.
fn trial(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || std::panic::catch_unwind(test).map_err(|panic| Failed::from(text_of(&*panic))))
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "panicked".into())
}
