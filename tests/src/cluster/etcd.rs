//! What is asked of etcd itself, past the API server: by its JSON gateway, which takes HTTP.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

/// How long an answer is waited for.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

/// Forgets all revisions before the present one, which it tells.
pub(super) fn compact(etcd: SocketAddr) -> io::Result<u64> {
    // The key of one zero byte is nobody's.
    let found = ask(etcd, "/v3/kv/range", &json!({"key": "AA=="}))?;
    let revision = found["header"]["revision"].as_str().and_then(|text| text.parse().ok());
    let revision: u64 = revision.ok_or_else(|| io::Error::other(format!("etcd's revision is unclear: {found}")))?;
    ask(etcd, "/v3/kv/compaction", &json!({"revision": revision.to_string(), "physical": true}))?;
    Ok(revision)
}

fn ask(etcd: SocketAddr, path: &str, body: &Value) -> io::Result<Value> {
    let mut stream = TcpStream::connect_timeout(&etcd, ANSWERED_WITHIN)?;
    stream.set_read_timeout(Some(ANSWERED_WITHIN))?;
    let body = body.to_string();
    // By HTTP/1.0 the answer ends with the connection.
    write!(stream, "POST {path} HTTP/1.0\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    if !head.starts_with("HTTP/1.0 200") {
        return Err(io::Error::other(format!("etcd answers {path} with {text}")));
    }
    serde_json::from_str(body).map_err(io::Error::other)
}
