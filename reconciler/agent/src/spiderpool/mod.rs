//! The original agent's HTTP API over a unix socket (../spec/ipam.md 2), for its plugins where they are still installed, and
//! for programs that ask it for a pod's addresses.

mod answers;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::server;

/// Connections served at once.
const CONNECTIONS: usize = 64;
/// The longest body that is read, in bytes.
const MAX_BODY: usize = 1 << 20;
/// In which a request must have arrived.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the original's plugins wait for an answer is 100 s; an answer is to come before that.
const DEADLINE: Duration = Duration::from_secs(95);
/// After which a socket that another has is tried again: nothing tells when it has gone.
const AGAIN: Duration = Duration::from_secs(30);

/// A status and a JSON body; an empty one is no body.
type Answered = (StatusCode, String);

/// Starts answering, where the agent's own setting says, else where ConfigMap `spiderpool-conf` does; a socket that another
/// program answers at is that program's.
pub fn start(agent: &Arc<Agent>, tasks: &mut JoinSet<()>) {
    let agent = Arc::clone(agent);
    tasks.spawn(async move {
        let stopping = agent.stopping();
        tokio::pin!(stopping);
        let mut declared = agent.declared();
        let mut told = String::new();
        loop {
            let wanted = wanted(&agent);
            let bound = match &wanted {
                Some(path) => bind(path).await,
                None => Err(String::new()),
            };
            if let Err(error) = &bound
                && told != *error
            {
                tracing::warn!(error, "the API of Spiderpool's agent is not answered");
                told.clone_from(error);
            }
            let moved = async { while self::wanted(&agent) == wanted && declared.changed().await.is_ok() {} };
            match (bound, &wanted) {
                (Ok(listener), Some(path)) => {
                    tracing::info!(socket = %path.display(), "the API of Spiderpool's agent is answered");
                    let until = async {
                        tokio::select! { () = moved => {}, () = &mut stopping => {} }
                    };
                    let serve = |stream| {
                        let agent = Arc::clone(&agent);
                        async move { connection(&agent, stream).await }
                    };
                    server::accept(listener, CONNECTIONS, until, serve).await;
                    if let Err(error) = std::fs::remove_file(path) {
                        tracing::debug!(%error, "the socket was gone already");
                    }
                }
                (_, Some(_)) => tokio::select! {
                    () = moved => {}
                    () = tokio::time::sleep(AGAIN) => {}
                    () = &mut stopping => {}
                },
                (_, None) => tokio::select! {
                    () = moved => {}
                    () = &mut stopping => {}
                },
            }
            if agent.is_stopping() {
                return;
            }
        }
    });
}

fn wanted(agent: &Agent) -> Option<PathBuf> {
    let declared = || PathBuf::from(&agent.catalogue().conf.ipam_unix_socket_path);
    Some(agent.config.spiderpool_socket.clone().unwrap_or_else(declared)).filter(|path| !path.as_os_str().is_empty())
}

async fn bind(path: &Path) -> Result<UnixListener, String> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    }
    server::bind(path).await.map_err(|error| error.to_string())
}

async fn connection(agent: &Arc<Agent>, stream: UnixStream) {
    let service = service_fn(|request| respond(agent, request));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "an HTTP connection ended badly");
    }
}

async fn respond(agent: &Arc<Agent>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let read = tokio::time::timeout(PATIENCE, Limited::new(body, MAX_BODY).collect()).await;
    let (status, text) = match read {
        Ok(Ok(body)) => {
            agent.metrics.calls.inc();
            let deadline = Instant::now() + DEADLINE;
            answer(agent, &parts.method, parts.uri.path(), parts.uri.query(), &body.to_bytes(), deadline).await
        }
        Ok(Err(error)) => answers::error(StatusCode::BAD_REQUEST, &format!("the request's body: {error}")),
        Err(_) => answers::error(StatusCode::REQUEST_TIMEOUT, &format!("the body did not arrive in {PATIENCE:?}")),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn answer(
    agent: &Arc<Agent>,
    method: &Method,
    path: &str,
    query: Option<&str>,
    body: &[u8],
    deadline: Instant,
) -> Answered {
    match (method.as_str(), path) {
        ("GET", "/v1/ipam/healthy") => answers::healthy(agent),
        ("POST", "/v1/ipam/ip") => answers::add(agent, body, deadline).await,
        ("DELETE", "/v1/ipam/ip") => answers::delete(agent, body, deadline).await,
        // The original does nothing either.
        ("POST", "/v1/ipam/ips") => (StatusCode::OK, String::new()),
        ("DELETE", "/v1/ipam/ips") => answers::delete_all(agent, body, deadline).await,
        ("GET", "/v1/workloadendpoint") => answers::endpoint(agent, query.unwrap_or_default()),
        ("GET", "/v1/coordinator/config") => answers::coordinator(agent, body),
        _ => answers::error(
            StatusCode::NOT_FOUND,
            &format!(
                "{method} {path} is not one of those that are answered: ipam/healthy, ipam/ip, ipam/ips, workloadendpoint, coordinator/config under /v1"
            ),
        ),
    }
}
