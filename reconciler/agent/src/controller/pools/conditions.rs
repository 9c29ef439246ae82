//! `status.conditions` of a pool.
//!
//! | type | true | false |
//! |---|---|---|
//! | `Valid` | the spec can be used | `SpecInvalid`: field and rule |
//! | `Exhausted` | `AllInUse`, `NodesWait`, `NoAddresses` | `AddressesLeft` |
//! | `CountsFresh` | every node that holds addresses is heard of | `NodesSilent`: their leases count as in use |
//! | `Overlapping` | `OlderPool`: which addresses another pool gives | nothing is shared |
//! | `DefaultConflict` | `OlderDefault`: another pool is default for the same pods | there is none |
//! | `InUseOutside` | `AddressesRemoved`: pods have addresses that are no longer in the pool | there are none |
//! | `SlotsUnclear` | `TextUnclear`: a slot that nobody may touch | there is none |
//!
//! The first three are always there, the others once they have been true. Types of other writers stay as they are.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use super::reasons::Reason;

/// A message is no longer than this, in bytes; the API server takes 32 KiB, people less.
const MESSAGE: usize = 1000;

/// One condition as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its type.
    pub kind: &'static str,
    /// Its status.
    pub is_true: bool,
    /// Its reason.
    pub reason: &'static str,
    /// Its message. It must not change while nothing else does.
    pub message: String,
    /// The status that is worth an Event, and the Event's reason.
    pub alarm: (bool, Reason),
    /// Whether it is there before it has ever been an alarm.
    pub is_always_there: bool,
}

impl Finding {
    fn is_alarm(&self) -> bool {
        self.is_true == self.alarm.0
    }
}

/// The conditions as they should be, and the findings that have just become an alarm.
pub fn renew(
    observed: &[Condition],
    findings: Vec<Finding>,
    generation: Option<i64>,
    now: Timestamp,
) -> (Vec<Condition>, Vec<(Reason, String)>) {
    let mut conditions = Vec::new();
    let mut alarms = Vec::new();
    for finding in &findings {
        let known = observed.iter().find(|condition| condition.type_ == finding.kind);
        if known.is_none() && !finding.is_always_there && !finding.is_alarm() {
            continue;
        }
        let status = if finding.is_true { "True" } else { "False" };
        let same = known.filter(|condition| condition.status == status);
        if same.is_none() && finding.is_alarm() {
            alarms.push((finding.alarm.1, shortened(&finding.message)));
        }
        conditions.push(Condition {
            type_: finding.kind.into(),
            status: status.into(),
            reason: finding.reason.into(),
            message: shortened(&finding.message),
            observed_generation: generation,
            // The API keeps seconds.
            last_transition_time: same.map_or_else(|| Time(seconds(now)), |known| known.last_transition_time.clone()),
        });
    }
    let is_ours = |condition: &&Condition| findings.iter().any(|finding| finding.kind == condition.type_);
    conditions.extend(observed.iter().filter(|condition| !is_ours(condition)).cloned());
    conditions.sort_by(|one, other| one.type_.cmp(&other.type_));
    (conditions, alarms)
}

fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn shortened(message: &str) -> String {
    if message.len() <= MESSAGE {
        return message.to_owned();
    }
    let end = (0..=MESSAGE - 3).rev().find(|end| message.is_char_boundary(*end)).unwrap_or_default();
    format!("{}...", &message[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(is_true: bool, message: &str) -> Finding {
        Finding {
            kind: "Exhausted",
            is_true,
            reason: if is_true { "AllInUse" } else { "AddressesLeft" },
            message: message.into(),
            alarm: (true, Reason::PoolExhausted),
            is_always_there: false,
        }
    }

    #[test]
    fn the_time_changes_with_the_status_alone_and_an_alarm_is_told_once() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (none, alarms) = renew(&[], vec![finding(false, "")], Some(1), at(1));
        assert_eq!((none.len(), alarms.len()), (0, 0), "what was never true is not there");
        let (first, alarms) = renew(&[], vec![finding(true, "41 of 41")], Some(1), at(1));
        assert_eq!(alarms, [(Reason::PoolExhausted, "41 of 41".to_owned())]);
        let (second, alarms) = renew(&first, vec![finding(true, "40 of 40")], Some(2), at(2));
        assert_eq!(alarms, []);
        assert_eq!(second[0].last_transition_time.0, at(1));
        assert_eq!((second[0].observed_generation, second[0].message.as_str()), (Some(2), "40 of 40"));
        let (third, alarms) = renew(&second, vec![finding(false, "left")], Some(2), at(3));
        assert_eq!((third[0].status.as_str(), third[0].last_transition_time.0), ("False", at(3)));
        assert_eq!(alarms, []);
        let again = renew(&third, vec![finding(false, "left")], Some(2), at(9));
        assert_eq!(again, (third, vec![]));
    }

    #[test]
    fn conditions_of_others_stay() {
        let other = Condition {
            type_: "Billing".into(),
            status: "True".into(),
            reason: "Paid".into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        };
        let (conditions, _) =
            renew(std::slice::from_ref(&other), vec![finding(true, &"é".repeat(900))], None, Timestamp::UNIX_EPOCH);
        assert_eq!(conditions[0], other);
        assert!(conditions[1].message.len() <= MESSAGE && conditions[1].message.ends_with("..."));
    }
}
