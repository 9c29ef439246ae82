//! The test bench: what the integration tests, the benchmarks and the quick start stand on.
//!
//! ```text
//! Binaries ── build, install the plugins
//! Scene ───── quickstart.md's nodes, router, outside host and default CNI, in network namespaces
//! AgentProcess   `dragline agent` inside a node: start, kill, restart, ask
//! Runtime ─── plays a conflist as a container runtime does: ADD, DEL, CHECK, GC, STATUS, VERSION
//! Responder, Tap, probe    who answers, by which interface, seen on the wire
//! show ────── `ip rule` and its like, by an independent witness where there is one
//! Picture ─── a namespace as text, to be compared; Witness waits for one, and sees every change
//! Metrics ─── the agent's own numbers
//! Cluster ─── etcd and an API server, kubectl
//! Fleet ───── nodes with agents around one API server
//! FullNode    a node with 250 pods of every kind, its storms timed
//! Stage ───── all of it together: a scene, an agent, and pods attached by the runtime's part
//! ```
//!
//! A test's `main` builds the [`binaries`] first, then calls [`netlink::testbed::enter_private_world`] while it has one
//! thread, and then makes [`scene`]s, each under a name of its own, as many at a time as it likes.

pub mod advertiser;
pub mod agent;
pub mod binaries;
pub mod cluster;
pub mod dnat;
pub mod fleet;
pub mod full_node;
pub mod metrics;
pub mod picture;
pub mod probe;
pub mod repair;
pub mod runtime;
pub mod scene;
pub mod show;
pub mod stage;
pub mod witness;
