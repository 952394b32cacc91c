//! One HTTP/2 connection with the client's headers on every call.
//!
//! Not tonic's own channel: that hands each request to a task of its own before it reaches the connection, and the
//! generator should take as little of the machine from the server as it can.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use anyhow::Result;
use client_protocol::ModalClientClient;
use http::{HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body;

use crate::server::{TOKEN_ID, TOKEN_SECRET};

pub type Client = ModalClientClient<Connection>;

#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Body>,
    /// Callers carry the token; containers are known by their socket.
    token: bool,
    keys: Arc<AtomicU64>,
}

/// Keys of all connections are different: the server takes a repeated one for a repeated request.
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

pub async fn connect(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, token: bool) -> Result<Client> {
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let keys = Arc::new(AtomicU64::new(CONNECTIONS.fetch_add(1, Ordering::Relaxed) << 40));
    let connection = Connection { sender, token, keys };
    Ok(ModalClientClient::with_origin(connection, Uri::from_static("http://localhost")))
}

impl tower::Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let headers = request.headers_mut();
        headers.insert("x-modal-client-version", HeaderValue::from_static("1.6.4"));
        headers.insert("x-modal-client-type", HeaderValue::from_static("1"));
        headers.insert("x-modal-python-version", HeaderValue::from_static("3.11.2"));
        if self.token {
            headers.insert("x-modal-token-id", HeaderValue::from_static(TOKEN_ID));
            headers.insert("x-modal-token-secret", HeaderValue::from_static(TOKEN_SECRET));
        }
        // As long as the client's, which is a UUID.
        let key = format!("00000000-0000-4000-8000-{:012x}", self.keys.fetch_add(1, Ordering::Relaxed));
        if let Ok(key) = HeaderValue::from_str(&key) {
            headers.insert("x-idempotency-key", key);
        }
        Box::pin(self.sender.send_request(request))
    }
}
