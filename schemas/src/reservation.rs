//! For whom an address is kept: one interface of a pod that has an identity of its own, such as a StatefulSet's.
//!
//! As the owner of a slot's part it reads `shop/cart-0/net1`. With `/unsure` at its end the address was taken from a node
//! that is gone, so it is looked for on the wire before a pod gets it.

use std::fmt;
use std::str::FromStr;

/// The last word of an address that has to be looked for.
const UNSURE: &str = "unsure";

/// A text that names no interface of a pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no reservation: it is NAMESPACE/NAME/INTERFACE, or that with /{UNSURE}")]
pub struct ReservationError(String);

/// An interface of a pod that keeps its address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reservation {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name, or that of its virtual machine.
    pub name: String,
    /// The interface.
    pub ifname: String,
    /// Somebody may have the address who cannot be asked.
    pub is_unsure: bool,
}

impl Reservation {
    /// That of an interface, with nothing unsure about it.
    pub fn new(namespace: &str, name: &str, ifname: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned(), ifname: ifname.to_owned(), is_unsure: false }
    }

    /// The same, to be looked for.
    pub fn unsure(self) -> Self {
        Self { is_unsure: true, ..self }
    }
}

impl fmt::Display for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/", self.namespace, self.name)?;
        for byte in self.ifname.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' => write!(f, "{}", char::from(byte))?,
                other => write!(f, "_{other:02x}")?,
            }
        }
        f.write_str(if self.is_unsure { "/unsure" } else { "" })
    }
}

impl FromStr for Reservation {
    type Err = ReservationError;

    fn from_str(text: &str) -> Result<Self, ReservationError> {
        let wrong = || ReservationError(text.chars().take(80).collect());
        let words: Vec<&str> = text.split('/').collect();
        let (namespace, name, ifname, is_unsure) = match words[..] {
            [namespace, name, ifname] => (namespace, name, ifname, false),
            [namespace, name, ifname, UNSURE] => (namespace, name, ifname, true),
            _ => return Err(wrong()),
        };
        let is_word = |word: &str| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
        };
        let ifname = unescape(ifname).filter(|ifname| !ifname.is_empty()).ok_or_else(wrong)?;
        if !is_word(namespace) || !is_word(name) {
            return Err(wrong());
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), ifname, is_unsure })
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'_' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        let digits = std::str::from_utf8(&digits).ok().filter(|digits| !digits.starts_with('+'))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::slot::Slot;

    #[test]
    fn it_reads_as_a_slots_owner() {
        let net1 = Reservation::new("shop", "cart-0", "net1");
        assert_eq!(net1.to_string(), "shop/cart-0/net1");
        assert_eq!(net1.clone().unsure().to_string(), "shop/cart-0/net1/unsure");
        assert_eq!(Reservation::new("a", "b.c", "e_0:1@x").to_string(), "a/b.c/e_5f0_3a1_40x");
        for wrong in [
            "",
            "a",
            "a/b",
            "a//c",
            "/b/c",
            "a/b/",
            "a/b/c/d",
            "a/b/c/unsure/x",
            "a/b/_g0",
            "a/b/_+1",
            "a/b/_4",
            "a b/c/d",
        ] {
            assert!(wrong.parse::<Reservation>().is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn every_interface_has_one_text_that_a_slot_takes(ifname in "[!-.0-~]{1,15}", is_unsure: bool) {
            let wanted = Reservation { is_unsure, ..Reservation::new("ns-1", "web-0", &ifname) };
            let text = wanted.to_string();
            prop_assert_eq!(text.parse::<Reservation>().unwrap(), wanted);
            prop_assert_eq!(Slot::parse(&format!("={text}"), 1).unwrap().to_text(1), format!("={text}"));
        }
    }
}
