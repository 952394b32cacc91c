//! Connections: from clients over TCP, from containers through their own sockets, both onto the same handlers.
//!
//! A connection's origin decides who its caller is. Over TCP every call carries the token. Through a task's socket
//! nothing is carried, and nothing could be: whoever can open that socket is that task.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use client_protocol::ModalClientServer;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tonic::{Code, Status};
use tower::ServiceExt;
use types::ids::TaskId;
use worker_protocol::{ContainerApi, ContainerStream};

use crate::answer_limit::{AnswerRoom, Paced};
use crate::caller::{Caller, ClientVersion, Principal};
use crate::clip;
use crate::message_limit::{Hold, MAX_MESSAGE, MAX_WAITING, Measured};
use crate::rpc::Api;
use crate::shared::Shared;
use crate::unserved::unserved;

const SERVICE: &str = "/modal.client.ModalClient/";
/// Calls open at once on one connection. The client uploads with hundreds of calls in parallel over a single one.
const MAX_STREAMS: u32 = 10_000;
/// What a call may send before it is read.
const STREAM_WINDOW: u32 = 1 << 20;
/// What all calls of a connection may send before it is read. Large requests that wait for memory are not read: the others
/// have a window also when all of those are on one connection.
const CONNECTION_WINDOW: u32 = MAX_WAITING as u32 * STREAM_WINDOW + (16 << 20);

pub struct Server {
    service: ModalClientServer<Api>,
    http: Router,
    token_id: String,
    token_secret: String,
    shared: Arc<Shared>,
}

impl Server {
    pub fn new(api: Api, http: Router) -> Self {
        let config = &api.shared.config;
        let (token_id, token_secret) = (config.token_id.clone(), config.token_secret.clone());
        let shared = api.shared.clone();
        let service = ModalClientServer::new(api).max_decoding_message_size(MAX_MESSAGE);
        Self { service: service.max_encoding_message_size(MAX_MESSAGE), http, token_id, token_secret, shared }
    }

    /// Accepts clients until the future is dropped.
    pub async fn serve_clients(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    tokio::spawn(self.clone().serve_connection(stream, None));
                }
                Err(error) => {
                    // Out of descriptors, mostly: existing connections go on, and some will close.
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    pub async fn serve_connection(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        task: Option<TaskId>,
    ) {
        let handle = service_fn(move |request| {
            let (server, task) = (self.clone(), task.clone());
            async move { Ok::<_, Infallible>(server.handle(request, task).await) }
        });
        if let Err(error) = transport().serve_connection(TokioIo::new(stream), handle).await {
            tracing::debug!(%error, "a connection ended early");
        }
    }

    async fn handle(&self, mut request: Request<Incoming>, task: Option<TaskId>) -> Response<Body> {
        let path = request.uri().path();
        let is_grpc = path.starts_with(SERVICE);
        if !is_grpc
            && request.headers().get("content-type").is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"))
        {
            return not_ours(path);
        }
        if !is_grpc {
            let answer = self.http.clone().oneshot(request.map(Body::new)).await;
            return answer.unwrap_or_else(|never| match never {});
        }
        let path = path.to_owned();
        if task.is_none() && self.shared.shutting_down.load(std::sync::atomic::Ordering::Relaxed) {
            // The client comes back by itself; what it brings now might be lost.
            return Status::unavailable("the server is being stopped").into_http();
        }
        match self.identify(request.headers(), request.uri().authority().map(|a| a.as_str()), task) {
            Ok(caller) => request.extensions_mut().insert(caller),
            Err(status) => return status.into_http(),
        };
        let mut service = self.service.clone();
        // The library lets go of the body as soon as the message is decoded; the message is in memory until it is handled.
        let hold = Hold::default();
        request.extensions_mut().insert(hold.clone());
        let method = path.strip_prefix(SERVICE).unwrap_or_default();
        let request = request.map(|body| Measured::new(body, method, hold.clone()));
        let answer = tower::Service::call(&mut service, request).await;
        drop(hold);
        let mut answer = answer.unwrap_or_else(|never| match never {}).map(Body::new);
        if let Some(room) = answer.extensions_mut().remove::<AnswerRoom>() {
            answer = answer.map(|body| Body::new(Paced::new(body, room)));
        }
        name_unserved(answer.headers_mut(), &path);
        clip_message(answer.headers_mut());
        answer
    }

    fn identify(
        &self,
        headers: &HeaderMap,
        authority: Option<&str>,
        task: Option<TaskId>,
    ) -> Result<Caller, Box<Status>> {
        let host = headers.get("host").and_then(|h| h.to_str().ok());
        let authority = authority.or(host).unwrap_or_default().to_owned();
        let principal = match task {
            Some(task) => Principal::Container(task),
            None => {
                self.check_token(headers)?;
                Principal::Client
            }
        };
        let caller = Caller::from_headers(headers, principal, authority);
        if caller.version < ClientVersion::OLDEST {
            return Err(Box::new(Status::failed_precondition(format!(
                "this client is modal {}, and Dorian serves 0.63 and newer; upgrade with `pip install -U modal`",
                caller.version
            ))));
        }
        Ok(caller)
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), Box<Status>> {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let (id, secret) = (text("x-modal-token-id"), text("x-modal-token-secret"));
        if id.is_empty() || secret.is_empty() {
            return Err(Box::new(Status::unauthenticated(
                "this server wants a token; `dorian env` prints the settings that carry it, `dorian login` stores them",
            )));
        }
        if id != self.token_id || !same(secret, &self.token_secret) {
            return Err(Box::new(Status::unauthenticated(format!(
                "token `{id}` is not a token of this server; `dorian env` prints the right one, `dorian login` stores it"
            ))));
        }
        Ok(())
    }
}

pub fn transport() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http2()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    builder
}

/// Compares digests, so that the time taken says nothing about the secret.
fn same(given: &str, secret: &str) -> bool {
    Sha256::digest(given) == Sha256::digest(secret)
}

/// A call of another service.
fn not_ours(path: &str) -> Response<Body> {
    let mut answer = Status::unimplemented("").into_http();
    name_unserved(answer.headers_mut(), path);
    answer
}

/// A method that is not served says what it is for.
fn name_unserved(headers: &mut HeaderMap, path: &str) {
    let code = Code::Unimplemented as i32;
    let is_unimplemented = headers.get("grpc-status").is_some_and(|s| s.as_bytes() == code.to_string().as_bytes());
    if !is_unimplemented || headers.get("grpc-message").is_some_and(|m| !m.is_empty()) {
        return;
    }
    let method = path.rsplit('/').next().unwrap_or(path);
    set_message(headers, &unserved(method));
}

/// What a client has sent may stand in the message, and a header of hundreds of kilobytes breaks its connection.
fn clip_message(headers: &mut HeaderMap) {
    if headers.get("grpc-message").is_none_or(|message| message.len() <= clip::LITERAL) {
        return;
    }
    let Some(status) = Status::from_header_map(headers) else { return };
    if let Cow::Owned(clipped) = clip::clip(status.message()) {
        set_message(headers, &Status::new(status.code(), clipped));
    }
}

fn set_message(headers: &mut HeaderMap, status: &Status) {
    let mut written = HeaderMap::new();
    if status.add_header(&mut written).is_ok()
        && let Some(message) = written.remove("grpc-message")
    {
        headers.insert("grpc-message", message);
    }
}

/// Where workers bring containers' connections. Made before the server, because the worker is.
#[derive(Default)]
pub struct ContainerEndpoint {
    server: OnceLock<Arc<Server>>,
}

impl ContainerEndpoint {
    pub fn open(&self, server: Arc<Server>) {
        let _ = self.server.set(server);
    }
}

impl ContainerApi for ContainerEndpoint {
    fn serve(&self, task: TaskId, stream: Box<dyn ContainerStream>) {
        if let Some(server) = self.server.get() {
            tokio::spawn(server.clone().serve_connection(stream, Some(task)));
        }
    }
}
