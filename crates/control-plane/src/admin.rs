//! What the operator's commands ask a running server: a socket in the data folder that only the server's own user can
//! open. No container sees that folder.
//!
//! | request | answer |
//! |---|---|
//! | `GET /layers?keep_days=14` | a [`LayerList`] |
//! | `GET /disk` | a [`DiskReport`](crate::DiskReport) |
//! | `POST /gc?keep_days=14&dry_run=true` | a [`GarbageEvent`] per line |
//! | `GET /builds` | a [`BuildList`](crate::BuildList) |
//! | `POST /builds/cancel?image=im-1` | nothing, once the build has ended |
//! | `GET /volumes/unsaved` | an [`UnsavedList`](crate::UnsavedList) |
//! | `POST /volumes/recover?name=vo-1.ta-1` | [`RecoveredFiles`](crate::RecoveredFiles) |
//! | `GET /schedules` | a [`ScheduleList`](crate::ScheduleList) |
//! | `POST /schedules/run?app=nightly&function=report` | the id of the call that it makes |

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::StreamExt;

use crate::garbage::GarbageEvent;
use crate::shared::Shared;

/// In the data folder.
pub const ADMIN_SOCKET: &str = "admin.sock";
/// What was used within so many days is kept, where nothing else is asked for.
pub const KEEP_DAYS: f64 = 14.0;

/// The socket at work; it goes away with this.
pub struct Admin {
    path: PathBuf,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.accepting.abort();
        let _ = fs::remove_file(&self.path);
    }
}

/// Serves until the result is dropped.
pub fn serve(shared: Arc<Shared>) -> io::Result<Admin> {
    let path = shared.config.data_dir.join(ADMIN_SOCKET);
    let listener = listen(&path)?;
    let accepting = tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(serve_connection(shared.clone(), stream))),
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection of an operator's command");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(Admin { path, accepting })
}

/// The socket gets its name only when nobody else can open it any more.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let aside = path.with_extension("new");
    let _ = fs::remove_dir_all(&aside);
    fs::DirBuilder::new().mode(0o700).create(&aside)?;
    // The name of a socket may have a hundred bytes, those of folders more: so it is named through a descriptor.
    let folder = fs::File::open(&aside)?;
    let short = format!("/proc/self/fd/{}/socket", std::os::fd::AsRawFd::as_raw_fd(&folder));
    let listener = UnixListener::bind(short)?;
    fs::set_permissions(aside.join("socket"), fs::Permissions::from_mode(0o600))?;
    fs::rename(aside.join("socket"), path)?;
    fs::remove_dir(&aside)?;
    Ok(listener)
}

async fn serve_connection(shared: Arc<Shared>, stream: UnixStream) {
    let handle = service_fn(move |request: Request<Incoming>| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(&shared, &request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), handle).await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of an operator's command ended early");
    }
}

async fn answer(shared: &Arc<Shared>, request: &Request<Incoming>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/schedules") => return plain(StatusCode::OK, line(&shared.list_schedules().await)),
        (&Method::POST, "/schedules/run") => return run_schedule(shared, query).await,
        (&Method::GET, "/volumes/unsaved") => return json(shared.list_unsaved()),
        (&Method::POST, "/volumes/recover") => return recover(shared, query).await,
        (&Method::GET, "/builds") => return plain(StatusCode::OK, line(&shared.list_builds())),
        (&Method::POST, "/builds/cancel") => return cancel_build(shared, query).await,
        _ => {}
    }
    let options = match Options::parse(query) {
        Ok(options) => options,
        Err(error) => return plain(StatusCode::BAD_REQUEST, error),
    };
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/layers") => match shared.list_layers(options.keep).await {
            Ok(list) => plain(StatusCode::OK, line(&list)),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, error),
        },
        (&Method::GET, "/disk") => match shared.disk_report(options.keep).await {
            Ok(report) => plain(StatusCode::OK, line(&report)),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, error),
        },
        (&Method::POST, "/gc") => collect(shared.clone(), options),
        (method, path) => plain(StatusCode::NOT_FOUND, format!("there is no `{method} {path}` here")),
    }
}

async fn run_schedule(shared: &Arc<Shared>, query: &str) -> Response<Body> {
    let (Some(app), Some(function)) = (parameter(query, "app"), parameter(query, "function")) else {
        return plain(StatusCode::BAD_REQUEST, "the request names no `app` and `function`".to_owned());
    };
    match shared.run_schedule_now(&app, &function).await {
        Ok(call) => plain(StatusCode::OK, format!("{call}\n")),
        Err(error) => plain(StatusCode::BAD_REQUEST, error),
    }
}

async fn recover(shared: &Arc<Shared>, query: &str) -> Response<Body> {
    match parameter(query, "name") {
        Some(name) => json(shared.recover_unsaved(&name).await),
        None => plain(StatusCode::BAD_REQUEST, "the request says no `name`".to_owned()),
    }
}

fn json<T: Serialize>(answer: Result<T, String>) -> Response<Body> {
    match answer {
        Ok(answer) => plain(StatusCode::OK, line(&answer)),
        Err(error) => plain(StatusCode::BAD_REQUEST, error),
    }
}

async fn cancel_build(shared: &Arc<Shared>, query: &str) -> Response<Body> {
    let Some(image) = parameter(query, "image") else {
        return plain(StatusCode::BAD_REQUEST, "the request names no `image`".to_owned());
    };
    match shared.cancel_build(&image).await {
        Ok(()) => plain(StatusCode::OK, String::new()),
        Err(error) => plain(StatusCode::BAD_REQUEST, error),
    }
}

/// A parameter of a query, with its `%41` read.
fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').filter_map(|part| part.split_once('=')).find(|(given, _)| *given == name)?.1;
    let mut bytes = Vec::new();
    let mut rest = value.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

/// The collection goes on when the one who asked has gone: half of one is no better than a whole.
fn collect(shared: Arc<Shared>, options: Options) -> Response<Body> {
    let (sender, events) = tokio::sync::mpsc::unbounded_channel::<GarbageEvent>();
    tokio::spawn(async move {
        let progress = sender.clone();
        let say = move |event| drop(progress.send(event));
        let last = match shared.collect_garbage(options.keep, options.dry_run, say).await {
            Ok(report) => GarbageEvent::Finished(report),
            Err(error) => GarbageEvent::Failed { error },
        };
        let _ = sender.send(last);
    });
    let lines = tokio_stream::wrappers::UnboundedReceiverStream::new(events);
    Response::new(Body::from_stream(lines.map(|event| Ok::<_, Infallible>(line(&event)))))
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Options {
    keep: Duration,
    dry_run: bool,
}

impl Options {
    fn parse(query: &str) -> Result<Self, String> {
        let mut options = Self { keep: days(KEEP_DAYS)?, dry_run: false };
        for (name, value) in query.split('&').filter_map(|part| part.split_once('=')) {
            match name {
                "keep_days" => {
                    let number = value.parse().map_err(|_| format!("`{value}` is not a number of days"))?;
                    options.keep = days(number)?;
                }
                "dry_run" => options.dry_run = value == "true",
                _ => return Err(format!("there is no option `{name}` here")),
            }
        }
        Ok(options)
    }
}

fn days(number: f64) -> Result<Duration, String> {
    let seconds = number * 86_400.0;
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("`{number}` is not a number of days"))
}

fn line(value: &impl Serialize) -> String {
    // Plain structs of text and numbers: there is nothing in them that JSON cannot hold.
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_as_they_are_or_refused() {
        assert_eq!(Options::parse(""), Ok(Options { keep: Duration::from_secs(14 * 86_400), dry_run: false }));
        let given = Options::parse("keep_days=0.5&dry_run=true");
        assert_eq!(given, Ok(Options { keep: Duration::from_secs(43_200), dry_run: true }));
        for bad in ["keep_days=-1", "keep_days=x", "keep_days=NaN", "keep_days=1e300", "keep=1"] {
            assert!(Options::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parameters_are_read_or_not_there() {
        assert_eq!(parameter("app=a%20b%C3%A4&function=f", "app").as_deref(), Some("a bä"));
        assert_eq!(parameter("app=a&function=f.g", "function").as_deref(), Some("f.g"));
        for bad in ["", "app", "app=%", "app=%4", "app=%zz", "app=%ff", "other=a"] {
            assert_eq!(parameter(bad, "app"), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn the_socket_is_its_owners_alone_and_replaces_one_that_a_killed_server_left() {
        let folder = tempfile::tempdir().unwrap();
        // Longer than the name of a socket may be.
        let deep = folder.path().join("x".repeat(120));
        fs::create_dir(&deep).unwrap();
        let path = deep.join(ADMIN_SOCKET);
        drop(listen(&path).unwrap());
        let _listener = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 1);
    }
}
