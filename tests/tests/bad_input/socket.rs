//! Whoever talks to the agent's socket, and says anything.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use schemas::cni::error::CniError;
use schemas::wire::{Answer, Call, MAX_MESSAGE, PROTOCOL, Request, encode_frame, read_frame};

use crate::node::trial;
use crate::witness::Witness;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("socket::messages_that_are_none", messages),
        trial("socket::another_protocol", another_protocol),
        trial("socket::garbage_on_many_connections", garbage),
        trial("socket::half_messages_and_slow_writers_hold_nobody_up", slow),
        trial("socket::is_for_its_owner_alone", owner_alone),
    ]
}

fn connect(witness: &Witness) -> UnixStream {
    let stream = UnixStream::connect(&witness.node.agent.settings().socket).unwrap();
    // A test that waits for ever says nothing.
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn framed(length: usize, body: &[u8]) -> Vec<u8> {
    [&u32::try_from(length).unwrap().to_be_bytes(), body].concat()
}

fn refusal(stream: &mut UnixStream) -> CniError {
    match read_frame(stream).unwrap() {
        Answer::Error(error) => error,
        other => panic!("{other:?}"),
    }
}

fn messages() {
    let witness = Witness::new("k1");
    let status = serde_json::to_value(Request { protocol: PROTOCOL, deadline_ms: 1000, call: Call::Status }).unwrap();
    let mut unknown_key = status.clone();
    unknown_key["more"] = serde_json::json!(1);
    let mut negative = status.clone();
    negative["deadlineMs"] = serde_json::json!(-1);
    let mut other_call = status.clone();
    other_call["call"] = serde_json::json!({"reformat": {}});
    let texts = [
        "",
        "x",
        "[]",
        "{}",
        "null",
        &"[".repeat(MAX_MESSAGE),
        &unknown_key.to_string(),
        &negative.to_string(),
        &other_call.to_string(),
    ]
    .map(str::to_owned);
    for text in texts {
        let mut stream = connect(&witness);
        stream.write_all(&framed(text.len(), text.as_bytes())).unwrap();
        let error = refusal(&mut stream);
        assert_eq!(error.code, CniError::DECODE);
        assert!(error.msg.starts_with("the agent: message is not understood: "), "{error}");
    }
    // Longer than allowed: refused by its length, before any of it has come.
    for length in [MAX_MESSAGE + 1, usize::try_from(u32::MAX).unwrap()] {
        let mut stream = connect(&witness);
        stream.write_all(&framed(length, b"")).unwrap();
        let error = refusal(&mut stream);
        assert_eq!(error.code, CniError::DECODE);
        assert!(error.msg.contains(&format!("{length} bytes is longer than the {MAX_MESSAGE} allowed")), "{error}");
    }
    witness.is_unharmed();
}

fn another_protocol() {
    let witness = Witness::new("k2");
    let mut stream = connect(&witness);
    let request = Request { protocol: PROTOCOL + 1, deadline_ms: 1000, call: Call::Status };
    stream.write_all(&encode_frame(&request).unwrap()).unwrap();
    let error = refusal(&mut stream);
    assert_eq!(error.code, CniError::INCOMPATIBLE_VERSION);
    assert!(error.msg.contains("install both from one release"), "{error}");
    witness.is_unharmed();
}

/// Bytes by chance, the same each time.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

fn garbage() {
    let witness = Witness::new("k3");
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let request = Request { protocol: PROTOCOL, deadline_ms: 1000, call: Call::Status };
    let good = encode_frame(&request).unwrap();
    for round in 0..1_000 {
        let mut stream = connect(&witness);
        let length = usize::try_from(dice.next() % 300).unwrap();
        let bytes = match round % 4 {
            0 => dice.bytes(length),
            1 => framed(length, &dice.bytes(length)),
            2 => good[..length % good.len()].to_vec(),
            _ => {
                let mut flipped = good.clone();
                // Not in the length, which would make it a message that never comes whole.
                let place = 4 + length % (good.len() - 4);
                flipped[place] ^= 1 << (length % 8);
                flipped
            }
        };
        // It may have had enough already.
        let _ = stream.write_all(&bytes);
        if round % 3 == 0 {
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
    witness.is_unharmed();
}

/// As many as are served at once stall; the agent gives up on each of them, and serves who comes next.
fn slow() {
    let witness = Witness::new("k4");
    let request = Request { protocol: PROTOCOL, deadline_ms: 1000, call: Call::Status };
    let good = encode_frame(&request).unwrap();
    let mut stalled: Vec<UnixStream> = (0..64)
        .map(|number| {
            let mut stream = connect(&witness);
            stream.write_all(&good[..number % good.len()]).unwrap();
            stream
        })
        .collect();
    let started = Instant::now();
    witness.is_unharmed();
    assert!(started.elapsed() < Duration::from_secs(4), "others wait for those that stall");
    // One that says its last byte in time is served.
    let patient = 5;
    stalled[patient].write_all(&good[patient..]).unwrap();
    assert!(matches!(read_frame(&mut stalled[patient]).unwrap(), Answer::Status(_)));
    // The others are told nothing, and hung up on.
    for (number, mut stream) in stalled.into_iter().enumerate().filter(|(number, _)| *number != patient) {
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        assert!(
            answer.is_empty() && !matches!(&ended, Err(error) if is_timeout(error)),
            "{number}: {ended:?} {answer:?}"
        );
    }
    witness.is_unharmed();
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

fn owner_alone() {
    let witness = Witness::new("k5");
    let mode = std::fs::metadata(&witness.node.agent.settings().socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
