//! Whether others have an address, and whether gateways are there, asked from inside a pod before it speaks to anybody:
//! address conflict detection (RFC 5227 for IPv4, RFC 4862 5.4 for IPv6) and gateway detection.
//!
//! All questions go out at once, each is repeated by its pace, and silence counts only on a link that is up in the end.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use nix::errno::Errno;
use schemas::intent::NetnsIdentity;
use schemas::name::Mac;
use tokio::time::{Instant, sleep_until};

use super::ndp::{self, Message};
use super::station::{Heard, Listening, Station};
use crate::exchange::ExchangeError;
use crate::namespace::NamespaceError;
use crate::pass::Kernel;

/// Something to be found out on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// Does anybody else use this address, or is about to? It is asked by nobody, so that nobody learns a wrong address.
    Conflict(IpAddr),
    /// Does the gateway answer?
    Gateway {
        /// Whom to ask for; of the same family as `source`.
        gateway: IpAddr,
        /// Who asks: the pod's address. A gateway that has a link-local address is asked from the link's own.
        source: IpAddr,
    },
}

/// How often and how long a question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How often, at least once.
    pub tries: u32,
    /// From one try to the next.
    pub interval: Duration,
    /// After the last try, until silence is the answer.
    pub patience: Duration,
}

impl Pace {
    /// For conflicts: 0.2 s of silence mean that there is none.
    pub const CONFLICT: Self =
        Self { tries: 3, interval: Duration::from_millis(50), patience: Duration::from_millis(100) };
    /// For gateways: after 0.5 s of silence it is unreachable.
    pub const GATEWAY: Self =
        Self { tries: 4, interval: Duration::from_millis(100), patience: Duration::from_millis(200) };

    /// How long it takes when nobody answers.
    pub fn longest(&self) -> Duration {
        self.interval * self.tries.saturating_sub(1) + self.patience
    }
}

/// The paces of both kinds of questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paces {
    /// For [`Question::Conflict`].
    pub conflict: Pace,
    /// For [`Question::Gateway`].
    pub gateway: Pace,
}

impl Default for Paces {
    fn default() -> Self {
        Self { conflict: Pace::CONFLICT, gateway: Pace::GATEWAY }
    }
}

/// Why it is not known what the wire says: never to be taken for silence.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// The namespace has no such link.
    #[error("there is no link {link} in {place}")]
    NoLink {
        /// Its name.
        link: String,
        /// The namespace's path.
        place: String,
    },
    /// The link is down, or has lost its carrier meanwhile.
    #[error("nobody can be asked on link {link}: it is down or has no carrier")]
    LinkDown {
        /// Its name.
        link: String,
    },
    /// On links of this kind neighbours are not asked for: they have no hardware address of six bytes, or need none.
    #[error("neighbours are not asked for on link {link}: it is no Ethernet, or needs no ARP")]
    NotAsked {
        /// Its name.
        link: String,
    },
    /// No try of a question left the link.
    #[error("asking for {address} on link {link}: {}", .errno.desc())]
    Unsent {
        /// Whom.
        address: IpAddr,
        /// The link's name.
        link: String,
        /// The last word of the kernel.
        errno: Errno,
    },
    /// A socket could not be opened or read.
    #[error("asking on link {link}: {source}; the agent needs CAP_NET_RAW")]
    Socket {
        /// The link's name.
        link: String,
        /// Why not.
        source: io::Error,
    },
    /// The kernel was not asked for its links, or refused.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The agent's runtime is ending.
    #[error("the look was not finished: the agent is stopping")]
    Stopped,
}

/// A question under way.
struct Asked {
    question: Question,
    pace: Pace,
    tries: u32,
    /// The next try, or the end.
    next: Instant,
    answer: Option<Mac>,
    has_sent: bool,
    refusal: Option<Errno>,
}

impl Asked {
    fn is_over(&self, now: Instant) -> bool {
        self.answer.is_some() || (self.tries >= self.pace.tries.max(1) && now >= self.next)
    }

    fn ask(&mut self, on: &Listening, now: Instant) {
        let (target, source) = self.question.parties(on.mac());
        match on.ask(target, source) {
            Ok(()) => self.has_sent = true,
            Err(errno) => self.refusal = Some(errno),
        }
        self.tries += 1;
        self.next = now + if self.tries < self.pace.tries { self.pace.interval } else { self.pace.patience };
    }
}

impl Question {
    fn address(&self) -> IpAddr {
        match self {
            Self::Conflict(address) => *address,
            Self::Gateway { gateway, .. } => *gateway,
        }
    }

    /// For whom is asked, and who asks.
    fn parties(&self, mac: Mac) -> (IpAddr, Option<IpAddr>) {
        match self {
            Self::Conflict(address) => (*address, None),
            Self::Gateway { gateway: gateway @ IpAddr::V6(ip), .. } if ip.is_unicast_link_local() => {
                (*gateway, Some(IpAddr::V6(ndp::link_local(mac))))
            }
            Self::Gateway { gateway, source } => (*gateway, Some(*source)),
        }
    }

    /// Who has answered it by what was heard.
    fn answer(&self, heard: &Heard) -> Option<Mac> {
        match (self, heard) {
            (Self::Conflict(IpAddr::V4(address)), Heard::Arp(packet)) => {
                let has_it = packet.sender == *address;
                let wants_it = packet.sender.is_unspecified() && packet.target == *address;
                (has_it || wants_it).then_some(packet.sender_mac)
            }
            (Self::Gateway { gateway: IpAddr::V4(gateway), .. }, Heard::Arp(packet)) => {
                (packet.is_reply && packet.sender == *gateway).then_some(packet.sender_mac)
            }
            (Self::Conflict(IpAddr::V6(address)), Heard::Ndp { message, from }) => match message {
                Message::Advertisement { target, mac } if target == address => Some(mac.unwrap_or(*from)),
                Message::Solicitation { source, target } if source.is_unspecified() && target == address => Some(*from),
                Message::Advertisement { .. } | Message::Solicitation { .. } => None,
            },
            (Self::Gateway { gateway: IpAddr::V6(gateway), .. }, Heard::Ndp { message, from }) => match message {
                Message::Advertisement { target, mac } if target == gateway => Some(mac.unwrap_or(*from)),
                Message::Advertisement { .. } | Message::Solicitation { .. } => None,
            },
            _ => None,
        }
    }
}

impl Kernel {
    /// Asks on a link of a namespace, all at once: to each question, in their order, the hardware address of who answered,
    /// or None when nobody did. The link has to be up. What the namespace's own links say is no answer. While it runs, at
    /// most as long as the longer pace, the namespace is kept alive.
    ///
    /// # Errors
    /// It was not asked, or it is not known what came of it: never to be taken for silence.
    pub async fn detect(
        &self,
        netns: &NetnsIdentity,
        link: &str,
        questions: &[Question],
        paces: Paces,
    ) -> Result<Vec<Option<Mac>>, DetectError> {
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        let addresses = questions.iter().map(Question::address).collect();
        let (on, ground) = self.station(netns, link, addresses).await?.listen()?;
        let begun = Instant::now();
        let under_way = questions.iter().map(|question| Asked {
            question: *question,
            pace: if matches!(question, Question::Conflict(_)) { paces.conflict } else { paces.gateway },
            tries: 0,
            next: begun,
            answer: None,
            has_sent: false,
            refusal: None,
        });
        let mut asked: Vec<Asked> = under_way.collect();
        let listened = listen(&on, &mut asked).await;
        close(on);
        listened.map_err(|source| DetectError::Socket { link: link.to_owned(), source })?;
        if let Some(unsent) = asked.iter().find(|one| one.answer.is_none() && !one.has_sent) {
            let (address, errno) = (unsent.question.address(), unsent.refusal.unwrap_or(Errno::UnknownErrno));
            return Err(DetectError::Unsent { address, link: link.to_owned(), errno });
        }
        if asked.iter().any(|one| one.answer.is_none()) {
            // Nothing is heard on a link that has gone down meanwhile.
            tokio::task::spawn_blocking(move || ground.see_it_up()).await.map_err(|_| DetectError::Stopped)??;
        }
        Ok(asked.into_iter().map(|one| one.answer).collect())
    }

    /// Tells the link's neighbours that these addresses are there now, so that nobody sends to who had them before: for
    /// addresses that came to a link which was up already.
    ///
    /// # Errors
    /// Not all were told.
    pub async fn announce(&self, netns: &NetnsIdentity, link: &str, addresses: &[IpAddr]) -> Result<(), DetectError> {
        if addresses.is_empty() {
            return Ok(());
        }
        let (on, _ground) = self.station(netns, link, addresses.to_vec()).await?.listen()?;
        let told = |address: &IpAddr| {
            let unsent = |errno| DetectError::Unsent { address: *address, link: link.to_owned(), errno };
            on.announce(*address).map_err(unsent)
        };
        let told = addresses.iter().try_for_each(told);
        close(on);
        told
    }

    async fn station(&self, netns: &NetnsIdentity, link: &str, addresses: Vec<IpAddr>) -> Result<Station, DetectError> {
        let (kernel, netns, link) = (self.clone(), netns.clone(), link.to_owned());
        let opened = tokio::task::spawn_blocking(move || Station::open(&kernel, &netns, &link, &addresses)).await;
        opened.map_err(|_| DetectError::Stopped)?
    }
}

/// Closing a packet socket waits for all readers of the kernel's tables, some milliseconds: nobody else has to.
fn close(on: Listening) {
    tokio::task::spawn_blocking(move || drop(on));
}

/// Asks and hears until every question is answered or over.
async fn listen(on: &Listening, asked: &mut [Asked]) -> io::Result<()> {
    loop {
        let now = Instant::now();
        for one in asked.iter_mut().filter(|one| now >= one.next && !one.is_over(now)) {
            one.ask(on, now);
        }
        let Some(wake) = asked.iter().filter(|one| !one.is_over(now)).map(|one| one.next).min() else { return Ok(()) };
        tokio::select! {
            () = sleep_until(wake) => {}
            heard = on.hear() => {
                let heard = heard?;
                for one in asked.iter_mut().filter(|one| one.answer.is_none()) {
                    one.answer = one.question.answer(&heard);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::super::arp::Packet;
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 8]);
    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn arp(is_reply: bool, sender: Ipv4Addr, target: Ipv4Addr) -> Heard {
        Heard::Arp(Packet { is_reply, sender_mac: MAC, sender, target })
    }

    #[test]
    fn a_conflict_is_who_has_the_address_or_tries_it_out_too() {
        let question = Question::Conflict(A.into());
        for (heard, wanted) in [
            (arp(true, A, Ipv4Addr::UNSPECIFIED), Some(MAC)),
            (arp(false, A, B), Some(MAC)),
            (arp(false, Ipv4Addr::UNSPECIFIED, A), Some(MAC)),
            // Somebody asks for it, as for any address.
            (arp(false, B, A), None),
            (arp(true, B, A), None),
        ] {
            assert_eq!(question.answer(&heard), wanted, "{heard:?}");
        }
    }

    #[test]
    fn a_gateway_is_there_when_it_answers() {
        let question = Question::Gateway { gateway: A.into(), source: B.into() };
        assert_eq!(question.answer(&arp(true, A, B)), Some(MAC));
        assert_eq!(question.answer(&arp(false, A, B)), None);
        assert_eq!(question.answer(&arp(true, B, A)), None);
    }

    #[test]
    fn an_advertisement_tells_the_hardware_address_or_the_frame_does() {
        let [a, b]: [Ipv6Addr; 2] = ["fd00::1", "fd00::2"].map(|text| text.parse().unwrap());
        let conflict = Question::Conflict(a.into());
        let gateway = Question::Gateway { gateway: a.into(), source: b.into() };
        let heard = |message| Heard::Ndp { message, from: OTHER };
        let told = heard(Message::Advertisement { target: a, mac: Some(MAC) });
        let untold = heard(Message::Advertisement { target: a, mac: None });
        let tried = heard(Message::Solicitation { source: Ipv6Addr::UNSPECIFIED, target: a });
        let asked = heard(Message::Solicitation { source: b, target: a });
        let another = heard(Message::Advertisement { target: b, mac: Some(MAC) });
        let answers = |question: Question| [told, untold, tried, asked, another].map(|heard| question.answer(&heard));
        assert_eq!(answers(conflict), [Some(MAC), Some(OTHER), Some(OTHER), None, None]);
        assert_eq!(answers(gateway), [Some(MAC), Some(OTHER), None, None, None]);
    }
}
