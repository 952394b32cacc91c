//! Is there a server on a data directory, and where: asked by everything that points a client at one.
//!
//! The lock says whether a server holds the directory, and the file `address` where it listens. A server removes that
//! file when it takes the lock and when it lets go of it, and writes it when it is ready. One that was killed leaves it
//! behind: so it counts only while somebody holds the lock, and only when something answers there.
//!
//! Rejected: printing the default address, or the last one, when nothing runs. A client that is pointed at nothing tries
//! for a minute and then speaks of the network.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::data_dir::{self, Holder};
use crate::output::step_if_slow;

/// A restart with much to recover takes seconds; a disk that is hopelessly slow is not waited for.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Between two looks at a server that is about to start. This is not on a call's way.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// A server on this machine takes a connection at once or not at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// What a look at the directory shows.
#[derive(Debug, Clone, Copy)]
struct View {
    holder: Holder,
    address: Option<SocketAddr>,
    answers: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Ready(SocketAddr),
    /// Somebody holds the directory, and is not ready yet.
    Starting,
    Nothing,
}

fn decide(view: View) -> Finding {
    match (view.holder, view.address.filter(|_| view.answers)) {
        (Holder::Server | Holder::Unknown, Some(address)) => Finding::Ready(address),
        (Holder::Server, None) => Finding::Starting,
        // An address without a holder is what a killed server left: whatever answers there is another's.
        (Holder::Nobody, _) | (Holder::Unknown, None) => Finding::Nothing,
    }
}

/// Where the server of this directory listens; waits for one that is about to start.
///
/// # Errors
/// When no server holds the directory, or the one that does is not ready in time.
pub fn find(data: &Path) -> Result<SocketAddr> {
    match decide(look(data)) {
        Finding::Ready(address) => Ok(address),
        // Whoever may not read the directory is told that first.
        Finding::Nothing => data_dir::identity(data).and_then(|_| Err(data_dir::nothing_runs(data))),
        Finding::Starting => {
            let limit = START_LIMIT.as_secs();
            let what = format!("waiting for the server on `{}` to be ready (at most {limit} s)", data.display());
            step_if_slow(&what, || wait(data))
        }
    }
}

fn wait(data: &Path) -> Result<SocketAddr> {
    let started = Instant::now();
    while started.elapsed() < START_LIMIT {
        std::thread::sleep(TRY_AGAIN);
        match decide(look(data)) {
            Finding::Ready(address) => return Ok(address),
            // It ended before it was ready; or was killed, and what cleaned up behind it has ended.
            Finding::Nothing => return Err(data_dir::nothing_runs(data)),
            Finding::Starting => {}
        }
    }
    bail!(
        "a server holds the data directory `{}`, but was not ready within {} s; see its log, or stop it",
        data.display(),
        START_LIMIT.as_secs()
    )
}

/// True when a server is ready there; asks once.
pub fn is_ready(data: &Path) -> bool {
    matches!(decide(look(data)), Finding::Ready(_))
}

fn look(data: &Path) -> View {
    let address = data_dir::address(data);
    // A server on all interfaces is reached by way of loopback: that is what the system makes of `0.0.0.0` and `[::]`.
    let answers = address.is_some_and(|address| TcpStream::connect_timeout(&address, CONNECT_LIMIT).is_ok());
    // Asked last: whoever holds the directory after the address was read, and removes it first, has not written it.
    View { holder: data_dir::holder(data), address, answers }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(holder: Holder, has_address: bool, answers: bool) -> Finding {
        decide(View { holder, address: has_address.then(|| "127.0.0.1:9900".parse().unwrap()), answers })
    }

    #[test]
    fn a_server_counts_when_it_holds_its_directory_and_answers() {
        assert_eq!(view(Holder::Server, true, true), Finding::Ready("127.0.0.1:9900".parse().unwrap()));
        assert_eq!(view(Holder::Server, false, false), Finding::Starting);
        assert_eq!(view(Holder::Server, true, false), Finding::Starting);
    }

    #[test]
    fn what_answers_at_the_address_of_a_killed_server_is_another() {
        assert_eq!(view(Holder::Nobody, true, true), Finding::Nothing);
        assert_eq!(view(Holder::Nobody, false, false), Finding::Nothing);
    }

    #[test]
    fn who_may_not_look_at_the_lock_believes_what_answers() {
        assert_eq!(view(Holder::Unknown, true, true), Finding::Ready("127.0.0.1:9900".parse().unwrap()));
        assert_eq!(view(Holder::Unknown, true, false), Finding::Nothing);
    }

    #[test]
    fn an_unused_directory_has_no_server_and_the_error_says_how_to_start_one() {
        let data = tempfile::tempdir().unwrap();
        let error = find(data.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("dorian up --data {}", data.path().display())), "{error}");
    }
}
