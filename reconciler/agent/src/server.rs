//! The agent's socket: one request and one answer per connection, from root or the agent's own user alone.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use schemas::cni::error::CniError;
use schemas::wire::{self, Answer, Call, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::agent::{Agent, StartError};
use crate::call;
use crate::call::dump;

/// Connections served at once; more wait to be accepted.
const CONNECTIONS: usize = 256;
/// In which a request must have arrived, and an answer been taken.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that a call may ask to wait.
const LONGEST: Duration = Duration::from_secs(120);

/// Takes the socket. Whoever connects waits until [`start`].
///
/// # Errors
/// When another agent listens there, or the socket cannot be made.
pub async fn bind(path: &Path) -> Result<UnixListener, StartError> {
    listen(path).await.map_err(|error| StartError::Listen(path.display().to_string(), error))
}

/// Starts answering.
pub fn start(agent: &Arc<Agent>, listener: UnixListener, tasks: &mut JoinSet<()>) {
    let path = agent.config.socket.clone();
    let agent = Arc::clone(agent);
    tasks.spawn(async move {
        let serve = |stream| {
            let agent = Arc::clone(&agent);
            async move { connection(&agent, stream).await }
        };
        accept(listener, CONNECTIONS, agent.stopping(), serve).await;
        // Whoever comes now sees at once that nobody is here.
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(%error, "the socket was gone already");
        }
    });
}

async fn listen(path: &Path) -> std::io::Result<UnixListener> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, "another agent answers there"));
    }
    // A socket file without a listener is what a killed agent leaves behind.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves so many connections at once of those who may ask, each as `serve` does it, until `until` completes and all of
/// them have ended.
pub async fn accept<Served: Future<Output = ()> + Send + 'static>(
    listener: UnixListener,
    most: usize,
    until: impl Future<Output = ()>,
    serve: impl Fn(UnixStream) -> Served,
) {
    tokio::pin!(until);
    let permits = Arc::new(Semaphore::new(most));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut until => break,
        };
        match accepted {
            Ok((stream, _)) if is_trusted(&stream) => {
                let served = serve(stream);
                connections.spawn(async move {
                    served.await;
                    drop(permit);
                });
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Only root and the agent's own user may ask.
fn is_trusted(stream: &UnixStream) -> bool {
    let peer = stream.peer_cred().map(|peer| peer.uid());
    let own = nix::unistd::geteuid().as_raw();
    let is_trusted = matches!(&peer, Ok(uid) if *uid == 0 || *uid == own);
    if !is_trusted {
        tracing::warn!(?peer, "refused: only root and the agent's own user may ask");
    }
    is_trusted
}

async fn connection(agent: &Arc<Agent>, mut stream: UnixStream) {
    let request = match tokio::time::timeout(PATIENCE, read(&mut stream)).await {
        Ok(Ok(Some(request))) => request,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            tracing::warn!(%error, "a message on the socket is not a request");
            let answer = Answer::Error(CniError::new(CniError::DECODE, format!("the agent: {error}")));
            write(&mut stream, &answer).await;
            return;
        }
        Err(_) => {
            tracing::warn!("a request did not arrive in {PATIENCE:?}");
            return;
        }
    };
    if request.protocol == wire::PROTOCOL && request.call == Call::Dump {
        agent.metrics.calls.inc();
        dump::answer(agent, stream).await;
        return;
    }
    let answer = if request.protocol == wire::PROTOCOL {
        let deadline = Duration::from_millis(u64::from(request.deadline_ms)).min(LONGEST);
        call::answer(agent, request.call, tokio::time::Instant::now() + deadline).await
    } else {
        Answer::Error(CniError::new(
            CniError::INCOMPATIBLE_VERSION,
            format!(
                "the plugin speaks version {} of the agent's protocol, the agent version {}: install both from one release",
                request.protocol,
                wire::PROTOCOL
            ),
        ))
    };
    write(&mut stream, &answer).await;
}

/// A request; None when the other end said nothing at all.
async fn read(stream: &mut UnixStream) -> Result<Option<Request>, wire::FrameError> {
    let mut prefix = [0; 4];
    if stream.read(&mut prefix[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut prefix[1..]).await?;
    let mut body = vec![0; wire::frame_length(prefix)?];
    stream.read_exact(&mut body).await?;
    Ok(Some(serde_json::from_slice(&body)?))
}

async fn write(stream: &mut UnixStream, answer: &Answer) {
    let frame = match wire::encode_frame(answer) {
        Ok(frame) => frame,
        Err(error) => {
            tracing::error!(%error, "an answer cannot be sent");
            let too_long = Answer::Error(CniError::new(
                CniError::FAILED,
                format!("the answer cannot be sent ({error}): ask for less, by name or namespace"),
            ));
            match wire::encode_frame(&too_long) {
                Ok(frame) => frame,
                Err(_) => return,
            }
        }
    };
    match tokio::time::timeout(PATIENCE, stream.write_all(&frame)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the asker has gone"),
        Err(_) => tracing::warn!("an answer was not taken in {PATIENCE:?}"),
    }
}
