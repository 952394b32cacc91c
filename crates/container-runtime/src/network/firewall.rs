//! The packet filter rules, as one text that `nft` loads at once.

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use super::resolvers;
use crate::config::{RuntimeConfig, Subnet};
use crate::sys::{Doing, Failure};

pub fn install(config: &RuntimeConfig, subnet: Subnet) -> Doing<()> {
    let resolvers = resolvers::choose(&config.resolvers).servers;
    run(&rules(&config.nft_table(), &config.bridge_name(), subnet, &resolvers))
}

pub fn remove(config: &RuntimeConfig) {
    let table = config.nft_table();
    // Declaring it first makes removing it succeed whether or not it was there.
    let _ = run(&format!("table inet {table}\ndelete table inet {table}\n"));
}

/// Everything that containers may and may not do on the network.
fn rules(table: &str, bridge: &str, subnet: Subnet, resolvers: &[IpAddr]) -> String {
    let servers: Vec<String> = resolvers.iter().filter(|address| address.is_ipv4()).map(IpAddr::to_string).collect();
    let names = match servers.as_slice() {
        [] => String::new(),
        list => format!(
            "    ip daddr {{ {list} }} udp dport 53 accept\n    ip daddr {{ {list} }} tcp dport 53 accept\n",
            list = list.join(", ")
        ),
    };
    format!(
        "table inet {table}
delete table inet {table}
table inet {table} {{
  chain to_machine {{
    type filter hook input priority filter - 10; policy accept;
    iifname != \"{bridge}\" accept
    ct state established,related accept
{names}    drop
  }}
  chain through_machine {{
    type filter hook forward priority filter - 10; policy accept;
    iifname \"{bridge}\" jump from_container
    oifname != \"{bridge}\" accept
    ct state established,related accept
    drop
  }}
  chain from_container {{
    meta nfproto ipv6 drop
    oifname \"{bridge}\" drop
    ip saddr != {subnet} drop
{names}    ip daddr 169.254.0.0/16 drop
  }}
  chain way_out {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != \"{bridge}\" masquerade
  }}
}}
"
    )
}

fn run(script: &str) -> Doing<()> {
    let missing = |error: std::io::Error| {
        Failure(format!(
            "cannot run `nft`, which containers with a network need ({error}); install it with `apt-get install nftables`"
        ))
    };
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    if let Some(mut input) = child.stdin.take() {
        // A write that fails means that `nft` has ended; its own message says why.
        let _ = input.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(missing)?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(Failure(format!("`nft` refused the container rules: {}", reason.lines().next().unwrap_or("no reason given"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const SUBNET: Subnet = Subnet { base: Ipv4Addr::new(10, 64, 16, 0), prefix: 20 };

    #[test]
    fn name_servers_are_allowed_before_anything_is_dropped() {
        let text = rules("t", "b", SUBNET, &[IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254))]);
        let allowed = text.find("ip daddr { 169.254.169.254 } udp dport 53 accept").unwrap();
        assert!(allowed < text.find("    drop").unwrap());
    }

    #[test]
    fn without_name_servers_nothing_of_the_machine_is_open() {
        let text = rules("t", "b", SUBNET, &[]);
        assert!(!text.contains("dport"));
    }
}
