//! What points a client at a server: read from a data directory, used by `env`, `login` and `run`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::{data_dir, running_server};

/// One of this machine's own addresses takes a connection at once or not at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Where the server of a data directory is, and the token that it accepts.
#[derive(Debug)]
pub struct ClientSettings {
    pub host: Host,
    pub port: u16,
    pub token_id: String,
    pub token_secret: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address of this machine.
    Own(IpAddr),
    /// What a person said that clients should use.
    Named(String),
}

/// As a proxy's list of exceptions has it.
impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own(ip) => ip.fmt(f),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl ClientSettings {
    /// Of a server that is ready, or about to be; as programs on this machine reach it.
    pub fn of_running_server(data: &Path) -> Result<Self> {
        let address = running_server::find(data)?;
        let identity = data_dir::identity(data)?;
        Ok(Self {
            host: Host::Own(on_this_machine(address.ip())),
            port: address.port(),
            token_id: identity.token_id,
            token_secret: identity.token_secret,
        })
    }

    /// As others reach it, too: of a server on all interfaces an address that other machines know, or the name that a
    /// person gives.
    pub fn for_others(data: &Path, named: Option<&str>) -> Result<Self> {
        let address = running_server::find(data)?;
        let mut settings = Self::of_running_server(data)?;
        match named {
            Some(name) => {
                let (host, port) = parse_host(name)?;
                settings.host = host;
                settings.port = port.unwrap_or(settings.port);
            }
            None if address.ip().is_unspecified() => settings.host = Host::Own(outward(address)),
            None => {}
        }
        Ok(settings)
    }

    pub fn server_url(&self) -> String {
        let host = match &self.host {
            Host::Own(IpAddr::V6(ip)) => format!("[{ip}]"),
            host => host.to_string(),
        };
        format!("http://{host}:{}", self.port)
    }

    /// The client's variables, in the order in which a person reads them.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("MODAL_SERVER_URL", self.server_url()),
            ("MODAL_TOKEN_ID", self.token_id.clone()),
            ("MODAL_TOKEN_SECRET", self.token_secret.clone()),
        ];
        if self.is_never_behind_a_proxy() {
            variables.push(("MODAL_DISABLE_API_PROXY", "1".to_owned()));
        }
        variables
    }

    /// Newer clients send even loopback traffic through the proxy that the environment names. This machine never needs one
    /// to reach itself; what is behind a name that a person chose is theirs to know.
    pub fn is_never_behind_a_proxy(&self) -> bool {
        matches!(self.host, Host::Own(_))
    }
}

/// A server on all interfaces is reached by way of loopback.
fn on_this_machine(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    }
}

/// Of a server on all interfaces, the address under which this machine goes out into the world; loopback when it has no
/// way out.
fn outward(address: SocketAddr) -> IpAddr {
    let ways_out =
        [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
    // A server on `[::]` usually takes IPv4 too, but not on every machine: so what is offered is tried.
    let answers = |ip: &IpAddr| TcpStream::connect_timeout(&(*ip, address.port()).into(), CONNECT_LIMIT).is_ok();
    ways_out.into_iter().filter_map(source_towards).find(answers).unwrap_or_else(|| on_this_machine(address.ip()))
}

/// Which address of ours the system would send from. The destination is one of those that are kept for documentation, and
/// connecting a datagram socket sends nothing.
fn source_towards(destination: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if destination.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((destination, 9)).ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_loopback() && !source.is_unspecified()).then_some(source)
}

/// `host`, `host:port`, `10.0.0.7`, `fd00::7` or `[fd00::7]:9900`. It is printed for a shell to evaluate, so nothing
/// but what names are made of is let through.
fn parse_host(text: &str) -> Result<(Host, Option<u16>)> {
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok((named(ip), None));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((named(address.ip()), Some(address.port())));
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, port.parse::<u16>().ok().map(Some)),
        None => (text, Some(None)),
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    match port {
        Some(port) if !name.is_empty() && name.bytes().all(is_plain) => Ok((Host::Named(name.to_owned()), port)),
        _ => bail!("`{text}` is not a host name or address like `gpu1.example.org`, `10.0.0.7` or `10.0.0.7:9900`"),
    }
}

fn named(ip: IpAddr) -> Host {
    match ip {
        ip if ip.is_loopback() => Host::Own(ip),
        IpAddr::V4(ip) => Host::Named(ip.to_string()),
        IpAddr::V6(ip) => Host::Named(format!("[{ip}]")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(host: Host) -> ClientSettings {
        ClientSettings { host, port: 9900, token_id: "ak-1".into(), token_secret: "as-1".into() }
    }

    fn own(ip: &str) -> Host {
        Host::Own(ip.parse().unwrap())
    }

    #[test]
    fn a_server_on_all_interfaces_is_reached_by_loopback_here() {
        let here = |ip: &str| on_this_machine(ip.parse().unwrap()).to_string();
        assert_eq!([here("0.0.0.0"), here("::"), here("10.0.0.7")], ["127.0.0.1", "::1", "10.0.0.7"]);
    }

    #[test]
    fn others_get_an_address_of_this_machine_that_answers() {
        let server = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let address = outward(server.local_addr().unwrap());
        let way_out = source_towards("192.0.2.1".parse().unwrap());
        assert_eq!(address, way_out.unwrap_or(Ipv4Addr::LOCALHOST.into()));
        let nobody = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 1);
        assert_eq!(outward(nobody), IpAddr::V4(Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn addresses_and_names_make_urls() {
        let urls = ["10.0.0.7", "fd00::7"].map(|ip| settings(own(ip)).server_url());
        assert_eq!(urls, ["http://10.0.0.7:9900", "http://[fd00::7]:9900"]);
        assert_eq!(settings(Host::Named("gpu1".into())).server_url(), "http://gpu1:9900");
    }

    #[test]
    fn only_a_host_that_a_person_named_may_be_behind_a_proxy() {
        let has_switch = |host| settings(host).variables().iter().any(|(name, _)| *name == "MODAL_DISABLE_API_PROXY");
        assert!(has_switch(own("127.0.0.1")) && has_switch(own("10.0.0.7")));
        assert!(!has_switch(Host::Named("gpu1.example.org".into())));
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_nothing_that_a_shell_would_act_on() {
        let named = |name: &str, port| Some((Host::Named(name.to_owned()), port));
        assert_eq!(parse_host("gpu1.example.org").ok(), named("gpu1.example.org", None));
        assert_eq!(parse_host("gpu1:80").ok(), named("gpu1", Some(80)));
        assert_eq!(parse_host("10.0.0.7:80").ok(), named("10.0.0.7", Some(80)));
        assert_eq!(parse_host("fd00::7").ok(), named("[fd00::7]", None));
        assert_eq!(parse_host("[fd00::7]:80").ok(), named("[fd00::7]", Some(80)));
        assert_eq!(parse_host("127.0.0.1").ok(), Some((own("127.0.0.1"), None)));
        for text in ["", ":80", "a b", "$(id)", "a;b", "http://a", "a:b", "a:99999", "ä"] {
            assert!(parse_host(text).is_err(), "{text}");
        }
    }
}
