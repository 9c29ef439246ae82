//! Taking up an address that is kept for an owner whose pod is here now.

use std::net::IpAddr;

use schemas::reservation::Reservation;
use schemas::slot::{Holder, Subject};

use super::shard::{Shard, SlotEdit};

/// The edit that gives a holder one address: kept for that owner, free, or out of a quarantine that has ended at `now`
/// (seconds since 1970).
///
/// # Errors
/// Whose it is instead: the text of the slot's part, or what is unclear.
pub fn take_up(view: &Shard, me: &Holder, address: IpAddr, owner: &str, now: u64) -> Result<SlotEdit, String> {
    let place = view.layout().place(address).filter(|(number, _, _)| *number == view.number());
    let (_, place, bit) = place.ok_or_else(|| "nobody: it is not of the pool's subnet".to_owned())?;
    let slot = view.slot(place).ok_or_else(|| format!("slot text {:?}", view.text(place)))?;
    let mask = 1 << bit;
    let is_owner = |kept: &str| kept == owner;
    let is_unsure = |kept: &str| {
        let kept = kept.parse::<Reservation>().ok().filter(|kept| kept.is_unsure);
        kept.is_some_and(|kept| Reservation { is_unsure: false, ..kept }.to_string() == owner)
    };
    let mut new = slot.clone();
    let was_unsure = slot.kept(is_unsure) & mask != 0;
    let gained = if slot.kept(is_owner) & mask != 0 {
        new.take_up(me, owner, mask)
    } else if was_unsure {
        new.take_up(me, &format!("{owner}/unsure"), mask)
    } else {
        new.claim(me, mask, now)
    };
    if gained == 0 {
        let whose = slot.parts().iter().find(|(_, bits)| bits & mask != 0).map(|(subject, _)| subject);
        return Err(match whose {
            Some(Subject::Node(holder)) => holder.to_string(),
            Some(other) => other.to_string(),
            None => "nobody".to_owned(),
        });
    }
    let suspect = if was_unsure || slot.expired(now) & mask != 0 { vec![address] } else { Vec::new() };
    let edit = view.edit(place, &new).ok_or_else(|| format!("slot text {:?}, which is full", view.text(place)))?;
    Ok(SlotEdit { gained: vec![address], suspect, ..edit })
}

#[cfg(test)]
mod tests {
    use super::super::layout::{Layout, SLOTS};
    use super::*;

    #[test]
    fn only_its_own_or_nobodys_is_taken_up() {
        let layout = Layout::new("10.6.0.0/16".parse().unwrap(), 256).unwrap();
        let mut texts = vec![String::new(); SLOTS];
        texts[0] = "=n/p-0/net1:1,=n/p-0/net1/unsure:2,=n/p-1/net1:4,b~2:8".into();
        texts[1] = "!50:1,!100:2,me:4".into();
        texts[2] = "what?".into();
        let view = Shard::read(layout, 0, &texts);
        let me: Holder = "me".parse().unwrap();
        let take = |address: &str| take_up(&view, &me, address.parse().unwrap(), "n/p-0/net1", 60);
        let taken = |address: &str| take(address).map(|edit| (edit.to, !edit.suspect.is_empty()));
        let rest = "=n/p-1/net1:4,b~2:8";
        assert_eq!(taken("10.6.0.0"), Ok((format!("me:1,=n/p-0/net1/unsure:2,{rest}"), false)));
        assert_eq!(taken("10.6.0.1"), Ok((format!("=n/p-0/net1:1,me:2,{rest}"), true)));
        assert_eq!(taken("10.6.0.2"), Err("=n/p-1/net1".into()));
        assert_eq!(taken("10.6.0.3"), Err("b~2".into()));
        assert_eq!(taken("10.6.0.4"), Ok(("me:5,!100:2".into(), true)));
        assert_eq!(taken("10.6.0.5"), Err("!100".into()));
        assert_eq!(taken("10.6.0.6"), Err("me".into()));
        assert_eq!(taken("10.6.0.7"), Ok(("!50:1,!100:2,me:c".into(), false)));
        assert!(taken("10.6.0.8").is_err() && taken("10.6.1.0").is_err() && taken("10.7.0.0").is_err());
        assert_eq!(take("10.6.0.12").unwrap().gained, ["10.6.0.12".parse::<IpAddr>().unwrap()]);
    }
}
