//! What crosses the agent's socket: one request and one answer per connection; a dump alone has many.
//!
//! A message is a length of four bytes, big endian, and that many bytes of JSON, at most [`MAX_MESSAGE`].

use std::io::{self, Read, Write};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cni::error::CniError;
use crate::cni::netconf::{CoordinatorConf, SpiderpoolIpam};
use crate::cni::result::CniResult;
use crate::intent::{AssignedAddress, LinkKindIntent, PodRef, RouteIntent};
use crate::name::{AttachmentKey, ContainerId, IfName, Mac, NetworkName};
use crate::uplink::UplinkIntent;

/// The version of this protocol; agent and plugins are installed together, so only equal ones talk.
pub const PROTOCOL: u16 = 1;
/// The most bytes of a message: larger ones are refused before anything is read into memory.
pub const MAX_MESSAGE: usize = 1 << 20;
/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/dragline/agent.sock";
/// Where the agent keeps its state unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/dragline";
/// The spool's folder below the state directory.
pub const SPOOL_DIR: &str = "spool";
/// The file below the state directory that keeps room on the disk for withdrawals: whoever finds none makes it smaller.
pub const SPOOL_RESERVE: &str = "spool.reserve";
/// How long that file is, in bytes: enough for some hundred withdrawals.
pub const SPOOL_RESERVE_LEN: u64 = 1 << 20;

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// [`PROTOCOL`].
    pub protocol: u16,
    /// Milliseconds from now in which the asker wants an answer.
    pub deadline_ms: u32,
    /// What is asked.
    pub call: Call,
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Call {
    /// ADD as IPAM plugin: addresses for an attachment. Answer: `Result`.
    Allocate(AllocateCall),
    /// ADD as main plugin: a link with addresses. Answer: `Result`.
    Attach(AttachCall),
    /// ADD as coordinator: routes in order. Answer: `Done` (the caller has the result already).
    Coordinate(CoordinateCall),
    /// ADD as chain head `ifacer`: the uplink on the node. Answer: `Done`.
    Uplink(UplinkCall),
    /// DEL of any plugin. Answer: `Done`.
    Withdraw(Withdrawal),
    /// CHECK of any plugin. Answer: `Differences`.
    Verify(VerifyCall),
    /// GC of any plugin. Answer: `Done`.
    Collect(CollectCall),
    /// STATUS of any plugin. Answer: `Done`.
    Ready(ReadyCall),
    /// `dragline get`. Answer: `Objects`.
    Get(GetCall),
    /// `dragline plan`. Answer: `Plans`.
    Plan(PlanCall),
    /// `dragline explain`, and `dragline plan -o svg`. Answer: `Explained`.
    Explain(ExplainCall),
    /// `dragline explain-pools`. Answer: `Objects`, one for each interface.
    ExplainPools(ExplainPoolsCall),
    /// `dragline check`. Answer: `Differences`.
    Check(PodQuery),
    /// `dragline status`. Answer: `Status`.
    Status,
    /// `dragline dump`. Answers: any number of `Dump`, then `Done`, or an error, after which the dump is not whole.
    Dump,
    /// `dragline check --store`. Answer: `Differences`.
    CheckStore,
}

/// Which of our plugins a call comes from, and so which part of an attachment it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Part {
    /// `spiderpool`, called as IPAM by a main plugin.
    Addresses,
    /// `macvlan` or `ipvlan`: the link and, when its IPAM is ours, the addresses.
    Link,
    /// `coordinator`.
    Routes,
    /// `ifacer`: the uplink on the node.
    Uplink,
}

/// Where a call is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// The attachment.
    pub key: AttachmentKey,
    /// The network configuration's name.
    pub network: NetworkName,
    /// `CNI_NETNS`, absolute; on ADD always there.
    pub netns: Option<String>,
    /// The pod of `CNI_ARGS`.
    pub pod: PodRef,
}

/// ADD as IPAM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AllocateCall {
    /// Where.
    pub place: Place,
    /// The `ipam` object.
    pub ipam: SpiderpoolIpam,
}

/// ADD as main plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachCall {
    /// Where.
    pub place: Place,
    /// The kind of link.
    pub kind: LinkKindIntent,
    /// The uplink; None takes the interface of the default route, as the reference plugin does.
    pub master: Option<IfName>,
    /// The uplink is in the pod's namespace.
    pub master_in_container: bool,
    /// The MTU; None takes the uplink's.
    pub mtu: Option<u32>,
    /// The hardware address, where the runtime or the configuration asks for one.
    pub mac: Option<Mac>,
    /// Where the addresses come from.
    pub ipam: AttachIpam,
}

/// Where a main plugin's addresses come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AttachIpam {
    /// No `ipam`: the link alone.
    None,
    /// Ours.
    Spiderpool(SpiderpoolIpam),
    /// Another IPAM plugin's, which our plugin has called.
    Given {
        /// Its addresses.
        addresses: Vec<AssignedAddress>,
        /// Its routes.
        routes: Vec<RouteIntent>,
    },
}

/// ADD as coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CoordinateCall {
    /// Where.
    pub place: Place,
    /// The network configuration.
    pub conf: CoordinatorConf,
    /// What the plugins before us made.
    pub prev_result: CniResult,
}

/// ADD as chain head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UplinkCall {
    /// Where.
    pub place: Place,
    /// What the node is to have.
    pub uplink: UplinkIntent,
}

/// DEL: also the content of a spool file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Withdrawal {
    /// The attachment. Nothing else is needed: DEL works with another configuration and without a namespace.
    pub key: AttachmentKey,
    /// Which part of it.
    pub part: Part,
}

/// CHECK.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyCall {
    /// Where.
    pub place: Place,
    /// Which part.
    pub part: Part,
}

/// GC: all attachments of `network` that are not in `valid` are withdrawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CollectCall {
    /// The network configuration's name.
    pub network: NetworkName,
    /// Which part.
    pub part: Part,
    /// `cni.dev/valid-attachments`.
    pub valid: Vec<ValidAttachment>,
}

/// An attachment that the runtime still has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ValidAttachment {
    /// The sandbox.
    #[serde(rename = "containerID")]
    pub container: ContainerId,
    /// The interface.
    pub ifname: IfName,
}

/// STATUS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadyCall {
    /// Which plugin asks.
    pub part: Part,
    /// The pools that its configuration names, if any.
    pub pools: Vec<String>,
}

/// The kinds that `dragline get` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// SpiderIPPools with their counts.
    Ippools,
    /// SpiderEndpoints.
    Endpoints,
    /// Attachments as the store has them.
    Attachments,
    /// Addresses that this node holds.
    Leases,
    /// The SpiderCoordinator in force.
    Coordinator,
    /// History.
    Journal,
}

/// `dragline get`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GetCall {
    /// Of which kind.
    pub kind: Kind,
    /// Only the one of this name.
    pub name: Option<String>,
    /// Only those of this Kubernetes namespace.
    pub namespace: Option<String>,
}

/// Which pods a question is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodQuery {
    /// The pod's namespace; None is every one.
    pub namespace: Option<String>,
    /// The pod's name or the container ID; None is every one.
    pub pod: Option<String>,
}

/// `dragline plan`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanCall {
    /// Of which pods.
    pub query: PodQuery,
    /// A SpiderCoordinator in place of the one in force, as JSON: what it would change. Without a status it has the
    /// status of that one.
    pub coordinator: Option<Value>,
}

/// `dragline explain`: about exactly one pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExplainCall {
    /// Which pod.
    pub pod: PodQuery,
    /// The packet; None only draws.
    pub flow: Option<ExplainedFlow>,
    /// A drawing is wanted.
    pub drawing: bool,
}

/// `dragline explain-pools`: about exactly one pod, which need not run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExplainPoolsCall {
    /// Which pod.
    pub pod: PodQuery,
    /// Only this interface; None is all that it has or asks for.
    pub ifname: Option<IfName>,
    /// The SpiderMultusConfig of the interface, as NAME or NAMESPACE/NAME, where annotations do not tell.
    pub network: Option<String>,
}

/// The packet that is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExplainedFlow {
    /// Its destination.
    pub to: IpAddr,
    /// Its source; None leaves the choice to the kernel.
    pub from: Option<IpAddr>,
    /// The NIC by which it arrives; None is a packet that the pod makes.
    pub iif: Option<String>,
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// The explanation in the shape that the command line prints with `-o json`; None when no packet was named.
    pub explanation: Option<Value>,
    /// The drawing as SVG, when it was wanted.
    pub drawing: Option<String>,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// Recorded, and where the call waits for it, converged.
    Done,
    /// A CNI result in the newest shape; the plugin prints it in the version it was asked in.
    Result(CniResult),
    /// Desired against observed, a line each; none when they agree.
    Differences(Vec<Difference>),
    /// Objects in the shape of their kind: the custom resource's JSON, or the record's.
    Objects(Vec<Value>),
    /// Plans of pods.
    Plans(Vec<PodPlan>),
    /// Where a packet goes, and why.
    Explained(Explained),
    /// The agent's state.
    Status(StatusReport),
    /// A stretch of a dump; lines may be cut anywhere.
    Dump(String),
    /// It failed.
    Error(CniError),
}

/// Something that is not as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// `namespace/pod`, a container ID where no pod is known, or `node`.
    pub place: String,
    /// The `ip` command that would put it right.
    pub step: String,
}

/// `dragline plan` of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodPlan {
    /// `namespace/name`.
    pub pod: String,
    /// The sandbox.
    pub container: ContainerId,
    /// The namespace's path.
    pub netns: String,
    /// What is wanted in the pod, as `ip` commands that would make it from nothing.
    pub wanted: Vec<String>,
    /// What is wanted on the node for this pod.
    pub wanted_on_node: Vec<String>,
    /// What would be changed now, in order.
    pub changes: Vec<String>,
}

/// `dragline status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusReport {
    /// Nothing is missing for ADD to work.
    pub ready: bool,
    /// What is missing, a line each.
    pub reasons: Vec<String>,
    /// The agent's version.
    pub version: String,
    /// The node's name.
    pub node: String,
    /// How many sandboxes there are.
    pub sandboxes: u64,
    /// How many of them are not as wanted.
    pub unconverged: u64,
    /// Addresses in use.
    pub allocated: u64,
    /// What the operator should know about: fights, quarantined records, overlapping pools.
    pub warnings: Vec<String>,
}

/// Why a message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other end is too slow, gone, or not there.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Too long.
    #[error("message of {0} bytes is longer than the {MAX_MESSAGE} allowed")]
    TooLong(usize),
    /// Not the JSON of this message.
    #[error("message is not understood: {0}")]
    Json(#[from] serde_json::Error),
}

/// Writes a message.
///
/// # Errors
/// When it is too long or the writer fails.
pub fn write_frame<T: Serialize>(writer: &mut impl Write, message: &T) -> Result<(), FrameError> {
    writer.write_all(&encode_frame(message)?)?;
    writer.flush()?;
    Ok(())
}

/// A message with its length before it.
///
/// # Errors
/// When it is too long.
pub fn encode_frame<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - 4;
    if length > MAX_MESSAGE {
        return Err(FrameError::TooLong(length));
    }
    let prefix = u32::try_from(length).map_err(|_| FrameError::TooLong(length))?;
    frame[..4].copy_from_slice(&prefix.to_be_bytes());
    Ok(frame)
}

/// Reads a message.
///
/// # Errors
/// When it is too long, cut off, or not this message.
pub fn read_frame<T: for<'de> Deserialize<'de>>(reader: &mut impl Read) -> Result<T, FrameError> {
    let mut prefix = [0; 4];
    reader.read_exact(&mut prefix)?;
    let length = frame_length(prefix)?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

/// The length that a message's first four bytes announce.
///
/// # Errors
/// When it is too long.
pub fn frame_length(prefix: [u8; 4]) -> Result<usize, FrameError> {
    let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE { Err(FrameError::TooLong(length)) } else { Ok(length) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_comes_back_as_it_was() {
        let key = AttachmentKey { container: "c1".parse().unwrap(), ifname: "net1".parse().unwrap() };
        let call = Call::Withdraw(Withdrawal { key, part: Part::Link });
        let request = Request { protocol: PROTOCOL, deadline_ms: 5000, call };
        let mut frame = Vec::new();
        write_frame(&mut frame, &request).unwrap();
        assert_eq!(read_frame::<Request>(&mut frame.as_slice()).unwrap(), request);
        let cut = &frame[..frame.len() - 1];
        assert!(matches!(read_frame::<Request>(&mut &cut[..]), Err(FrameError::Io(_))));
    }

    #[test]
    fn a_length_is_refused_before_anything_is_read() {
        let announced = u32::try_from(MAX_MESSAGE + 1).unwrap().to_be_bytes();
        assert!(matches!(read_frame::<Request>(&mut announced.as_slice()), Err(FrameError::TooLong(_))));
        let answer = Answer::Objects(vec![Value::String("x".repeat(MAX_MESSAGE))]);
        assert!(matches!(encode_frame(&answer), Err(FrameError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, text in ".*") {
            let _ = read_frame::<Request>(&mut bytes.as_slice());
            let _ = read_frame::<Answer>(&mut bytes.as_slice());
            for body in [bytes.as_slice(), text.as_bytes()] {
                let length = u32::try_from(body.len()).unwrap().to_be_bytes();
                let _ = read_frame::<Request>(&mut [length.as_slice(), body].concat().as_slice());
                let _ = read_frame::<Answer>(&mut [length.as_slice(), body].concat().as_slice());
            }
        }
    }
}
