//! `/metrics`, `/healthz`, `/readyz`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
pub use hyper::StatusCode;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::agent::{Agent, StartError};
use crate::{metrics, readiness};

/// Connections served at once.
const CONNECTIONS: usize = 32;

/// What a path is answered with.
pub type Answered = (StatusCode, String);

/// Starts listening for the agent.
///
/// # Errors
/// When the port is taken.
pub async fn start(agent: &Arc<Agent>, tasks: &mut JoinSet<()>) -> Result<(), StartError> {
    let answering = Arc::clone(agent);
    serve(agent.config.http, agent.stopping(), tasks, move |path| agent_answer(&answering, path)).await
}

/// Starts listening; every path that is read is answered by `answer`.
///
/// # Errors
/// When the port is taken.
pub async fn serve(
    address: SocketAddr,
    stopping: impl Future<Output = ()> + Send + 'static,
    tasks: &mut JoinSet<()>,
    answer: impl Fn(&str) -> Answered + Send + Sync + 'static,
) -> Result<(), StartError> {
    let listener = TcpListener::bind(address).await.map_err(|error| StartError::Listen(address.to_string(), error))?;
    let answer = Arc::new(answer);
    tasks.spawn(async move {
        tokio::pin!(stopping);
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut stopping => return,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let service = service_fn(|request| respond(&*answer, request));
                let mut http = hyper::server::conn::http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(5)).keep_alive(false);
                if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(%error, "an HTTP connection ended badly");
                }
                drop(permit);
            });
        }
    });
    Ok(())
}

async fn respond(
    answer: &(impl Fn(&str) -> Answered + Sync),
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
    let (status, text) = match request.uri().path() {
        _ if !is_read => (StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n".to_owned()),
        path => answer(path),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    Ok(response)
}

/// What is answered to a path that is none of ours.
pub fn unknown(path: &str) -> Answered {
    (StatusCode::NOT_FOUND, format!("{path} is not one of /metrics, /healthz, /readyz\n"))
}

fn agent_answer(agent: &Agent, path: &str) -> Answered {
    match path {
        "/healthz" => match agent.ledger.store().poisoned() {
            None => (StatusCode::OK, "ok\n".to_owned()),
            Some(reason) => (StatusCode::INTERNAL_SERVER_ERROR, format!("the store is poisoned: {reason}\n")),
        },
        "/readyz" => {
            let reasons = readiness::missing(agent, None);
            if reasons.is_empty() {
                (StatusCode::OK, "ok\n".to_owned())
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", reasons.join("\n")))
            }
        }
        "/metrics" => match metrics::text(agent) {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        path => unknown(path),
    }
}
