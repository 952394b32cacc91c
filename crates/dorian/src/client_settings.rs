//! What points a client at a server: read from a data directory, used by `env`, `login` and `run`.

use std::fs::{self, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::data_dir;

/// A server on this machine takes a connection at once or not at all; one elsewhere may be a few round trips away.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Where the server of a data directory is, and the token that it accepts.
pub struct ClientSettings {
    pub address: SocketAddr,
    pub token_id: String,
    pub token_secret: String,
}

impl ClientSettings {
    pub fn read(data: &Path) -> Result<Self> {
        let (identity, address) = data_dir::client_settings(data)?;
        let file = data.join("address");
        let address = address
            .trim()
            .parse()
            .with_context(|| format!("`{}` is damaged; start the server again to have it written", file.display()))?;
        Ok(Self { address: reachable(address), token_id: identity.token_id, token_secret: identity.token_secret })
    }

    pub fn server_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The client's variables, in the order in which a person reads them.
    ///
    /// Newer clients send even loopback traffic through the proxy that the environment names; a server on loopback is
    /// never behind one, so they are told not to.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("MODAL_SERVER_URL", self.server_url()),
            ("MODAL_TOKEN_ID", self.token_id.clone()),
            ("MODAL_TOKEN_SECRET", self.token_secret.clone()),
        ];
        if self.address.ip().is_loopback() {
            variables.push(("MODAL_DISABLE_API_PROXY", "1".to_owned()));
        }
        variables
    }

    /// True when something takes connections at the address.
    pub fn is_reachable(&self) -> bool {
        TcpStream::connect_timeout(&self.address, CONNECT_LIMIT).is_ok()
    }
}

/// True when a server holds the data directory, ready or not.
///
/// The lock is tried, not asked for, because `flock` cannot be asked: a server that starts in the same microsecond
/// would be told that the directory is in use, and says so.
pub fn is_in_use(data: &Path) -> bool {
    let Ok(lock) = OpenOptions::new().read(true).open(data.join("lock")) else { return false };
    // SAFETY: flock only reads the descriptor, which `lock` keeps open; closing it gives the lock back.
    unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) != 0 }
}

/// Removes the address of a server that has stopped and that nobody will start again at that port.
pub fn forget_address(data: &Path) {
    let _ = fs::remove_file(data.join("address"));
}

/// A server on all interfaces is reached by way of loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_all_interfaces_is_reached_by_loopback() {
        assert_eq!(reachable("0.0.0.0:9900".parse().unwrap()).to_string(), "127.0.0.1:9900");
        assert_eq!(reachable("[::]:9900".parse().unwrap()).to_string(), "[::1]:9900");
        assert_eq!(reachable("10.0.0.7:80".parse().unwrap()).to_string(), "10.0.0.7:80");
    }

    #[test]
    fn only_loopback_turns_the_clients_proxy_off() {
        let settings = |address: &str| ClientSettings {
            address: address.parse().unwrap(),
            token_id: "ak-1".into(),
            token_secret: "as-1".into(),
        };
        assert!(settings("127.0.0.1:9900").variables().iter().any(|(name, _)| *name == "MODAL_DISABLE_API_PROXY"));
        assert_eq!(settings("10.0.0.7:9900").variables().len(), 3);
    }
}
