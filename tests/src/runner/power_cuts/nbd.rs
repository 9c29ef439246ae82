//! The disk's cable: the server's side of the NBD protocol (github.com/NetworkBlockDevice/nbd, doc/proto.md), as much of
//! it as qemu needs, for one client; and the switch that cuts the power between two requests.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cache::{Disk, Loss};
use super::random::Random;

/// `NBDMAGIC`, `IHAVEOPT`.
const GREETING: [u64; 2] = [0x4e42_444d_4147_4943, 0x4948_4156_454f_5054];
/// `NBD_FLAG_FIXED_NEWSTYLE`.
const FIXED_NEWSTYLE: u16 = 1;
const OPTION_GO: u32 = 7;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = 0x8000_0001;
/// `NBD_INFO_EXPORT`.
const INFO_EXPORT: u16 = 0;
/// `NBD_FLAG_HAS_FLAGS` and `NBD_FLAG_SEND_FLUSH`: there is a write cache.
const WRITE_CACHE: u16 = 1 | 1 << 2;

const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const INVALID: u32 = 22;
/// More than any request of qemu's, in bytes.
const LENGTH_LIMIT: u32 = 64 << 20;

/// When the power goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// With this write or flush, counted from 1.
    pub(super) request: u64,
    /// This one is still carried out; an answer it gets in no case.
    pub(super) performs_last: bool,
}

struct State {
    disk: Disk,
    cut: Option<Cut>,
    is_dark: bool,
}

/// A disk and the switch of its power.
pub(super) struct Supply(Mutex<State>);

impl Supply {
    /// With the power on.
    pub(super) fn new(disk: Disk) -> Self {
        Self(Mutex::new(State { disk, cut: None, is_dark: false }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the power in a while.
    pub(super) fn cut(&self, cut: Cut) {
        self.lock().cut = Some(cut);
    }

    /// Ends what the cut began, once the machine is dead, and puts the power on again.
    pub(super) fn restore(&self, random: &mut Random) -> io::Result<Loss> {
        let mut state = self.lock();
        let loss = state.disk.lose_power(random)?;
        state.cut = None;
        state.is_dark = false;
        Ok(loss)
    }

    /// Carries out a request; `None` is silence.
    fn perform(&self, request: &Request) -> Option<io::Result<Vec<u8>>> {
        let mut state = self.lock();
        let mut is_last = false;
        if let Some(cut) = state.cut.as_mut().filter(|_| request.kind != READ) {
            cut.request = cut.request.saturating_sub(1);
            is_last = cut.request == 0;
            state.is_dark |= is_last && !cut.performs_last;
        }
        if state.is_dark {
            return None;
        }
        let answer = match request.kind {
            READ => state.disk.read(request.offset, request.length as usize),
            WRITE => state.disk.write(request.offset, request.payload.clone()).map(|()| Vec::new()),
            _ => {
                state.disk.flush();
                Ok(Vec::new())
            }
        };
        state.is_dark = is_last;
        (!is_last).then_some(answer)
    }
}

struct Request {
    kind: u16,
    handle: u64,
    offset: u64,
    length: u32,
    payload: Vec<u8>,
}

/// Serves one machine until it is gone; `goes_dark` hears of the cut at once.
pub(super) fn serve(mut stream: UnixStream, supply: &Supply, goes_dark: impl FnOnce()) -> io::Result<()> {
    let size = supply.lock().disk.size();
    negotiate(&mut stream, size)?;
    while let Some(request) = next_request(&mut stream)? {
        let is_known = matches!(request.kind, READ | WRITE | FLUSH);
        let is_inside = request.offset.checked_add(request.length.into()).is_some_and(|end| end <= size);
        let answer =
            if is_known && is_inside { supply.perform(&request) } else { Some(Err(io::Error::other("refused"))) };
        let Some(answer) = answer else {
            goes_dark();
            // Closing would answer every request that still waits.
            io::copy(&mut stream, &mut io::sink())?;
            return Ok(());
        };
        let (error, bytes) = answer.map_or((INVALID, Vec::new()), |bytes| (0, bytes));
        let mut reply = Vec::with_capacity(16 + bytes.len());
        reply.extend(REPLY.to_be_bytes());
        reply.extend(error.to_be_bytes());
        reply.extend(request.handle.to_be_bytes());
        reply.extend(bytes);
        stream.write_all(&reply)?;
    }
    Ok(())
}

/// Shakes hands, and offers the disk.
fn negotiate(stream: &mut UnixStream, size: u64) -> io::Result<()> {
    let [magic, option] = GREETING.map(u64::to_be_bytes);
    stream.write_all(&[&magic[..], &option, &FIXED_NEWSTYLE.to_be_bytes()].concat())?;
    let _client_flags = u32::from_be_bytes(take(stream)?);
    loop {
        if u64::from_be_bytes(take(stream)?) != GREETING[1] {
            return Err(io::Error::other("this is no option"));
        }
        let option = u32::from_be_bytes(take(stream)?);
        let length = u32::from_be_bytes(take(stream)?);
        take_many(stream, length)?;
        if option != OPTION_GO {
            reply(stream, option, REPLY_UNSUPPORTED, &[])?;
            continue;
        }
        let export = [&INFO_EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &WRITE_CACHE.to_be_bytes()].concat();
        reply(stream, option, REPLY_INFO, &export)?;
        reply(stream, option, REPLY_ACK, &[])?;
        return Ok(());
    }
}

fn reply(stream: &mut UnixStream, option: u32, kind: u32, content: &[u8]) -> io::Result<()> {
    let numbers = [option, kind, content.len() as u32].map(u32::to_be_bytes).concat();
    stream.write_all(&[&OPTION_REPLY.to_be_bytes()[..], &numbers, content].concat())
}

/// The next one; `None` is the end.
fn next_request(stream: &mut UnixStream) -> io::Result<Option<Request>> {
    let magic = match take(stream) {
        Ok(bytes) => u32::from_be_bytes(bytes),
        Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if magic != REQUEST {
        return Err(io::Error::other("this is no request"));
    }
    let _flags = u16::from_be_bytes(take(stream)?);
    let kind = u16::from_be_bytes(take(stream)?);
    let handle = u64::from_be_bytes(take(stream)?);
    let offset = u64::from_be_bytes(take(stream)?);
    let length = u32::from_be_bytes(take(stream)?);
    if kind == DISCONNECT {
        return Ok(None);
    }
    let payload = take_many(stream, if kind == WRITE { length } else { 0 })?;
    Ok(Some(Request { kind, handle, offset, length, payload }))
}

fn take<const N: usize>(stream: &mut UnixStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn take_many(stream: &mut UnixStream, length: u32) -> io::Result<Vec<u8>> {
    if length > LENGTH_LIMIT {
        return Err(io::Error::other(format!("{length} bytes at once")));
    }
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::mpsc::channel;

    use super::*;

    const SIZE: u64 = 8192;

    fn supply() -> Supply {
        let path = std::env::temp_dir().join(format!("dragline-nbd-{}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(SIZE).unwrap();
        Supply::new(Disk::new(file, true).unwrap())
    }

    fn ask(client: &mut UnixStream, kind: u16, offset: u64, length: u32, payload: &[u8]) {
        let head = [&REQUEST.to_be_bytes()[..], &[0, 0], &kind.to_be_bytes(), &9u64.to_be_bytes()].concat();
        let tail = [&offset.to_be_bytes()[..], &length.to_be_bytes(), payload].concat();
        client.write_all(&[head, tail].concat()).unwrap();
    }

    /// The error number of the next answer.
    fn answer(client: &mut UnixStream) -> u32 {
        assert_eq!(u32::from_be_bytes(take(client).unwrap()), REPLY);
        let error = u32::from_be_bytes(take(client).unwrap());
        assert_eq!(u64::from_be_bytes(take(client).unwrap()), 9);
        error
    }

    #[test]
    fn it_answers_until_the_cut_and_never_after() {
        let supply = supply();
        let (server, mut client) = UnixStream::pair().unwrap();
        let (says, dark) = channel();
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| serve(server, &supply, || says.send(()).unwrap()));
            take::<18>(&mut client).unwrap();
            client.write_all(&[0, 0, 0, 1]).unwrap();
            for (option, replies) in [(8, 20), (OPTION_GO, 20 + 12 + 20)] {
                client.write_all(&GREETING[1].to_be_bytes()).unwrap();
                client.write_all(&[option, 0].map(u32::to_be_bytes).concat()).unwrap();
                take_many(&mut client, replies).unwrap();
            }
            ask(&mut client, WRITE, 512, 512, &[1; 512]);
            assert_eq!(answer(&mut client), 0);
            ask(&mut client, FLUSH, 0, 0, &[]);
            assert_eq!(answer(&mut client), 0);
            ask(&mut client, READ, 512, 512, &[]);
            assert_eq!(answer(&mut client), 0);
            assert_eq!(take::<512>(&mut client).unwrap(), [1; 512]);
            ask(&mut client, WRITE, SIZE, 512, &[1; 512]);
            assert_eq!(answer(&mut client), INVALID);

            supply.cut(Cut { request: 2, performs_last: false });
            ask(&mut client, READ, 0, 512, &[]);
            assert_eq!(answer(&mut client), 0);
            take::<512>(&mut client).unwrap();
            ask(&mut client, WRITE, 0, 512, &[2; 512]);
            assert_eq!(answer(&mut client), 0);
            ask(&mut client, FLUSH, 0, 0, &[]);
            dark.recv().unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            serving.join().unwrap().unwrap();
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        });
        let loss = supply.restore(&mut Random::new(1)).unwrap();
        // The one between the two flushes, of which the second was never carried out.
        assert_eq!(loss.kept + loss.lost + loss.torn, 1);
    }
}
