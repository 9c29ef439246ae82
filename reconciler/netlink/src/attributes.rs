//! Reading bytes of the kernel: message, header, attributes. Nothing here panics, whatever the bytes are.
//!
//! Only the attributes that are needed are read. netlink-packet-route's own parsers refuse a whole message for any one
//! attribute that they cannot read, which would make a namespace unobservable for a detail of a foreign link.

use std::net::IpAddr;

/// Bytes that are not what the kernel documents, or that name a link which is not there (any more).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes cannot be read.
    #[error("{0}")]
    Bytes(&'static str),
    /// They belong to a link that the dump of links did not have: it came in between.
    #[error("link {0} is unknown")]
    UnknownLink(u32),
}

/// A netlink message cut out of a datagram.
pub(crate) struct Frame<'a> {
    /// `nlmsg_type`.
    pub(crate) kind: u16,
    /// `nlmsg_flags`.
    pub(crate) flags: u16,
    /// `nlmsg_seq`.
    pub(crate) sequence: u32,
    /// `nlmsg_pid`: in an event the number of the socket that asked for the change; 0 when the kernel made it by itself.
    pub(crate) port: u32,
    /// What follows the header, without padding.
    pub(crate) payload: &'a [u8],
}

/// The messages of a datagram.
pub(crate) struct Frames<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let frame = cut_frame(self.0);
        let length = frame.as_ref().map_or(self.0.len(), |frame| aligned(16 + frame.payload.len()));
        self.0 = self.0.get(length..).unwrap_or_default();
        Some(frame)
    }
}

fn cut_frame(bytes: &[u8]) -> Result<Frame<'_>, Malformed> {
    let header: &[u8; 16] = bytes.first_chunk().ok_or(Malformed::Bytes("message header cut off"))?;
    let length = usize::try_from(u32_at(header, 0)).unwrap_or(usize::MAX);
    let payload = bytes.get(16..length).ok_or(Malformed::Bytes("message cut off"))?;
    let (sequence, port) = (u32_at(header, 8), u32_at(header, 12));
    Ok(Frame { kind: u16_at(header, 4), flags: u16_at(header, 6), sequence, port, payload })
}

fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// Attributes as (number without flags, value).
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let attribute = cut_attribute(self.0);
        let length = attribute.as_ref().map_or(self.0.len(), |(_, value)| aligned(4 + value.len()));
        self.0 = self.0.get(length..).unwrap_or_default();
        Some(attribute)
    }
}

fn cut_attribute(bytes: &[u8]) -> Result<(u16, &[u8]), Malformed> {
    const NESTED_AND_BYTE_ORDER: u16 = 0xc000;
    let header: &[u8; 4] = bytes.first_chunk().ok_or(Malformed::Bytes("attribute header cut off"))?;
    let value = bytes.get(4..usize::from(u16_at(header, 0))).ok_or(Malformed::Bytes("attribute cut off"))?;
    Ok((u16_at(header, 2) & !NESTED_AND_BYTE_ORDER, value))
}

/// The fixed part of a message, and the attributes after it.
pub(crate) fn split<const N: usize>(payload: &[u8]) -> Result<(&[u8; N], Attributes<'_>), Malformed> {
    let (header, rest) = payload.split_first_chunk().ok_or(Malformed::Bytes("message shorter than its header"))?;
    Ok((header, Attributes(rest)))
}

/// The 16 bits at an offset; 0 beyond the end, which constant offsets into fixed headers never are.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    bytes.get(offset..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u16::from_ne_bytes(*bytes))
}

/// The 32 bits at an offset; 0 beyond the end, which constant offsets into fixed headers never are.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// A value of 32 bits.
pub(crate) fn u32_of(value: &[u8]) -> Result<u32, Malformed> {
    value.try_into().map(u32::from_ne_bytes).map_err(|_| Malformed::Bytes("a number that is not of 4 bytes"))
}

/// A value of 8 bits.
pub(crate) fn u8_of(value: &[u8]) -> Result<u8, Malformed> {
    value.first().copied().ok_or(Malformed::Bytes("a number without a byte"))
}

/// A text, with or without its closing 0.
pub(crate) fn text_of(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// An address of 4 or 16 bytes.
pub(crate) fn ip_of(value: &[u8]) -> Result<IpAddr, Malformed> {
    if let Ok(bytes) = <[u8; 4]>::try_from(value) {
        Ok(IpAddr::from(bytes))
    } else if let Ok(bytes) = <[u8; 16]>::try_from(value) {
        Ok(IpAddr::from(bytes))
    } else {
        Err(Malformed::Bytes("an address of neither 4 nor 16 bytes"))
    }
}

/// `AF_INET`.
pub(crate) const V4: u8 = 2;
/// `AF_INET6`.
pub(crate) const V6: u8 = 10;

/// The address that stands for all of a family: what a missing destination means.
pub(crate) fn any_of(family: u8) -> IpAddr {
    if family == V6 { IpAddr::from([0; 16]) } else { IpAddr::from([0; 4]) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_and_attributes_end_whatever_the_bytes(bytes: Vec<u8>) {
            prop_assert!(Frames(&bytes).count() <= bytes.len());
            prop_assert!(Attributes(&bytes).count() <= bytes.len());
            let _ = (u32_of(&bytes), u8_of(&bytes), text_of(&bytes), ip_of(&bytes), u16_at(&bytes, 3), u32_at(&bytes, 3));
        }
    }

    #[test]
    fn attributes_are_cut_at_their_padding() {
        let bytes = [5, 0, 1, 0x80, 7, 0, 0, 0, 8, 0, 2, 0, 1, 2, 3, 4];
        let read: Vec<_> = Attributes(&bytes).map(Result::unwrap).collect();
        assert_eq!(read, [(1, &[7][..]), (2, &[1, 2, 3, 4][..])]);
        assert!(Attributes(&bytes[..6]).any(|read| read.is_ok()), "padding may be missing at the end");
        assert!(Attributes(&bytes[..15]).any(|read| read.is_err()));
    }
}
