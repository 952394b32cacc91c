//! The machine's side and the container's side of a private network with a way out.
//!
//! Every container has its own link to one bridge. The bridge is the only thing that it can reach directly (its port is
//! isolated from the others), and packet filter rules let it go on from there only to other machines: not to another
//! container, not to any service of this machine, and not to link-local addresses, where clouds hand out the
//! machine's credentials. Name servers are the exception, when they live at such an address.

pub mod firewall;
pub mod netlink;
pub mod resolvers;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;

use crate::config::{RuntimeConfig, Subnet};
use crate::sys::{self, At, Doing};
use netlink::{Netlink, Pair};

/// What a container needs to know about the runtime's network.
#[derive(Debug, Clone)]
pub struct Bridge {
    pub index: u32,
    pub subnet: Subnet,
    pub mtu: u32,
}

/// The link of one container.
#[derive(Debug, Clone)]
pub struct Link {
    pub host_name: String,
    pub address: Ipv4Addr,
    pub bridge: Bridge,
}

/// Makes the bridge and the packet filter table, from nothing: what a predecessor left is removed first.
pub fn set_up(config: &RuntimeConfig) -> Doing<Bridge> {
    remove_links(config);
    let routes = Routes::read();
    let subnet = match config.subnet {
        Some(subnet) => subnet,
        None => config
            .subnet_candidates()
            .find(|candidate| !routes.overlap(*candidate))
            .ok_or_else(|| io::Error::other("every block in 10.64.0.0/10 is in use"))
            .at(format_args!(
                "choose addresses for containers (set `network.subnet` in `{}`)",
                config.settings_file.display()
            ))?,
    };
    firewall::install(config, subnet)?;
    let name = config.bridge_name();
    let mtu = routes.outer_mtu();
    let mut link = Netlink::open().at("open a netlink socket")?;
    link.add_bridge(&name, mac(subnet.gateway()), mtu).at(format_args!("make bridge `{name}`"))?;
    let index = sys::interface_index(&name).at(format_args!("find bridge `{name}`"))?;
    // No addresses of its own making: an IPv6 one would be a second way to this machine.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    link.add_address(index, subnet.gateway(), subnet.prefix).at(format_args!("give bridge `{name}` its address"))?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").at("turn on `net.ipv4.ip_forward`")?;
    Ok(Bridge { index, subnet, mtu })
}

/// Removes bridge, links and table. Silent about what is not there.
pub fn tear_down(config: &RuntimeConfig) {
    firewall::remove(config);
    remove_links(config);
}

fn remove_links(config: &RuntimeConfig) {
    let Ok(mut link) = Netlink::open() else { return };
    let (bridge, prefix) = (config.bridge_name(), config.veth_prefix());
    let Ok(entries) = fs::read_dir("/sys/class/net") else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if (name == bridge || name.starts_with(&prefix))
            && let Ok(index) = sys::interface_index(&name)
        {
            let _ = link.remove_link(index);
        }
    }
}

/// Brings up loopback in the namespace that the caller is in.
pub fn loopback_up() -> Doing<()> {
    let mut link = Netlink::open().at("open a netlink socket")?;
    link.set_up(1).at("bring up loopback")?;
    relax_namespace();
    Ok(())
}

/// Connects the caller's network namespace to the bridge. `host` was opened before the caller left the machine's.
pub fn connect(host: &mut Netlink, wanted: &Link) -> Doing<()> {
    // Before the link exists: IPv6 would otherwise start to look for neighbours at once.
    let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    let netns = sys::openat(None, "/proc/self/ns/net", libc::O_RDONLY).at("open `/proc/self/ns/net`")?;
    let pair = Pair {
        host: &wanted.host_name,
        bridge: wanted.bridge.index,
        inside: "eth0",
        inside_mac: mac(wanted.address),
        netns: netns.as_raw_fd(),
        mtu: wanted.bridge.mtu,
    };
    host.add_pair(&pair).at(format_args!("make network link `{}`", wanted.host_name))?;
    host.isolate_port(&wanted.host_name).at(format_args!("isolate network link `{}`", wanted.host_name))?;
    let mut inside = Netlink::open().at("open a netlink socket")?;
    let index = sys::interface_index("eth0").at("find `eth0`")?;
    let subnet = wanted.bridge.subnet;
    inside.add_address(index, wanted.address, subnet.prefix).at("give `eth0` its address")?;
    inside.set_up(index).at("bring up `eth0`")?;
    inside.add_default_route(subnet.gateway(), index).at("add the default route")
}

/// Root inside has no power over this namespace, so what it may expect from one is allowed to everybody: low ports
/// and ping.
fn relax_namespace() {
    let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    let _ = fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
}

/// A listening socket on this namespace's loopback, for the server to answer.
pub fn listen_on_loopback(port: u16) -> Doing<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).at(format_args!("listen on 127.0.0.1:{port} in the container"))
}

/// Locally administered, and the same for the same address, so that neighbours' tables never go stale.
fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0xd0, a, b, c, d]
}

/// This machine's IPv4 routes, as far as choosing addresses needs them.
struct Routes(Vec<(String, Subnet)>);

impl Routes {
    fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/net/route").unwrap_or_default())
    }

    /// Columns: interface, destination, gateway, flags, references, uses, metric, mask, ...; little-endian hex.
    fn parse(text: &str) -> Self {
        let rows = text.lines().skip(1).filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let number = |column: usize| u32::from_str_radix(columns.get(column)?, 16).ok().map(u32::from_be);
            let base = Ipv4Addr::from(number(1)?);
            Some((columns.first()?.to_string(), Subnet { base, prefix: number(7)?.leading_ones() as u8 }))
        });
        Self(rows.collect())
    }

    fn overlap(&self, subnet: Subnet) -> bool {
        self.0.iter().any(|(_, route)| route.prefix > 0 && route.overlaps(subnet))
    }

    /// Packets must fit the link that leads out; 1500 when there is none.
    fn outer_mtu(&self) -> u32 {
        let outer = self.0.iter().find(|(_, route)| route.prefix == 0);
        outer
            .and_then(|(name, _)| fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok()?.trim().parse().ok())
            .unwrap_or(1500)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000400A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0";

    #[test]
    fn a_block_that_a_route_covers_is_not_chosen() {
        let routes = Routes::parse(TABLE);
        assert!(routes.overlap(Subnet { base: Ipv4Addr::new(10, 64, 0, 0), prefix: 20 }));
        assert!(!routes.overlap(Subnet { base: Ipv4Addr::new(10, 65, 0, 0), prefix: 20 }));
    }

    #[test]
    fn the_default_route_covers_nothing_in_this_sense() {
        let routes = Routes::parse(TABLE.lines().take(2).collect::<Vec<_>>().join("\n").as_str());
        assert!(!routes.overlap(Subnet { base: Ipv4Addr::new(10, 64, 0, 0), prefix: 20 }));
    }
}
