//! Pure decisions of the reconciler: no I/O, no clock, no randomness; equal inputs give equal bytes.
//!
//! ```text
//! intents + node ──plan──▶ Desired ──diff──▶ [Step]        allocate: pools + what is used ──▶ an address
//!                                    ▲
//!                       Observed ────┘
//! ```
//!
//! [`plan()`] turns the attachments of one sandbox into what the kernel should hold, in the pod and on the node.
//! [`diff()`] compares that with what the kernel holds and gives [`Step`]s in an order that cuts no working path.
//! [`ownership`] alone decides what may be touched, [`tables`] alone which table and priority a thing gets.

pub mod allocate;
pub mod desired;
mod diff;
mod drawing;
pub mod explain;
pub mod filter;
pub mod lease;
pub mod node;
pub mod object;
pub mod ownership;
mod plan;
mod show;
pub mod step;
pub mod tables;

pub use desired::{Desired, DesiredLink, DesiredRoute, LinkOrigin, PairIntent, RoutePattern, Uplink, merge_links};
pub use diff::{Diff, Prune, diff};
pub use drawing::{Picture, draw};
pub use filter::FilterTable;
pub use node::NodeFacts;
pub use object::{Address, Bond, Link, LinkKind, Neighbour, Observed, Route, RouteKind, Rule, Scope};
pub use plan::{AUXILIARY_LINK, Plan, PlanInput, RP_FILTER, UNDERLAY_SYSCTLS, plan};
pub use step::{Placement, Step};
