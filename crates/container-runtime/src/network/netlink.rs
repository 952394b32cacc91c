//! The few rtnetlink requests that containers need, written out.
//!
//! Running `ip` would cost a fork and several milliseconds per container; a netlink library would be larger than the
//! six requests used here. Each request is a header, a fixed struct, and attributes padded to four bytes.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use crate::sys::socket;

const NLM_REQUEST_ACK: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
const NLM_CREATE: u16 = NLM_REQUEST_ACK | (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
const NESTED: u16 = libc::NLA_F_NESTED as u16;
const UP: u32 = libc::IFF_UP as u32;
/// Inside the nested description of a veth link: the other end.
const VETH_INFO_PEER: u16 = 1;
// What libc does not name: a port's settings, as its bridge understands them.
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_ISOLATED: u16 = 33;

/// A connection to the kernel's network configuration, for the namespace in which it was opened.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// One veth pair: `host` stays here as a port of `bridge`, `inside` goes to the namespace `netns`.
pub struct Pair<'a> {
    pub host: &'a str,
    pub bridge: u32,
    pub inside: &'a str,
    pub inside_mac: [u8; 6],
    pub netns: RawFd,
    pub mtu: u32,
}

impl Netlink {
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: socket::netlink()?, sequence: 0 })
    }

    /// The address is given because a bridge otherwise takes the lowest of its ports' addresses, a different one with
    /// every container, and packets to the old one are dropped.
    pub fn add_bridge(&mut self, name: &str, mac: [u8; 6], mtu: u32) -> io::Result<()> {
        let mut request = Request::link(libc::RTM_NEWLINK, NLM_CREATE, libc::AF_UNSPEC, 0, UP);
        request.text(libc::IFLA_IFNAME, name);
        request.number(libc::IFLA_MTU, mtu);
        request.attribute(libc::IFLA_ADDRESS, &mac);
        request.nest(libc::IFLA_LINKINFO | NESTED, |info| info.text(libc::IFLA_INFO_KIND, "bridge"));
        self.ask(request)
    }

    pub fn add_pair(&mut self, pair: &Pair<'_>) -> io::Result<()> {
        let mut request = Request::link(libc::RTM_NEWLINK, NLM_CREATE, libc::AF_UNSPEC, 0, UP);
        request.text(libc::IFLA_IFNAME, pair.host);
        request.number(libc::IFLA_MTU, pair.mtu);
        request.number(libc::IFLA_MASTER, pair.bridge);
        request.nest(libc::IFLA_LINKINFO | NESTED, |info| {
            info.text(libc::IFLA_INFO_KIND, "veth");
            info.nest(libc::IFLA_INFO_DATA | NESTED, |data| {
                data.nest(VETH_INFO_PEER | NESTED, |peer| {
                    peer.link_header(libc::AF_UNSPEC, 0, 0);
                    peer.text(libc::IFLA_IFNAME, pair.inside);
                    peer.number(libc::IFLA_MTU, pair.mtu);
                    peer.attribute(libc::IFLA_ADDRESS, &pair.inside_mac);
                    peer.number(libc::IFLA_NET_NS_FD, pair.netns as u32);
                });
            });
        });
        self.ask(request)
    }

    /// Forbids traffic between this bridge port and other isolated ports; the bridge itself stays reachable.
    pub fn isolate_port(&mut self, name: &str) -> io::Result<()> {
        let mut request = Request::link(libc::RTM_NEWLINK, NLM_REQUEST_ACK, libc::AF_UNSPEC, 0, 0);
        request.text(libc::IFLA_IFNAME, name);
        request.nest(libc::IFLA_LINKINFO | NESTED, |info| {
            info.text(IFLA_INFO_SLAVE_KIND, "bridge");
            info.nest(IFLA_INFO_SLAVE_DATA | NESTED, |port| port.attribute(IFLA_BRPORT_ISOLATED, &[1]));
        });
        self.ask(request)
    }

    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        self.ask(Request::link(libc::RTM_NEWLINK, NLM_REQUEST_ACK, libc::AF_UNSPEC, index, UP))
    }

    pub fn remove_link(&mut self, index: u32) -> io::Result<()> {
        self.ask(Request::link(libc::RTM_DELLINK, NLM_REQUEST_ACK, libc::AF_UNSPEC, index, 0))
    }

    pub fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut request = Request::new(libc::RTM_NEWADDR, NLM_CREATE);
        request.bytes(&[libc::AF_INET as u8, prefix, 0, libc::RT_SCOPE_UNIVERSE]);
        request.bytes(&index.to_ne_bytes());
        request.attribute(libc::IFA_LOCAL, &address.octets());
        request.attribute(libc::IFA_ADDRESS, &address.octets());
        self.ask(request)
    }

    pub fn add_default_route(&mut self, gateway: Ipv4Addr, index: u32) -> io::Result<()> {
        let mut request = Request::new(libc::RTM_NEWROUTE, NLM_CREATE);
        let (table, protocol) = (libc::RT_TABLE_MAIN, libc::RTPROT_BOOT);
        request.bytes(&[libc::AF_INET as u8, 0, 0, 0, table, protocol, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST]);
        request.bytes(&0u32.to_ne_bytes());
        request.attribute(libc::RTA_GATEWAY, &gateway.octets());
        request.number(libc::RTA_OIF, index);
        self.ask(request)
    }

    fn ask(&mut self, mut request: Request) -> io::Result<()> {
        self.sequence += 1;
        request.finish(self.sequence);
        socket::send(self.socket.as_fd(), &request.buffer, &[])?;
        loop {
            let Some((answer, _)) = socket::receive(self.socket.as_fd(), true)? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            if let Some(result) = acknowledgement(&answer, self.sequence) {
                return result;
            }
        }
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// The kernel's verdict on request `sequence`, if `answer` holds it.
fn acknowledgement(answer: &[u8], sequence: u32) -> Option<io::Result<()>> {
    let word =
        |at: usize| answer.get(at..at + 4).map(|bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let kind = answer.get(4..6).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]))?;
    if kind != libc::NLMSG_ERROR as u16 || word(8)? != sequence {
        return None;
    }
    match word(16)? as i32 {
        0 => Some(Ok(())),
        code => Some(Err(io::Error::from_raw_os_error(-code))),
    }
}

struct Request {
    buffer: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: u16) -> Self {
        let mut buffer = Vec::with_capacity(256);
        buffer.extend(0u32.to_ne_bytes());
        buffer.extend(kind.to_ne_bytes());
        buffer.extend(flags.to_ne_bytes());
        buffer.extend([0; 8]);
        Self { buffer }
    }

    fn link(kind: u16, flags: u16, family: i32, index: u32, up: u32) -> Self {
        let mut request = Self::new(kind, flags);
        request.link_header(family, index, up);
        request
    }

    /// `struct ifinfomsg`; the flags that are set are also those that are changed.
    fn link_header(&mut self, family: i32, index: u32, flags: u32) {
        self.bytes(&[family as u8, 0, 0, 0]);
        self.bytes(&index.to_ne_bytes());
        self.bytes(&flags.to_ne_bytes());
        self.bytes(&flags.to_ne_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend(bytes);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |inner| inner.bytes(value));
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.nest(kind, |inner| {
            inner.bytes(value.as_bytes());
            inner.bytes(&[0]);
        });
    }

    /// An attribute whose value is what `fill` writes.
    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.buffer.len();
        self.bytes(&[0, 0]);
        self.bytes(&kind.to_ne_bytes());
        fill(self);
        let length = (self.buffer.len() - start) as u16;
        self.buffer[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.buffer.resize(self.buffer.len().next_multiple_of(4), 0);
    }

    fn finish(&mut self, sequence: u32) {
        let length = self.buffer.len() as u32;
        self.buffer[0..4].copy_from_slice(&length.to_ne_bytes());
        self.buffer[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_carry_their_own_length_and_are_padded() {
        let mut request = Request::new(1, 2);
        request.text(3, "ab");
        request.finish(9);
        assert_eq!(request.buffer.len(), 24);
        assert_eq!(request.buffer[0..4], 24u32.to_ne_bytes());
        assert_eq!(request.buffer[8..12], 9u32.to_ne_bytes());
        assert_eq!(request.buffer[16..], [7, 0, 3, 0, b'a', b'b', 0, 0]);
    }

    #[test]
    fn an_answer_to_another_request_is_skipped() {
        let mut answer = vec![0u8; 36];
        answer[4..6].copy_from_slice(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
        answer[8..12].copy_from_slice(&7u32.to_ne_bytes());
        answer[16..20].copy_from_slice(&(-libc::EEXIST).to_ne_bytes());
        assert!(acknowledgement(&answer, 6).is_none());
        let error = acknowledgement(&answer, 7).unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
    }
}
