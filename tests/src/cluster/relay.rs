//! What stands between the API server and an etcd that is far away: all that is said comes later, in its order.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::process::Home;

/// A TCP relay. It takes no more connections when this is dropped.
#[derive(Debug)]
pub(super) struct Relay {
    /// Where it listens.
    pub(super) address: SocketAddr,
    delay: Arc<Delay>,
    is_over: Arc<AtomicBool>,
    home: Home,
}

/// How much later what is sent arrives, each way.
#[derive(Debug, Default)]
struct Delay(Mutex<Range<Duration>>);

impl Delay {
    fn any(&self) -> Duration {
        let Range { start, end } = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let chance = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
        start + end.saturating_sub(start).mul_f64(chance)
    }
}

impl Relay {
    /// One to that server, both in that namespace; it delays nothing yet.
    pub(super) fn start(home: &Home, server: SocketAddr) -> io::Result<Self> {
        let listener = home.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let (delay, is_over) = (Arc::<Delay>::default(), Arc::<AtomicBool>::default());
        let relay = Self { address, delay: Arc::clone(&delay), is_over: Arc::clone(&is_over), home: home.clone() };
        let home = home.clone();
        let take = move || {
            // Without the namespace no connection comes about, which is what is seen then.
            let _ = home.enter();
            for client in listener.incoming().flatten() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                // A server that is not there closes the connection.
                let _ = TcpStream::connect(server).and_then(|server| join(&client, &server, &delay));
            }
        };
        thread::Builder::new().name("relay".into()).spawn(take)?;
        Ok(relay)
    }

    /// From now on.
    pub(super) fn delay(&self, delay: Range<Duration>) {
        *self.delay.0.lock().unwrap_or_else(PoisonError::into_inner) = delay;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // It looks when somebody comes.
        let _ = self.home.run(|| TcpStream::connect(self.address));
    }
}

fn join(client: &TcpStream, server: &TcpStream, delay: &Arc<Delay>) -> io::Result<()> {
    for (from, to) in [(client, server), (server, client)] {
        let (from, to, delay) = (from.try_clone()?, to.try_clone()?, Arc::clone(delay));
        to.set_nodelay(true)?;
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new().name("relay".into()).spawn(move || listen(from, &delay, &sender))?;
        thread::Builder::new().name("relay".into()).spawn(move || tell(to, &receiver))?;
    }
    Ok(())
}

/// Until the connection ends, which is told in its turn as well.
fn listen(mut from: TcpStream, delay: &Delay, sender: &Sender<(Instant, Vec<u8>)>) {
    let mut due = Instant::now();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let size = from.read(&mut buffer).unwrap_or(0);
        due = due.max(Instant::now() + delay.any());
        if sender.send((due, buffer[..size].to_vec())).is_err() || size == 0 {
            return;
        }
    }
}

fn tell(mut to: TcpStream, receiver: &Receiver<(Instant, Vec<u8>)>) {
    for (due, text) in receiver {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if text.is_empty() || to.write_all(&text).is_err() {
            break;
        }
    }
    // It may be closed already. Both ways, so that who listens there ends.
    let _ = to.shutdown(Shutdown::Both);
}
