//! Which name servers containers are given.
//!
//! A machine's own list may name a resolver on its loopback (systemd-resolved, dnsmasq), which no container can reach.
//! systemd-resolved publishes the servers behind it in a second file; otherwise the operator has to say.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// The machine's list, and the one that systemd-resolved keeps of the servers behind its loopback address.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resolvers {
    pub servers: Vec<IpAddr>,
    /// `search` and `options` lines, kept as they are.
    pub other_lines: Vec<String>,
}

impl Resolvers {
    pub fn file(&self) -> String {
        let servers = self.servers.iter().map(|server| format!("nameserver {server}\n"));
        servers.chain(self.other_lines.iter().map(|line| format!("{line}\n"))).collect()
    }
}

/// The configured servers, or the first of the machine's lists that holds a reachable one.
pub fn choose(configured: &[IpAddr]) -> Resolvers {
    if !configured.is_empty() {
        return Resolvers { servers: configured.to_vec(), other_lines: Vec::new() };
    }
    let lists = FILES.iter().filter_map(|file| fs::read_to_string(file).ok()).map(|text| parse(&text));
    lists.into_iter().find(|list| !list.servers.is_empty()).unwrap_or_default()
}

/// A sentence for the operator when containers will not be able to resolve names.
pub fn warning(configured: &[IpAddr], settings_file: &Path) -> Option<String> {
    choose(configured).servers.is_empty().then(|| {
        format!(
            "this machine's name servers are all on its loopback, where containers cannot reach them: names will not \
             resolve in containers; set `network.resolvers` in `{}`",
            settings_file.display()
        )
    })
}

fn parse(text: &str) -> Resolvers {
    let mut found = Resolvers::default();
    for line in text.lines().map(str::trim) {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let server = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                found.servers.extend(server.filter(|server| server.is_ipv4() && !server.is_loopback()));
            }
            Some("search" | "options" | "domain") => found.other_lines.push(line.to_string()),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_ipv6_servers_are_left_out() {
        let found = parse("# c\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.7\nsearch example.net\n");
        assert_eq!(found.file(), "nameserver 192.0.2.7\nsearch example.net\n");
    }

    #[test]
    fn configured_servers_replace_the_machines() {
        let server: IpAddr = "192.0.2.9".parse().unwrap();
        assert_eq!(choose(&[server]).file(), "nameserver 192.0.2.9\n");
    }
}
