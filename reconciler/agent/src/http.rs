//! `/metrics`, `/healthz`, `/readyz`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::agent::{Agent, StartError};
use crate::{metrics, readiness};

/// Connections served at once.
const CONNECTIONS: usize = 32;

/// Starts listening.
///
/// # Errors
/// When the port is taken.
pub async fn start(agent: &Arc<Agent>, tasks: &mut JoinSet<()>) -> Result<(), StartError> {
    let address = agent.config.http;
    let listener = TcpListener::bind(address).await.map_err(|error| StartError::Listen(address.to_string(), error))?;
    let agent = Arc::clone(agent);
    tasks.spawn(async move {
        let stopping = agent.stopping();
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
            let agent = Arc::clone(&agent);
            tokio::spawn(async move {
                let service = service_fn(|request| answer(&agent, request));
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

async fn answer(agent: &Arc<Agent>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
    let (status, text) = match request.uri().path() {
        _ if !is_read => (StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n".to_owned()),
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
        path => (StatusCode::NOT_FOUND, format!("{path} is not one of /metrics, /healthz, /readyz\n")),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    Ok(response)
}
